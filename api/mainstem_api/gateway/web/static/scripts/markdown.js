// Markdown as elements. `marked` only cuts the text into tokens; the elements are made here, one by one, so that nothing a
// model writes is ever parsed as HTML: its tags stand there as text, its images are links, its links lead to the web only.

import { lexer } from "../vendor/marked/marked.esm.js";
import { el, icon } from "./dom.js";

const SAFE_LINK = /^(https?:|mailto:)/i;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", "#39": "'" };

const plain = (text) => text.replace(/&(amp|lt|gt|quot|apos|nbsp|#39);/g, (_, name) => ENTITIES[name]);

/** A text that grows: blocks that did not change keep their elements, and the last one grows where it can. */
export class Markdown {
  constructor() {
    this.node = el("div", { class: "markdown" });
    this.blocks = [];
    this.text = null;
  }

  update(text) {
    if (text === this.text) return;
    this.text = text;
    const tokens = lexer(text, { gfm: true, breaks: true }).filter((token) => token.type !== "space" && token.type !== "def");
    tokens.forEach((token, index) => this.place(token, index));
    for (const { node } of this.blocks.splice(tokens.length)) node.remove();
  }

  place(token, index) {
    const known = this.blocks[index];
    if (known?.token.raw === token.raw && known.token.type === token.type) return;
    if (known && grows(known, token)) {
      known.token = token;
      return;
    }
    const node = block(token);
    if (known) known.node.replaceWith(node);
    else this.node.append(node);
    this.blocks[index] = { token, node };
  }
}

/** Append what a paragraph's last piece of text gained, if that is all that changed: selections survive it. */
function grows({ token: before, node }, after) {
  if (before.type !== "paragraph" || after.type !== "paragraph" || before.tokens.length !== after.tokens.length) return false;
  const last = before.tokens.length - 1;
  const [old, now] = [before.tokens[last], after.tokens[last]];
  if (last < 0 || old.type !== "text" || now.type !== "text" || !now.text.startsWith(old.text)) return false;
  if (before.tokens.slice(0, last).some((token, i) => token.raw !== after.tokens[i].raw)) return false;
  const target = node.lastChild;
  if (target?.nodeType !== Node.TEXT_NODE || target.data !== plain(old.text)) return false;
  const grown = plain(now.text);
  if (!grown.startsWith(target.data)) return false;
  target.appendData(grown.slice(target.data.length));
  return true;
}

const BLOCKS = {
  heading: (t) => el(`h${Math.min(t.depth + 2, 6)}`, { data: { depth: t.depth } }, ...inline(t.tokens)),
  paragraph: (t) => el("p", {}, ...inline(t.tokens)),
  text: (t) => el("span", {}, ...(t.tokens ? inline(t.tokens) : [plain(t.text)])),
  blockquote: (t) => el("blockquote", {}, ...blocks(t.tokens)),
  hr: () => el("hr"),
  html: (t) => el("p", {}, t.text),
  code,
  list,
  table,
};

const INLINE = {
  text: (t) => (t.tokens ? el("span", {}, ...inline(t.tokens)) : plain(t.text)),
  escape: (t) => plain(t.text),
  strong: (t) => el("strong", {}, ...inline(t.tokens)),
  em: (t) => el("em", {}, ...inline(t.tokens)),
  del: (t) => el("del", {}, ...inline(t.tokens)),
  codespan: (t) => el("code", {}, t.text),
  br: () => el("br"),
  link: (t) => link(t.href, inline(t.tokens), t.raw),
  image: (t) => link(t.href, [t.text || t.href], t.raw),
  checkbox: () => null,
};

const blocks = (tokens) => tokens.filter((t) => t.type !== "space" && t.type !== "def").map(block);
const block = (token) => BLOCKS[token.type]?.(token) ?? el("p", {}, token.raw);
const inline = (tokens) => tokens.map((t) => (t.type in INLINE ? INLINE[t.type](t) : t.raw));

function link(href, children, raw) {
  if (!SAFE_LINK.test(href)) return raw;
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

function code(token) {
  const language = (token.lang ?? "").split(/\s/)[0];
  const copy = el("button", { type: "button", class: "button small quiet" }, "Copy");
  copy.addEventListener("click", () => copied(copy, token.text));
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, language || "text"), copy),
    el("pre", { tabindex: "0" }, el("code", {}, token.text)));
}

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

function list(token) {
  const items = token.items.map((item) => {
    const box = item.task ? el("input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": item.checked ? "done" : "open" }) : null;
    return el("li", { class: item.task ? "task" : "" }, box, ...blocks(item.tokens.filter((t) => t.type !== "checkbox")));
  });
  const start = token.ordered && token.start !== 1 ? token.start : null;
  return el(token.ordered ? "ol" : "ul", { start }, ...items);
}

function table(token) {
  const cell = (kind) => (given) => el(kind, { class: given.align ? `align-${given.align}` : "" }, ...inline(given.tokens));
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, el("table", {},
    el("thead", {}, el("tr", {}, ...token.header.map(cell("th")))),
    el("tbody", {}, ...token.rows.map((row) => el("tr", {}, ...row.map(cell("td")))))));
}
