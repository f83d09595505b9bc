// Markdown as trees of plain data, for the worker that parses (`treeworker.js`): `marked` cuts the text into tokens, and this
// keeps of them what the page shows. A tree has bounds, because a model writes it: a text that exceeds them has no tree.

import { Lexer } from "../vendor/marked/marked.esm.js";
import { isDense } from "./values.js";

const DEEPEST = 24; // nested blocks and inline elements: more is an attack or an accident
const LARGEST = 3_000; // nodes of one segment
const DEFINITIONS = 200;
const SAFE_LINK = /^(https?:|mailto:)/i;
const LONGEST_LINK = 2_000;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", "#39": "'" };

const plain = (text) => text.replace(/&(amp|lt|gt|quot|apos|nbsp|#39);/g, (_, name) => ENTITIES[name]);
const shows = (token) => token.type !== "space" && token.type !== "def";

/** A text has more structure than a page should show. */
class TooMuch extends Error {}

/**
 * Return `{ blocks, links, size }`, or null where the text is beyond the bounds or the parser. A block is
 * `{ key, node, dense }`, a node a string or `[tag, properties, ...nodes]`. `known`: link definitions from earlier, as `[label, definition]`.
 */
export function tree(source, known = []) {
  try {
    const lexer = new Lexer({ gfm: true, breaks: true });
    for (const [label, definition] of known) lexer.tokens.links[label] = definition;
    const tokens = lexer.lex(source).filter(shows);
    const builder = new Builder();
    const blocks = tokens.map((token) => ({ key: `${token.type} ${token.raw}`, dense: isDense(token.raw), node: builder.block(token, 0) }));
    return { blocks, links: definitions(tokens.links ?? lexer.tokens.links), size: builder.size };
  } catch { // too much of it, or too deep for the parser's recursion: the text is shown as it is
    return null;
  }
}

const definitions = (links) => Object.entries(links).slice(0, DEFINITIONS).filter(([label, { href, title }]) => label.length + href.length + (title ?? "").length < LONGEST_LINK);

class Builder {
  constructor() {
    this.size = 0;
  }

  block(token, depth) {
    this.count(depth);
    return this[`block_${token.type}`]?.(token, depth + 1) ?? ["p", null, token.raw];
  }

  blocks(tokens, depth) {
    return tokens.filter(shows).map((token) => this.block(token, depth));
  }

  inline(tokens, depth) {
    const nodes = [];
    for (const token of tokens) {
      this.count(depth);
      const made = this[`inline_${token.type}`]?.(token, depth + 1);
      const node = made === undefined ? token.raw : made;
      if (typeof node === "string" && typeof nodes.at(-1) === "string") nodes.push(nodes.pop() + node); // one text, not many
      else if (node !== null) nodes.push(node);
    }
    return nodes;
  }

  count(depth) {
    this.size += 1;
    if (depth > DEEPEST || this.size > LARGEST) throw new TooMuch();
  }

  block_heading(t, d) { return [`h${Math.min(t.depth + 2, 6)}`, { data: { depth: t.depth } }, ...this.inline(t.tokens, d)]; }

  block_paragraph(t, d) { return ["p", null, ...this.inline(t.tokens, d)]; }

  block_text(t, d) { return ["span", null, ...(t.tokens ? this.inline(t.tokens, d) : [plain(t.text)])]; }

  block_blockquote(t, d) { return ["blockquote", null, ...this.blocks(t.tokens, d)]; }

  block_hr() { return ["hr", null]; }

  block_html(t) { return ["p", null, t.text]; }

  block_code(t, d) {
    for (let i = 0; i < 5; i += 1) this.count(d); // its frame, its button
    return ["code-block", { language: (t.lang ?? "").split(/\s/)[0].slice(0, 40) }, t.text];
  }

  block_list(t, d) {
    const start = t.ordered && t.start !== 1 ? t.start : null;
    return [t.ordered ? "ol" : "ul", { start }, ...t.items.map((item) => this.item(item, d))];
  }

  item(item, depth) {
    this.count(depth);
    const box = item.task ? [["input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": item.checked ? "done" : "open" }]] : [];
    return ["li", { class: item.task ? "task" : "" }, ...box, ...this.blocks(item.tokens.filter((t) => t.type !== "checkbox"), depth + 1)];
  }

  block_table(t, d) {
    return ["table-block", null, this.row("th", t.header, d), ...t.rows.map((row) => this.row("td", row, d))];
  }

  row(kind, cells, depth) {
    this.count(depth);
    return ["tr", null, ...cells.map((cell) => {
      this.count(depth);
      return [kind, { class: cell.align ? `align-${cell.align}` : "" }, ...this.inline(cell.tokens, depth + 1)];
    })];
  }

  inline_text(t, d) { return t.tokens ? ["span", null, ...this.inline(t.tokens, d)] : plain(t.text); }

  inline_escape(t) { return plain(t.text); }

  inline_strong(t, d) { return ["strong", null, ...this.inline(t.tokens, d)]; }

  inline_em(t, d) { return ["em", null, ...this.inline(t.tokens, d)]; }

  inline_del(t, d) { return ["del", null, ...this.inline(t.tokens, d)]; }

  inline_codespan(t) { return ["code", null, t.text]; }

  inline_br() { return ["br", null]; }

  inline_checkbox() { return null; }

  inline_link(t, d) { return link(t.href, t.raw, () => this.inline(t.tokens, d)); }

  inline_image(t) { return link(t.href, t.raw, () => [t.text || t.href]); }
}

function link(href, raw, children) {
  if (!SAFE_LINK.test(href) || href.length > LONGEST_LINK) return raw;
  return ["a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children()];
}
