// What a user said: its text, its files, and the ways to say it anew. Answers have the same switch between siblings.

import { attachment } from "./attachments.js";
import { el, icon } from "./dom.js";
import { textOf } from "./exchanges.js";
import { clip, isDense, pretty } from "./values.js";

const LONGEST = 100_000; // characters that are shown; all of them are kept, sent and edited

/** Return the switch between a message and its siblings (`‹ 2/3 ›`); null if it has none. `open(id)` shows another one. */
export function switcher(message, what, open) {
  const { siblings } = message;
  const at = siblings.indexOf(message.id);
  if (siblings.length < 2 || at < 0) return null;
  const step = (by, label, mark) => {
    const other = siblings[at + by];
    const button = el("button", { type: "button", class: "icon-button small", "aria-label": `${label} ${what}`, disabled: !other }, mark);
    button.addEventListener("click", () => open(other));
    return button;
  };
  return el("span", { class: "switcher", role: "group", "aria-label": `Versions of this ${what}` },
    step(-1, "Previous", "‹"), el("span", {}, `${at + 1}/${siblings.length}`), step(1, "Next", "›"));
}

/** Return what was said at the end of a thread and not answered. */
export function unanswered(said, host) {
  return el("article", { class: "turn unanswered", "aria-label": "Not answered" }, ...said.map((message) => new Said(message, host).node));
}

/** The view of one message of a user. `host`: `edit(message, text)` says it anew, `open(id)` shows a sibling. */
export class Said {
  constructor(message, host) {
    this.message = message;
    this.host = host;
    this.text = textOf(message);
    this.node = el("div", { class: "said", data: { message: message.id } });
    this.show();
  }

  show() {
    const { message, text } = this;
    const files = message.parts.filter(({ type }) => type === "file").map(attachment);
    const others = message.parts.filter(({ type }) => !["text", "file"].includes(type));
    const shown = [text ? clip(text, LONGEST) : "", ...others.map((part) => pretty(part.value ?? part))].filter(Boolean).join("\n");
    const edit = el("button", { type: "button", class: "icon-button small edit", "aria-label": "Edit this message", title: "Edit" }, icon("edit"));
    edit.addEventListener("click", () => this.edit());
    this.node.replaceChildren(
      ...(files.length ? [el("ul", { class: "attachments", "aria-label": "Attachments" }, ...files.map((file) => el("li", {}, file)))] : []),
      ...(shown ? [el("p", { class: isDense(shown) ? "bubble dense" : "bubble", data: { role: message.role } }, shown)] : []),
      el("div", { class: "said-bar" }, text && message.role === "user" ? edit : null, switcher(message, "message", (id) => this.host.open(id))));
  }

  /** Show a field with the text; what is sent becomes a sibling of this message. */
  edit() {
    const field = el("textarea", { rows: Math.min(10, this.text.split("\n").length + 1), "aria-label": "Edited message" });
    field.value = this.text;
    const send = el("button", { type: "submit", class: "button primary" }, "Send");
    const cancel = el("button", { type: "button", class: "button quiet", on: { click: () => this.restore() } }, "Cancel");
    const form = el("form", { class: "edit-form" }, field, el("div", { class: "edit-bar" }, cancel, send));
    field.addEventListener("input", () => { send.disabled = !field.value.trim(); });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.preventDefault(); this.restore(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (!text || send.disabled) return;
      send.disabled = true;
      try {
        await this.host.edit(this.message, text);
      } finally {
        send.disabled = false;
      }
    });
    this.node.replaceChildren(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  restore() {
    this.show();
    this.node.querySelector(".edit")?.focus();
  }
}
