// The list of conversations, by their last activity: searched by title, renamed, deleted. It is kept up to date in place.

import { ago, announce, byId, el, icon, setText } from "./dom.js";
import { line } from "./values.js";

const STATES = {
  queued: "queued", running: "running", requires_action: "waits for you", succeeded: "done", failed: "failed", aborted: "stopped",
};

const LABEL = "Delete this conversation";

export class Threads {
  /** `host`: `open(id)`, `remove(id)`, `rename(id, title)`, `search()`. */
  constructor(host) {
    this.node = byId("threads");
    this.host = host;
    this.rows = new Map();
    this.field = byId("search");
    this.field.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => host.search(), 200);
    });
    this.more = byId("more-threads");
    this.more.addEventListener("click", () => { this.limit += 50; host.search(); });
    this.limit = 50;
  }

  get query() { return { search: this.field.value.trim(), limit: Math.min(this.limit, 100) }; }

  /** Show threads, as the gateway lists them; `current` is the open one. */
  update({ threads, next }, current) {
    let after = null;
    const ids = new Set(threads.map(({ thread_id: id }) => id));
    for (const thread of threads) {
      const id = thread.thread_id;
      const row = this.row(id);
      row.node.dataset.status = thread.status;
      row.name = thread.title ?? id;
      setText(row.title, line(row.name));
      setText(row.state, STATES[thread.status]);
      setText(row.age, ago(Date.now() - Date.parse(thread.active_at)));
      if (id === current) row.link.setAttribute("aria-current", "page");
      else row.link.removeAttribute("aria-current");
      const place = after ? after.nextSibling : this.node.firstChild;
      if (row.node !== place) this.node.insertBefore(row.node, place);
      after = row.node;
    }
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.node.remove();
      this.rows.delete(id);
    }
    this.more.hidden = !next || this.limit >= 100;
    byId("no-threads").hidden = threads.length > 0 || !this.field.value.trim();
  }

  title(id) { return this.rows.get(id)?.name; }

  row(id) {
    const known = this.rows.get(id);
    if (known) return known;
    const row = { title: el("span", { class: "thread-name" }), state: el("span", { class: "visually-hidden" }), age: el("span", { class: "thread-age" }) };
    row.link = el("a", { href: `#thread=${encodeURIComponent(id)}`, on: { click: () => this.host.open(id) } }, el("i", { class: "dot" }), row.title, row.state, row.age);
    const pencil = el("button", { type: "button", class: "icon-button rename", "aria-label": "Rename this conversation", title: "Rename" }, icon("edit"));
    pencil.addEventListener("click", () => this.rename(id, row, pencil));
    const trash = el("button", { type: "button", class: "icon-button trash", "aria-label": LABEL, title: "Delete" }, icon("trash"));
    trash.addEventListener("click", () => this.confirm(trash, id));
    row.node = el("li", { data: { thread: id } }, row.link, el("span", { class: "thread-bar" }, pencil, trash));
    this.rows.set(id, row);
    return row;
  }

  /** Write over the title; Enter keeps it, an empty one gives the conversation its own title back, Escape changes nothing. */
  rename(id, row, pencil) {
    const field = el("input", { type: "text", class: "thread-rename", maxlength: 200, "aria-label": "Title of this conversation" });
    field.value = row.name;
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      field.replaceWith(row.link);
      if (keep && field.value.trim() !== row.name) this.host.rename(id, field.value.trim() || null);
      pencil.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    row.link.replaceWith(field);
    field.select();
  }

  /** Delete at the second press, within three seconds. */
  confirm(button, id) {
    if (button.dataset.sure) {
      this.host.remove(id);
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
