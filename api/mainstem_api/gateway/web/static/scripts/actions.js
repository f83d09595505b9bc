// What a paused run waits for: tool calls to decide about, questions to answer. What is decided goes to the gateway once it
// is complete; a decision made elsewhere, in another tab say, takes the card away.

import * as api from "./api.js";
import { announce, el, icon, setText, span } from "./dom.js";
import { clip, isWhole, line, pretty } from "./values.js";

const HOUR_MS = 3_600_000;

/** The card of one action. */
export class ActionCard {
  constructor(runId, action) {
    this.runId = runId;
    this.action = action;
    this.error = el("p", { class: "card-error", role: "alert", hidden: true });
    this.expiry = el("span", { class: "expiry" });
    const { calls = [], questions = [] } = action;
    const isQuestion = !calls.length, alone = calls.length === 1 && !questions.length;
    this.calls = calls.map((call) => new Call(call, { alone, changed: () => this.changed(), done: () => this.send() }));
    this.questions = questions.map((question) => new Question(question, () => this.changed()));
    this.asked = [...this.calls, ...this.questions];
    const title = isQuestion ? "A question for you" : questions.length ? "Needs your decisions" : this.asked.length > 1 ? `${this.asked.length} tool calls need your approval` : "Needs your approval";
    this.submit = el("button", { type: "button", class: "button primary", on: { click: () => this.send() } }, isQuestion ? "Answer" : "Send decisions");
    this.bar = el("div", { class: "card-bar" }, this.submit);
    this.bar.hidden = alone;
    this.node = el("section", { class: "action-card", "aria-label": title },
      el("header", {}, icon(isQuestion ? "ask" : "shield"), el("h3", {}, title), this.expiry),
      ...this.asked.map((one) => one.node), this.error, this.bar);
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.send(); }
    });
    this.changed();
    this.tick();
    const asks = [calls.map((c) => c.name).join(", "), ...questions.map((q) => q.text)].filter(Boolean).join(" ");
    announce(`${title}: ${line(asks, 500)}`);
  }

  tick() {
    const left = Date.parse(this.action.expires_at) - Date.now();
    const words = left > 2 * HOUR_MS ? `${Math.floor(left / HOUR_MS)} h` : span(left);
    setText(this.expiry, left > 0 ? `${words} left` : "expired");
    this.expiry.title = `Until ${new Date(this.action.expires_at).toLocaleString()}`;
  }

  changed() {
    this.submit.disabled = !this.asked.every((one) => one.decision());
  }

  async send() {
    const decisions = this.calls.map((one) => one.decision()), answers = this.questions.map((one) => one.decision());
    if (this.sending || [...decisions, ...answers].some((one) => !one)) return;
    this.lock(true);
    this.error.hidden = true;
    const given = { ...(decisions.length ? { decisions } : {}), ...(answers.length ? { answers } : {}) };
    try {
      await api.resume(this.runId, { action_id: this.action.action_id, ...given });
      announce("Decision sent.");
    } catch (error) {
      this.lock(false);
      setText(this.error, error.message);
      this.error.hidden = false;
    }
  }

  lock(locked) {
    this.sending = locked;
    this.node.classList.toggle("sending", locked);
    this.node.querySelectorAll("button, input, textarea").forEach((field) => { field.disabled = locked; });
    if (!locked) this.changed();
  }
}

const LABELS = { approve: "Approve", edit: "Edit", respond: "Answer instead", reject: "Reject" };

/** One tool call: buttons for what its policy allows; edit, respond and reject open a field first. */
class Call {
  constructor(call, { alone, changed, done }) {
    this.call = call;
    this.alone = alone;
    this.changed = changed;
    this.done = done;
    this.chosen = null;
    this.buttons = new Map();
    const bar = this.bar = el("div", { class: "decisions", role: "group", "aria-label": `Decide about ${call.name}` });
    for (const type of ["approve", "edit", "respond", "reject"]) {
      if (!call.allowed_decisions.includes(type)) continue;
      const button = el("button", { type: "button", class: alone && type === "approve" ? "button primary" : "button", data: { decision: type } }, LABELS[type]);
      button.addEventListener("click", () => this.choose(type));
      this.buttons.set(type, button);
      bar.append(button);
    }
    this.field = el("div", { class: "decision-field", hidden: true });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // it closes the field; it does not stop the run
      this.back();
    });
    this.given = shown(call.arguments);
    this.node = el("div", { class: "asked", data: { call: call.call_id } },
      el("p", { class: "asked-name" }, el("code", {}, line(call.name)), call.reason ? ` ${clip(call.reason)}` : null),
      this.given, this.field, bar);
  }

  choose(type) {
    this.chosen = this.chosen === type && type !== "approve" ? null : type;
    for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", String(name === this.chosen));
    this.field.replaceChildren();
    this.field.hidden = !this.chosen || this.chosen === "approve";
    this.input = null;
    if (!this.field.hidden) this.ask();
    this.bar.hidden = this.alone && !this.field.hidden;
    this.given.hidden = this.chosen === "edit"; // the field has them
    this.changed();
    if (this.chosen === "approve" && this.alone) this.done();
  }

  /** Show the field of a decision that has one; alone, with a button that sends it. */
  ask() {
    const given = this.call.arguments;
    const written = isWhole(given) ? pretty(given) : JSON.stringify(given); // all of it: what is sent back replaces it
    const [label, value, rows, confirm] = {
      edit: ["Arguments, as JSON", written, Math.min(12, written.split("\n").length), "Approve with changes"],
      respond: ["What to use as the tool’s result", "", 2, "Send answer"],
      reject: ["Reason (optional)", "", 1, "Reject"],
    }[this.chosen];
    this.hint = el("p", { class: "field-hint", role: "status" });
    this.input = el("textarea", { rows, spellcheck: this.chosen === "edit" ? "false" : null, class: this.chosen === "edit" ? "mono" : "" });
    this.input.value = value;
    this.confirm = this.alone ? el("button", { type: "button", class: `button ${this.chosen === "reject" ? "danger" : "primary"}`, data: { confirm: this.chosen }, on: { click: this.done } }, confirm) : null;
    this.input.addEventListener("input", () => this.judge());
    this.field.append(el("label", {}, el("span", {}, label), this.input), this.hint);
    if (this.alone) {
      const back = el("button", { type: "button", class: "button quiet", on: { click: () => this.back() } }, "Back");
      this.field.append(el("div", { class: "decisions" }, this.confirm, back));
    }
    this.judge();
    this.input.focus();
    requestAnimationFrame(() => this.node.scrollIntoView({ block: "nearest" })); // its buttons, too
  }

  /** Close the field without a decision. */
  back() {
    const { chosen } = this;
    this.choose(chosen);
    this.buttons.get(chosen).focus();
  }

  judge() {
    setText(this.hint, this.problem() ?? "");
    if (this.confirm) this.confirm.disabled = !this.decision();
    this.changed();
  }

  problem() {
    if (this.chosen !== "edit") return null;
    try {
      const parsed = JSON.parse(this.input.value);
      return parsed && typeof parsed === "object" && !Array.isArray(parsed) ? null : "The arguments must be a JSON object.";
    } catch (error) {
      return `No JSON yet: ${error.message}`;
    }
  }

  decision() {
    const decided = { call_id: this.call.call_id, type: this.chosen };
    const text = this.input?.value.trim() ?? "";
    switch (this.chosen) {
      case "approve": return decided;
      case "edit": return this.problem() ? null : { ...decided, arguments: JSON.parse(this.input.value) };
      case "respond": return text ? { ...decided, text } : null;
      case "reject": return text ? { ...decided, reason: text } : decided;
      default: return null;
    }
  }
}

/** Show arguments to people: names and values where they are few and flat, else JSON. */
function shown(given) {
  const entries = Object.entries(given);
  const flat = entries.length && entries.length <= 8 && entries.every(([, value]) => value === null || typeof value !== "object");
  if (!flat) return el("pre", { class: "asked-arguments", tabindex: "0", "aria-label": "Arguments" }, pretty(given));
  const rows = entries.flatMap(([name, value]) => [el("dt", {}, line(name)), el("dd", {}, pretty(value))]);
  return el("dl", { class: "asked-arguments", "aria-label": "Arguments" }, ...rows);
}

/** One question: free text; options only suggest. */
class Question {
  constructor(question, changed) {
    this.question = question;
    this.input = el("textarea", { rows: 1, placeholder: "Your answer" });
    this.input.addEventListener("input", changed);
    const options = (question.options ?? []).map((option) => {
      const button = el("button", { type: "button", class: "button small" }, line(option));
      button.addEventListener("click", () => { this.input.value = option; changed(); this.input.focus(); });
      return button;
    });
    this.node = el("div", { class: "asked", data: { question: question.question_id } },
      el("label", {}, el("span", { class: "question-text" }, clip(question.text)), this.input),
      question.type === "data" ? el("pre", { class: "asked-arguments", tabindex: "0", "aria-label": "Data" }, pretty(question.value)) : null,
      question.response_schema ? el("p", { class: "field-hint" }, `JSON that fits: ${clip(JSON.stringify(question.response_schema))}`) : null,
      options.length ? el("div", { class: "options" }, ...options) : null);
  }

  decision() {
    const text = this.input.value.trim();
    return text ? { question_id: this.question.question_id, text: this.input.value } : null;
  }
}
