// The parts of an answer: text, reasoning, tool calls. Each view is made once and updated from the fold from then on.

import { el, icon, setText } from "./dom.js";
import { Markdown } from "./markdown.js";

/** All parts of a run's content, in order. */
export class Parts {
  constructor() {
    this.node = el("div", { class: "parts" });
    this.views = [];
    this.inputs = new Map();
  }

  /** Show a fold. Views whose part became another kind of part (after a restart, say) are made again. */
  update(fold, { streaming }) {
    fold.content.forEach((part, index) => {
      const key = part.type === "tool_call" ? `call ${part.call_id}` : part.type;
      let known = this.views[index];
      if (known?.key !== key) {
        const view = new (VIEWS[part.type] ?? Unknown)();
        if (known) known.view.node.replaceWith(view.node);
        else this.node.append(view.node);
        known = this.views[index] = { key, view };
      }
      known.view.update(part, { last: index === fold.content.length - 1, streaming, fold });
    });
    for (const { view } of this.views.splice(fold.content.length)) view.node.remove();
    this.said(fold.inputs);
  }

  /** Show what users said meanwhile, where the engine read it: before the part that follows. */
  said(inputs) {
    for (const { input_id: id, text, part } of inputs) {
      let node = this.inputs.get(id);
      if (!node) this.inputs.set(id, node = el("p", { class: "bubble steered", data: { input: id } }, text));
      const next = this.views[part]?.view.node ?? null;
      if (!node.parentNode || node.nextSibling !== next) this.node.insertBefore(node, next);
    }
    for (const [id, node] of this.inputs) {
      if (inputs.some((input) => input.input_id === id)) continue;
      node.remove();
      this.inputs.delete(id);
    }
  }
}

class Text {
  constructor() {
    this.markdown = new Markdown();
    this.node = this.markdown.node;
    this.node.dataset.part = "text";
  }

  update(part, { last, streaming }) {
    this.markdown.update(part.text);
    this.node.classList.toggle("streaming", last && streaming);
  }
}

class Reasoning {
  constructor() {
    this.label = el("span", {}, "Thinking");
    this.body = el("div", { class: "reasoning-text" });
    this.node = el("details", { class: "reasoning" }, el("summary", {}, icon("chevron"), this.label), this.body);
    this.node.dataset.part = "reasoning";
  }

  update(part, { last, streaming }) {
    setText(this.label, last && streaming ? "Thinking …" : "Thoughts");
    this.node.classList.toggle("streaming", last && streaming);
    if (part.text.startsWith(this.body.textContent) && this.body.firstChild) {
      this.body.firstChild.appendData(part.text.slice(this.body.textContent.length));
    } else {
      setText(this.body, part.text);
    }
  }
}

const CALL_STATES = {
  streaming: "preparing", called: "running", completed: "done", failed: "failed", aborted: "stopped",
};
const DECIDED = { approve: "approved", edit: "approved with changes", respond: "answered for it" };

class ToolCall {
  constructor() {
    this.name = el("span", { class: "call-name" });
    this.note = el("span", { class: "call-note" });
    this.state = el("span", { class: "chip" });
    this.given = el("pre", { tabindex: "0", "aria-label": "Arguments" });
    this.result = el("pre", { tabindex: "0", "aria-label": "Result" });
    this.resultRow = el("div", { class: "call-row" }, el("p", { class: "call-label" }, "Result"), this.result);
    this.node = el("details", { class: "call" },
      el("summary", {}, icon("tool"), this.name, this.note, this.state, icon("chevron")),
      el("div", { class: "call-body" }, el("div", { class: "call-row" }, el("p", { class: "call-label" }, "Arguments"), this.given), this.resultRow));
    this.node.dataset.part = "tool_call";
  }

  update(part, { fold }) {
    const waits = fold.action?.calls?.some((call) => call.call_id === part.call_id);
    const decision = fold.decisions.get(part.call_id);
    this.node.hidden = Boolean(waits); // its approval's card says the same, and more
    setText(this.name, part.name);
    setText(this.note, DECIDED[decision?.type] ?? brief(part.arguments));
    const rejected = decision?.type === "reject" && part.state === "failed";
    setText(this.state, rejected ? "rejected" : CALL_STATES[part.state] ?? part.state);
    this.state.dataset.state = rejected ? "rejected" : part.state;
    setText(this.given, pretty(part.arguments));
    setText(this.result, pretty(part.result));
    this.resultRow.hidden = part.result === null;
  }
}

class Unknown {
  constructor() {
    this.node = el("pre", { class: "unknown" });
  }

  update(part) {
    setText(this.node, pretty(part));
  }
}

const VIEWS = { text: Text, reasoning: Reasoning, tool_call: ToolCall };

export const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function brief(value) {
  if (typeof value === "string") return value.slice(0, 80);
  const words = Object.entries(value ?? {}).map(([name, given]) => `${name}: ${JSON.stringify(given)}`);
  const line = words.join(", ");
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
}
