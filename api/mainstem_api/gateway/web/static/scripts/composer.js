// The message field: what is written, to which engine, with which switches. Drafts survive a reload.

import { byId, el, icon } from "./dom.js";
import { switchButtons } from "./engines.js";
import { Files } from "./files.js";

const ENGINE = "mainstem.engine";

const store = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { if (value) localStorage.setItem(key, value); else localStorage.removeItem(key); } catch { /* forbidden */ } },
};

export class Composer {
  constructor({ send, stop, takesFiles }) {
    this.takesFiles = takesFiles;
    this.form = byId("composer");
    this.field = byId("message");
    this.engineMenu = byId("engine");
    this.sendButton = byId("send");
    this.stopButton = byId("stop");
    this.sendButton.append(icon("send"));
    this.stopButton.append(icon("stop"));
    this.switches = switchButtons(byId("switches"));
    this.thread = undefined; // not turned to any yet
    this.files = new Files({ changed: () => this.show(), refusal: () => this.refusal() });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(send); });
    this.field.addEventListener("keydown", (event) => {
      // While a word is composed (in Japanese, say), Enter belongs to the input method.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit(send);
    });
    this.field.addEventListener("input", () => this.changed());
    this.form.addEventListener("click", (event) => { if (event.target === this.form) this.field.focus(); });
    this.stopButton.addEventListener("click", stop);
    this.engineMenu.addEventListener("change", () => { store.set(ENGINE, this.engine); this.show(); });
    this.show();
  }

  get engine() { return this.engineMenu.value || "demo"; }

  offer(engines) {
    const chosen = this.engineMenu.value || store.get(ENGINE);
    this.engineMenu.replaceChildren(...engines.names.map((name) => el("option", { value: name }, name)));
    this.engineMenu.value = engines.names.includes(chosen) ? chosen : engines.first;
    this.show();
  }

  /** Turn to a thread (null: one that is still to begin), with what was being written there. */
  turnTo(thread) {
    if (thread === this.thread) return; // what was written meanwhile stays
    this.thread = thread;
    this.field.value = store.get(this.key) ?? "";
    this.files.turnTo(this.key);
    this.changed();
  }

  /** The thread began: what is written now belongs to it. */
  begun(thread) {
    store.set(this.key, "");
    this.thread = thread;
    this.files.turnTo(this.key);
    this.changed();
  }

  get key() { return `mainstem.draft.${this.thread ?? "new"}`; }

  submit(send) {
    const text = this.field.value.trim();
    if (text || (this.files.chosen.length && !this.isActive)) send(text);
  }

  /** Empty the field to send what it had; return the files, if what is sent begins a run. */
  take() {
    const files = this.isActive ? [] : this.files.take();
    this.write("");
    return files;
  }

  /** Put text into the field, and keep it as a draft. */
  write(text) {
    this.field.value = text;
    this.changed();
  }

  /** Give back what could not be sent: into the field, or as the draft of a thread that was left meanwhile. */
  restore(thread, text, files = []) {
    const key = `mainstem.draft.${thread ?? "new"}`;
    this.files.restore(key, files);
    if (key !== this.key) store.set(key, store.get(key) ?? text);
    else if (!this.field.value) this.write(text);
  }

  changed() {
    store.set(this.key, this.field.value);
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, 220)}px`;
    this.show();
  }

  /** Show what pressing Enter would do: `idle` starts a run, `active` speaks to it, `paused` waits for a decision. */
  mode(mode) {
    if (this.state === mode) return;
    this.state = mode;
    this.show();
  }

  get isActive() { return this.state === "active" || this.state === "paused"; }

  /** Return why no files can be attached now; null if they can. */
  refusal() {
    if (this.isActive) return "What is said to a run that is at work is text: send files once it has ended.";
    return this.takesFiles(this.engine) ? null : `The engine ${this.engine} takes no files.`;
  }

  show() {
    const active = this.isActive;
    const writing = this.field.value.trim() !== "" || (this.files.chosen.length > 0 && !active);
    this.files.button.hidden = this.refusal() !== null;
    this.form.dataset.state = this.state ?? "idle";
    this.field.placeholder = { active: "Say something to the run …", paused: "Decide above to go on" }[this.state] ?? "Write a message";
    this.stopButton.hidden = !active;
    this.sendButton.hidden = active && !writing;
    this.sendButton.disabled = !writing;
    this.engineMenu.parentNode.hidden = active || !this.engineMenu.options.length;
    byId("switches").hidden = this.engine !== "demo" || active;
  }
}
