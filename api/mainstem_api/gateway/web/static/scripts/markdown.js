// Markdown as elements. A worker makes trees of the text (`parsing.js`); the elements are made here from the trees, one by
// one, so that nothing a model writes is ever parsed as HTML: its tags stand there as text, its images are links, its links
// lead to the web only. What has no tree within the bounds is shown as the plain text that it is.

import { breath, el, icon } from "./dom.js";
import { parse } from "./parsing.js";
import { Segments } from "./segments.js";
import { isDense } from "./values.js";

const STRIKES = 6; // segments without a tree, after which the rest of an answer is plain text
const LARGEST = 20_000; // nodes of an answer, after which the rest of it is plain text
const SLOW_MS = 50; // for one segment; parsing what people and models ordinarily write takes 2 …
const SLOWEST_MS = 5_000; // … and all slow segments of an answer so much, after which the rest of it is plain text
const DEFINITIONS = 200; // of links, that are kept of an answer
const LONG = 100_000; // characters from which on browsers lay out only what is in view
const PATIENCE_MS = 150; // before a text without its tree is shown as it is for the time being
const SLICE_MS = 8;

/** What one answer may cost, over all its parts. */
export class Budget {
  constructor() {
    this.size = 0;
    this.strikes = 0;
    this.slow = 0;
  }

  get spent() { return this.size > LARGEST || this.strikes >= STRIKES || this.slow > SLOWEST_MS; }

  /** Return the tree of a segment, or null. */
  async parse({ prefix, source }, links) {
    const { tree, ms } = await parse(prefix + source, [...links]);
    if (!tree) this.strikes += 1;
    if (ms > SLOW_MS) this.slow += ms;
    return tree;
  }
}

/** A text that grows: segments that are complete keep their elements, and the last one grows where it can. */
export class Markdown {
  /** `budget`: null for text that is no Markdown. `shown()` is called when everything is shown that there is so far. */
  constructor({ budget = null, shown = () => {} } = {}) {
    this.node = el("div", { class: "markdown" });
    this.budget = budget;
    this.shown = shown;
    this.text = "";
    this.streaming = true;
    this.settled = true;
    this.forget(0);
  }

  update(text, { streaming = false } = {}) {
    if (text === this.text && streaming === this.streaming) return;
    if (!text.startsWith(this.text)) this.rewind(text);
    this.text = text;
    this.streaming = streaming;
    this.changed = true;
    if (text.length > LONG) this.node.classList.add("long");
    if (this.settled) this.work();
  }

  close() {
    this.closed = true;
  }

  /** Keep the segments that another text begins with, too. */
  rewind(text) {
    const wrong = this.records.findIndex((record) => record.segment.open || !text.startsWith(record.segment.source, record.segment.start));
    this.forget(wrong === -1 ? this.records.length : wrong);
  }

  forget(from) {
    const gone = this.records?.splice(from) ?? [];
    for (const { blocks } of gone) for (const { element } of blocks) element.remove();
    this.records ??= [];
    this.segments = new Segments(this.records.at(-1)?.segment);
    this.links ??= new Map();
    this.generation = (this.generation ?? 0) + 1;
  }

  /** Show segment by segment until all is shown; the page gets its turn in between. */
  async work() {
    this.settled = false;
    let began = performance.now();
    do {
      this.changed = false;
      while (!this.closed && (await this.step())) {
        if (performance.now() - began < SLICE_MS) continue;
        await breath();
        began = performance.now();
      }
    } while (this.changed && !this.closed);
    this.settled = true;
    this.shown();
  }

  /** Show one more segment, or the same one again if it grew; returns whether there was one. */
  async step() {
    const segment = this.segments.next(this.text);
    const last = this.records.at(-1);
    if (segment.source === "" || (last?.segment.start === segment.start && last.segment.source === segment.source)) {
      if (last && segment.source) last.segment = segment; // it is closed now, perhaps
      if (!segment.open) return true;
      return !this.streaming && this.relink();
    }
    const { generation } = this;
    const tree = await this.tree(segment);
    if (generation === this.generation && !this.closed) this.show(segment, tree);
    return true;
  }

  async tree(segment) {
    if (!this.budget || this.budget.spent) return null;
    const known = this.records.at(-1)?.segment.start === segment.start;
    const timer = known ? 0 : setTimeout(() => this.show(segment, null), PATIENCE_MS);
    const tree = await this.budget.parse(segment, this.links);
    clearTimeout(timer);
    return tree;
  }

  show(segment, tree) {
    let record = this.records.at(-1);
    if (record?.segment.start !== segment.start) this.records.push(record = { blocks: [] });
    Object.assign(record, { segment, links: this.links.size });
    this.place(record, tree?.blocks ?? [plain(segment.source)], null);
    if (!tree) return;
    this.budget.size += tree.size - (record.size ?? 0);
    record.size = tree.size;
    for (const [label, link] of tree.links) if (this.links.size < DEFINITIONS) this.links.set(label, link);
  }

  /** Show segments again that may use links which were defined after them; returns whether there was one. */
  async relink() {
    const index = this.records.findIndex(({ segment, links }) => links < this.links.size && segment.source.includes("["));
    const record = this.records[index];
    if (!record || !this.budget || this.budget.spent) return false;
    const { generation } = this;
    const tree = await this.budget.parse(record.segment, this.links);
    if (generation !== this.generation || this.closed) return true;
    record.links = this.links.size;
    const next = this.records.slice(index + 1).find(({ blocks }) => blocks.length);
    if (tree) this.place(record, tree.blocks, next?.blocks[0].element ?? null);
    return true;
  }

  /** Give a segment its blocks, before an element of the next one; those that did not change keep their elements. */
  place(record, blocks, before) {
    for (const { element } of record.blocks.splice(blocks.length)) element.remove();
    blocks.forEach(({ key, node, dense }, index) => {
      const known = record.blocks[index];
      if (known?.key === key) return;
      if (dense) known?.element.classList.add("dense"); // before it grows
      if (known && grows(known, node)) {
        Object.assign(known, { key, node });
        return;
      }
      const element = build(node);
      element.classList.toggle("dense", dense);
      element.style.containIntrinsicSize = `auto ${expected(key)}px`; // for `.long`
      if (known) known.element.replaceWith(element);
      else this.node.insertBefore(element, before);
      record.blocks[index] = { key, node, element };
    });
  }
}

const plain = (source) => ({ key: `plain ${source}`, dense: isDense(source), node: ["div", { class: "plain" }, source.replace(/\n+$/, "\n")] });

/** Return about how high a text will be, in pixels. */
const expected = (text) => 24 * Math.ceil(text.length / 85);

/** Append what a block's last piece of text gained, if that is all that changed: selections survive it. */
function grows({ element, node: before }, after) {
  if (before[0] === "code-block" && after[0] === "code-block" && before[1].language === after[1].language && before[2]) {
    return extended(element.querySelector("code").firstChild, before[2], after[2]);
  }
  const last = before.length - 1;
  if (last < 2 || after.length !== before.length || !["p", "div"].includes(before[0])) return false;
  const [old, now] = [before[last], after[last]];
  if (typeof old !== "string" || typeof now !== "string") return false;
  if (JSON.stringify(before.slice(0, last)) !== JSON.stringify(after.slice(0, last))) return false;
  return extended(element.lastChild, old, now);
}

function extended(target, old, now) {
  if (target?.nodeType !== Node.TEXT_NODE || target.data !== old || !now.startsWith(old)) return false;
  target.appendData(now.slice(old.length));
  return true;
}

/** Return the element of a tree (`trees.js`). */
function build(node) {
  if (typeof node === "string") return node;
  const [tag, properties, ...children] = node;
  return SPECIAL[tag]?.(properties, children) ?? el(tag, properties ?? {}, ...children.map(build));
}

const SPECIAL = {
  "code-block": ({ language }, [text]) => {
    const copy = el("button", { type: "button", class: "button small quiet" }, "Copy");
    const code = el("code", {}, text);
    copy.addEventListener("click", () => copied(copy, code.textContent));
    return el("figure", { class: "code" },
      el("figcaption", {}, el("span", {}, language || "text"), copy),
      el("pre", { tabindex: "0" }, code));
  },
  "table-block": (_, [head, ...rows]) => el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    el("table", {}, el("thead", {}, build(head)), el("tbody", {}, ...rows.map(build)))),
};

/** Copy text, and say so on the button for a moment. */
export async function copied(button, text) {
  const before = [...button.childNodes];
  try {
    await navigator.clipboard.writeText(text);
    button.replaceChildren(icon("check"), "Copied");
  } catch {
    button.replaceChildren("Not allowed");
  }
  setTimeout(() => button.replaceChildren(...before), 1500);
}
