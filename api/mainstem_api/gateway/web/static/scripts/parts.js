// The parts of an answer: text, reasoning, tool calls. Each view is made once and updated from the fold from then on.

import { attachment } from "./attachments.js";
import { el, icon, setText } from "./dom.js";
import { Budget, Markdown } from "./markdown.js";
import { brief, clip, line, pretty } from "./values.js";

const MOST = 300; // parts that are shown of one answer while it grows …
const KEPT = 100; // … and that stay when there are more; those before them show when somebody asks

/** The parts of a run's content, in order. `shown()` is called when everything is shown that there is so far. */
export class Parts {
  constructor(shown) {
    this.node = el("div", { class: "parts" });
    this.shown = shown;
    this.views = []; // of the parts from `first` on
    this.first = 0;
    this.budget = new Budget();
    this.inputs = new Map();
    this.more = el("button", { type: "button", class: "button quiet earlier-parts", on: { click: () => this.earlier() } });
  }

  /** Whether everything is shown that there is so far. */
  get settled() { return this.views.every(({ view }) => view.settled !== false); }

  /** Show a fold. Views whose part became another kind of part (after a restart, say) are made again. */
  update(fold, { streaming }) {
    this.latest = { fold, streaming };
    const { content } = fold;
    if (this.first >= content.length) this.begin(0);
    if (content.length - this.first > MOST && !this.asked) this.begin(content.length - KEPT);
    const pending = new Set((fold.action?.calls ?? []).map((call) => call.call_id));
    for (let index = this.first; index < content.length; index += 1) {
      const last = index === content.length - 1;
      this.view(content[index], index - this.first).update(content[index], { last, streaming, fold, pending });
    }
    this.drop(this.views.splice(content.length - this.first));
    this.said(fold.inputs);
  }

  /** Return the view at a place, made anew if the part there is of another kind. */
  view(part, place) {
    const key = part.type === "tool_call" ? `call ${part.call_id}` : part.type;
    const known = this.views[place];
    if (known?.key === key) return known.view;
    const view = new (VIEWS[part.type] ?? Unknown)({ budget: this.budget, shown: () => { if (this.settled) this.shown(); } });
    if (known) known.view.node.before(view.node);
    else this.node.append(view.node);
    if (known) this.drop([known]);
    this.views[place] = { key, view };
    return view;
  }

  drop(views) {
    for (const { view } of views) {
      view.close?.();
      view.node.remove();
    }
  }

  close() {
    for (const { view } of this.views) view.close?.();
  }

  /** Show parts from one on, and a button for those before it. */
  begin(first) {
    if (first > this.first) this.drop(this.views.splice(0, first - this.first));
    else this.drop(this.views.splice(0));
    this.first = first;
    setText(this.more, `Show earlier parts (${first.toLocaleString("en")})`);
    if (first) this.node.prepend(this.more);
    else this.more.remove();
  }

  /** Show more of what came before; from now on nothing goes by itself. */
  earlier() {
    this.asked = true;
    this.begin(Math.max(0, this.first - KEPT));
    this.update(this.latest.fold, this.latest);
  }

  /** Show what users said meanwhile, where the engine read it: before the part that follows. */
  said(inputs) {
    const visible = inputs.filter(({ part }) => part >= this.first).slice(-MOST);
    for (const { input_id: id, text, part } of visible) {
      let node = this.inputs.get(id);
      if (!node) this.inputs.set(id, node = el("p", { class: "bubble steered", data: { input: id } }, clip(text)));
      const next = this.views[part - this.first]?.view.node ?? null;
      if (!node.parentNode || node.nextSibling !== next) this.node.insertBefore(node, next);
    }
    const ids = new Set(visible.map((input) => input.input_id));
    for (const [id, node] of this.inputs) {
      if (ids.has(id)) continue;
      node.remove();
      this.inputs.delete(id);
    }
  }
}

class Text {
  constructor({ budget, shown }) {
    this.markdown = new Markdown({ budget, shown });
    this.node = this.markdown.node;
    this.node.dataset.part = "text";
  }

  get settled() { return this.markdown.settled; }

  update(part, { last, streaming }) {
    this.markdown.update(part.text, { streaming: last && streaming });
    this.node.classList.toggle("streaming", last && streaming);
  }

  close() { this.markdown.close(); }
}

class Reasoning {
  constructor({ shown }) {
    this.label = el("span", {}, "Thinking");
    this.text = new Markdown({ shown }); // without a budget, it shows plain text
    this.text.node.className = "reasoning-text";
    this.node = el("details", { class: "reasoning" }, el("summary", {}, icon("chevron"), this.label), this.text.node);
    this.node.dataset.part = "reasoning";
  }

  get settled() { return this.text.settled; }

  update(part, { last, streaming }) {
    setText(this.label, last && streaming ? "Thinking …" : "Thoughts");
    this.node.classList.toggle("streaming", last && streaming);
    this.text.update(part.text, { streaming: last && streaming });
  }

  close() { this.text.close(); }
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
    this.node.addEventListener("toggle", () => this.fill());
  }

  update(part, { fold, pending }) {
    const decision = fold.decisions.get(part.call_id);
    const seen = [part.name, part.arguments, part.result, part.state, decision, pending.has(part.call_id)];
    if (this.seen?.every((value, index) => value === seen[index])) return;
    this.seen = seen;
    this.part = part;
    this.node.hidden = pending.has(part.call_id); // its approval's card says the same, and more
    setText(this.name, line(part.name));
    setText(this.note, DECIDED[decision?.type] ?? brief(part.arguments));
    const rejected = decision?.type === "reject" && part.state === "failed";
    setText(this.state, rejected ? "rejected" : CALL_STATES[part.state] ?? part.state);
    this.state.dataset.state = rejected ? "rejected" : part.state;
    this.resultRow.hidden = part.result === null;
    this.fill();
  }

  /** Write down arguments and result, once somebody looks. */
  fill() {
    if (!this.node.open) return;
    setText(this.given, pretty(this.part.arguments));
    setText(this.result, pretty(this.part.result));
  }
}

const AGENT_STATES = { running: "at work", completed: "done", failed: "failed", aborted: "stopped" };

/** A value of the engine's own; that of a sub-agent is what it says. */
class Data {
  constructor() {
    this.name = el("span", { class: "call-name" });
    this.state = el("span", { class: "chip" });
    this.text = el("pre", { tabindex: "0" });
    this.node = el("details", { class: "call" }, el("summary", {}, icon("tool"), this.name, this.state, icon("chevron")), el("div", { class: "call-body" }, this.text));
    this.node.dataset.part = "data";
  }

  update({ name, value }) {
    const agent = name === "agent" && typeof value?.agent === "string" ? value : null;
    setText(this.name, line(agent ? agent.agent : name));
    setText(this.state, agent ? AGENT_STATES[agent.state] ?? "" : "");
    this.state.hidden = !agent;
    setText(this.text, agent && typeof agent.text === "string" ? clip(agent.text) : pretty(value));
  }
}

/** A file that the engine made. */
class File {
  constructor() {
    this.node = el("div", { class: "attachments made" });
    this.node.dataset.part = "file";
  }

  update(part) {
    if (this.url === part.url) return;
    this.url = part.url;
    this.node.replaceChildren(attachment(part));
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

const VIEWS = { text: Text, reasoning: Reasoning, tool_call: ToolCall, data: Data, file: File, refusal: Text };
