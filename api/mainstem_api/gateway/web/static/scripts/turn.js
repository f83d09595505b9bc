// One run on the page: what the user said, the answer as it grows, what the run waits for, how it ended. It follows its run
// as long as it is not over; the page decides when.

import * as api from "./api.js";
import { ActionCard } from "./actions.js";
import { announce, el, icon, setText, span } from "./dom.js";
import { ends } from "./endings.js";
import { Fold } from "./fold.js";
import { copied } from "./markdown.js";
import { Parts } from "./parts.js";
import { textOf } from "./exchanges.js";
import { Said, switcher } from "./said.js";
import { Follower } from "./stream.js";
import { clip } from "./values.js";

const AGAIN_MS = 1_500;
const END_MS = 1_000; // for which the end of a run waits until all of its answer is shown

/**
 * The view of one run, and of what was said before it. `host`: what the page does: `connection(state)`, `changed(status)`,
 * `grown()`, `again()`, `retry(turn)`, `send(text)`, `edit(message, text)`, `open(id)`.
 */
export class Turn {
  constructor({ run, said, answer }, host) {
    this.run = run;
    this.answer = answer;
    this.host = host;
    this.fold = new Fold(run);
    this.cursor = run.cursor;
    this.follower = null;
    this.card = null;
    this.scheduled = 0;
    this.parts = new Parts(() => { if (this.isOver && !this.endShown) this.schedule(); });
    this.expected = new Map(); // what was said and is not read yet
    this.waiting = el("div", { class: "turn-waiting" });
    this.status = el("p", { class: "turn-status" });
    this.slot = el("div", { class: "turn-action" });
    this.ending = el("div", { class: "turn-end" });
    this.saids = el("div", { class: "saids" });
    this.heading = el("h2", { class: "visually-hidden" });
    this.node = el("article", { class: "turn", "aria-label": "Exchange", data: { run: run.run_id } },
      this.heading, this.saids, el("div", { class: "answer" }, this.parts.node, this.status, this.waiting, this.slot, this.ending));
    this.says(said);
    this.render();
  }

  /** Show what was said before, unless it stands there already. */
  says(said) {
    const key = JSON.stringify(said.map(({ id, siblings, parts }) => [id, siblings, parts.length]));
    if (key === this.saidKey) return;
    this.saidKey = key;
    this.said = said;
    const prompt = said.map(textOf).join(" ");
    setText(this.heading, prompt ? `You said: ${prompt.slice(0, 80)}` : "An answer");
    this.saids.replaceChildren(...said.map((message) => new Said(message, this.host).node));
  }

  /** Take the messages as they are now: others may have said something in their places. */
  updates(said, answer) {
    this.says(said);
    const changed = JSON.stringify(answer.siblings) !== JSON.stringify(this.answer?.siblings);
    this.answer = answer;
    if (changed && this.endShown) this.bar.replaceWith(this.bar = this.footer());
  }

  get isOver() { return this.fold.isOver; }

  /** Take a newer reading of the same run, from a list say, unless the stream knows better. */
  refresh(run) {
    if (this.follower || this.isOver) return;
    this.fold = new Fold(run);
    this.cursor = run.cursor;
    this.render();
  }

  follow() {
    if (this.follower || this.isOver || this.resting) return;
    this.follower = new Follower(this.run.run_id, {
      cursor: this.cursor,
      event: (type, data) => this.event(type, data),
      state: (state) => this.host.connection(state),
      end: (why) => this.ended(why),
    });
  }

  leave() {
    clearTimeout(this.resting);
    this.resting = 0;
    if (!this.follower) return;
    this.cursor = this.follower.cursor;
    this.follower.stop();
    this.follower = null;
  }

  /** Follow no more, and show no more: the page turned to another thread. */
  close() {
    this.leave();
    this.parts.close();
  }

  /** Show that something was said and waits to be read. */
  expects({ input_id: id }, text) {
    if (this.fold.inputs.some((input) => input.input_id === id) || this.isOver) return;
    const node = el("p", { class: "bubble steered pending", title: "Not read yet" }, clip(text));
    this.expected.set(id, node);
    this.waiting.append(node);
  }

  event(type, data) {
    try {
      this.fold.apply(type, data);
    } catch (error) {
      this.fails(error);
    }
    this.changed = this.changed || !["message.delta", "reasoning.delta", "step.delta"].includes(type);
    this.schedule();
  }

  /** Render at most once per frame, and less often where that is too much for the machine. */
  schedule() {
    if (this.scheduled) return;
    const frame = () => {
      const began = performance.now();
      this.render();
      this.cost = performance.now() - began;
      this.scheduled = 0;
    };
    // A hidden page gets no frames: a slow timer keeps it up to date.
    if (document.hidden || this.cost > 12) this.scheduled = setTimeout(frame, document.hidden ? 500 : this.cost * 6);
    else this.scheduled = requestAnimationFrame(frame);
  }

  async ended(why) {
    this.cursor = this.follower?.cursor ?? this.cursor;
    this.follower = null;
    if (why === "gone") {
      this.fold.status = "aborted";
      this.fold.reason = "thread_deleted";
    } else if (!this.isOver) { // somebody saw the end before us: the record has it
      await this.read();
    }
    this.changed = true;
    this.schedule();
    this.host.connection("ended");
    if (!this.isOver) { // the cursor was refused, or nobody answered: once more, from what is known now
      this.resting = setTimeout(() => { this.resting = 0; this.host.again(); }, AGAIN_MS);
      return;
    }
    announce(this.fold.status === "succeeded" ? `Answer complete. ${this.fold.text.slice(0, 1000)}` : ends(this.fold.reason));
  }

  /** Take the run as it is now in place of what was streamed. */
  async read() {
    try {
      const run = await api.getRun(this.run.run_id);
      this.fold = new Fold(run);
      this.cursor = run.cursor;
    } catch { /* nobody answers; what is here stays */ }
  }

  /** Show the run as it is now. What fails is missing, and nothing else: neither the rest of this turn nor other turns. */
  render() {
    for (const section of ["renderState", "renderParts", "renderStatus", "renderAction", "renderEnd"]) {
      try {
        this[section]();
      } catch (error) {
        this.fails(error);
      }
    }
    if (this.changed !== false) this.host.changed(this.fold.status);
    else this.host.grown();
    this.changed = false;
  }

  fails(error) {
    console.error(error);
    if (this.failure) return;
    this.failure = el("p", { class: "turn-failure", role: "note" }, "Something of this answer cannot be shown here.");
    this.ending.before(this.failure);
  }

  renderParts() {
    this.parts.update(this.fold, { streaming: this.fold.status === "running" });
  }

  renderState() {
    const streaming = this.fold.status === "running";
    this.node.dataset.status = this.fold.status;
    this.node.setAttribute("aria-busy", String(streaming));
    for (const [id, node] of this.expected) {
      if (!this.isOver && !this.fold.inputs.some((input) => input.input_id === id)) continue;
      node.remove();
      this.expected.delete(id);
    }
  }

  renderStatus() {
    const { status, waitingFor, content } = this.fold;
    let words = "";
    if (status === "queued") words = waitingFor === "thread" ? "Waits for its turn" : content.length ? "Waits for a worker to go on" : "Waits for a worker";
    else if (status === "running" && !content.length) words = "Working";
    setText(this.status, words);
    this.status.hidden = !words;
  }

  renderAction() {
    const { action } = this.fold;
    if (action?.action_id === this.card?.action.action_id) return;
    this.card = action ? new ActionCard(this.run.run_id, action) : null;
    this.slot.replaceChildren(...(this.card ? [this.card.node] : []));
  }

  renderEnd() {
    if (!this.isOver || this.endShown) return;
    this.overSince ??= performance.now();
    if (!this.parts.settled && performance.now() - this.overSince < END_MS) {
      setTimeout(() => this.schedule(), END_MS);
      return;
    }
    this.endShown = true;
    const { status, reason, error, unread } = this.fold;
    if (status === "failed") {
      const retry = el("button", { type: "button", class: "button small", on: { click: () => this.host.retry(this) } }, icon("retry"), "Try again");
      this.ending.append(el("div", { class: "failure", role: "group", "aria-label": "Failure" }, icon("warn"),
        el("div", {}, el("strong", {}, ends(reason)), el("p", {}, clip(error?.message, 2_000))), retry));
    }
    for (const { text } of unread) {
      const again = el("button", { type: "button", class: "button small", on: { click: () => { again.disabled = true; this.host.send(text); } } }, "Send as a message");
      this.ending.append(el("div", { class: "unread" }, el("p", {}, "The run ended before it read: ", el("q", {}, clip(text))), again));
    }
    this.ending.append(this.bar = this.footer());
  }

  footer() {
    const { status, reason, usage, startedAt, finishedAt } = this.fold;
    const notes = [];
    if (status === "aborted") notes.push(ends(reason));
    if (startedAt && finishedAt) notes.push(duration(Date.parse(finishedAt) - Date.parse(startedAt)));
    if (usage) notes.push(`${usage.estimated ? "about " : ""}${usage.input_tokens} in · ${usage.output_tokens} out`);
    const copy = this.fold.text ? el("button", { type: "button", class: "button small quiet", title: "Copy the answer" }, icon("copy"), "Copy") : null;
    copy?.addEventListener("click", () => copied(copy, this.fold.text));
    const again = el("button", { type: "button", class: "button small quiet", title: "Answer it once more", hidden: status === "failed" }, icon("retry"), "Regenerate");
    again.addEventListener("click", async () => {
      again.disabled = true;
      try { await this.host.retry(this); } finally { again.disabled = false; }
    });
    const other = this.answer ? switcher(this.answer, "answer", (id) => this.host.open(id)) : null;
    return el("footer", { class: "turn-notes" }, other, ...notes.map((note) => el("span", {}, note)), copy, again);
  }
}

const duration = (ms) => (ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms));
