// The list of conversations: one entry per thread, from the overview of the user's runs, kept up to date in place.

import { ago, announce, byId, el, icon, setText } from "./dom.js";
import { firstText, line } from "./values.js";

const STATES = {
  queued: "queued", running: "running", requires_action: "waits for you", succeeded: "done", failed: "failed", aborted: "stopped",
};

const LABEL = "Delete this conversation";

export class Threads {
  constructor({ open, remove }) {
    this.node = byId("threads");
    this.open = open;
    this.remove = remove;
    this.rows = new Map();
  }

  /** Show runs (newest first) by thread; `current` is the open one. */
  update(runs, current) {
    const threads = new Map();
    for (const run of runs) {
      const known = threads.get(run.thread_id);
      if (!known) threads.set(run.thread_id, { newest: run, first: run, shown: run });
      else Object.assign(known, { first: run, shown: run.finished_at ? known.shown : run }); // the one at work is the oldest
    }
    let after = null;
    for (const [id, { newest, first, shown }] of threads) {
      const row = this.row(id);
      row.node.dataset.status = shown.status;
      setText(row.title, line(firstText(newest.metadata.thread_title, first.metadata.prompt, id)));
      setText(row.state, STATES[shown.status]);
      setText(row.age, ago(Date.now() - Date.parse(newest.created_at)));
      if (id === current) row.link.setAttribute("aria-current", "page");
      else row.link.removeAttribute("aria-current");
      const place = after ? after.nextSibling : this.node.firstChild;
      if (row.node !== place) this.node.insertBefore(row.node, place);
      after = row.node;
    }
    for (const [id, row] of this.rows) {
      if (threads.has(id)) continue;
      row.node.remove();
      this.rows.delete(id);
    }
  }

  row(id) {
    const known = this.rows.get(id);
    if (known) return known;
    const row = { title: el("span", { class: "thread-name" }), state: el("span", { class: "visually-hidden" }), age: el("span", { class: "thread-age" }) };
    row.link = el("a", { href: `#thread=${encodeURIComponent(id)}`, on: { click: () => this.open(id) } }, el("i", { class: "dot" }), row.title, row.state, row.age);
    const trash = el("button", { type: "button", class: "icon-button trash", "aria-label": LABEL, title: "Delete" }, icon("trash"));
    trash.addEventListener("click", () => this.confirm(trash, id));
    row.node = el("li", { data: { thread: id } }, row.link, trash);
    this.rows.set(id, row);
    return row;
  }

  /** Delete at the second press, within three seconds. */
  confirm(button, id) {
    if (button.dataset.sure) {
      this.remove(id);
      return;
    }
    button.dataset.sure = "yes";
    button.replaceChildren("Delete?");
    button.setAttribute("aria-label", "Delete it for good? Press again");
    announce("Press again to delete this conversation for good.");
    setTimeout(() => {
      delete button.dataset.sure;
      button.replaceChildren(icon("trash"));
      button.setAttribute("aria-label", LABEL);
    }, 3000);
  }
}
