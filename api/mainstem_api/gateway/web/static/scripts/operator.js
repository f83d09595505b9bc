// The operator's view: unfinished runs and those that ended last, refreshed in place every two seconds. What a row shows
// is in `runrow.js`; admins see everybody's runs, others their own.

import * as api from "./api.js";
import { Charts } from "./charts.js";
import { Connection } from "./connection.js";
import { announce, byId, el, icon, notify, setText, span } from "./dom.js";
import { guard } from "./identity.js";
import { Row } from "./runrow.js";
import { UndeliveredCallbacks } from "./undelivered_callbacks.js";
import { firstText } from "./values.js";

const POLL_MS = 2_000;
const UNDELIVERED_MS = 10_000; // between looks for callbacks that were given up: a day passes before one is
const ENDED = 50; // finished runs that are shown
const FILTERS = [
  { name: "live", label: "Live", accepts: (run) => !run.finished_at },
  { name: "running", label: "Running", accepts: (run) => run.status === "running" },
  { name: "queued", label: "Queued", accepts: (run) => run.status === "queued" },
  { name: "requires_action", label: "Waiting for people", accepts: (run) => run.status === "requires_action" },
  { name: "ended", label: "Ended", accepts: (run) => Boolean(run.finished_at) },
  { name: "failed", label: "Failed", accepts: (run) => run.status === "failed" },
];

class Operator {
  constructor() {
    this.connection = new Connection();
    this.rows = new Map();
    this.undelivered = new UndeliveredCallbacks({ accepts: (one) => one.given_up, link: true });
    this.filter = FILTERS[0];
    this.runs = [];
    this.complete = true;
    this.tiles = new Map();
    this.charts = new Charts();
    this.search = byId("search");
    byId("theme").append(icon("theme"));
    byId("theme").addEventListener("click", () => announce(`${window.mainstemTheme.toggle()} colours`));
    this.buildTiles();
    this.buildFilters();
    this.search.addEventListener("input", () => { this.calm(); this.show(); this.soon(); });
    this.bulk = byId("bulk");
    this.bulk.addEventListener("click", () => this.doAll());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) { this.poll(); this.charts.load(); } });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || /^(input|textarea)$/i.test(event.target.tagName ?? "")) return;
      event.preventDefault();
      this.search.focus();
    });
    guard(() => this.begin());
  }

  buildTiles() {
    for (const [name, label] of [["running", "Running"], ["queued", "Queued"], ["requires_action", "Waiting for people"], ["rate", "Tokens/s"], ["oldest", "Longest queue wait"]]) {
      const value = el("dd", {}, "–");
      this.tiles.set(name, value);
      byId("tiles").append(el("div", { class: "tile", data: { tile: name } }, el("dt", {}, label), value));
    }
  }

  buildFilters() {
    this.tabs = FILTERS.map((filter) => {
      const count = el("span", { class: "count" });
      const button = el("button", { type: "button", class: "tab", data: { filter: filter.name }, "aria-pressed": "false" }, filter.label, count);
      button.addEventListener("click", () => { this.filter = filter; this.calm(); this.show(); this.poll(); });
      byId("filters").append(button);
      return { filter, button, count };
    });
  }

  async begin() {
    clearTimeout(this.again);
    try {
      this.me = await api.me();
    } catch (error) {
      this.connection.answered(error.status !== undefined);
      if (error.status !== 401) this.again = setTimeout(() => this.begin(), 1500);
      return;
    }
    if (this.me.admin) this.checkUndelivered();
    const flower = byId("flower");
    flower.hidden = !this.me.flower_url;
    if (this.me.flower_url) flower.href = this.me.flower_url;
    document.body.classList.toggle("admin", this.me.admin);
    this.poll();
    this.charts.load();
  }

  checkUndelivered() {
    clearTimeout(this.undeliveredTimer);
    if (!document.hidden) this.undelivered.load();
    this.undeliveredTimer = setTimeout(() => this.checkUndelivered(), UNDELIVERED_MS);
  }

  async poll() {
    clearTimeout(this.polling);
    if (!this.me) return;
    try {
      const user = this.me.admin ? "*" : null;
      // What ended last, whenever it began, and what failed: searched where all runs are, not among those shown.
      const words = this.search.value.trim() || null;
      const searches = [{ sort: "ended" }, { sort: "ended", status: "failed" }].map((search) => api.overview({ ...search, limit: ENDED, user, words }));
      const [live, ended, failed] = await Promise.all([api.overview({ active: true, user }), ...searches]);
      this.connection.answered(true);
      this.counts = live.counts;
      const complete = [live, ended, failed].every((found) => found.complete !== false);
      if (!complete && this.complete) notify("A server of the store is unavailable: its runs are missing here.");
      this.complete = complete;
      this.runs = [...new Map([...live.runs, ...ended.runs, ...failed.runs].map((run) => [run.run_id, run])).values()];
      this.show();
    } catch (error) {
      this.connection.answered(error.status !== undefined);
      if (error.status && error.status !== 401) notify(error.message);
    }
    clearTimeout(this.polling);
    if (!document.hidden) this.polling = setTimeout(() => this.poll(), POLL_MS);
  }

  /** Ask again for what is written into the search, once the writing pauses. */
  soon() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.poll(), 300);
  }

  /** Abort what the search matches, or start it anew where what ended is shown: the first press counts, the second one does it. */
  async doAll() {
    const over = this.showsEnded;
    const query = { user: this.me.admin ? "*" : null, words: this.search.value.trim() || null };
    if (["running", "queued", "requires_action", "failed"].includes(this.filter.name)) query.status = this.filter.name;
    const really = this.bulk.classList.contains("danger");
    this.key = really ? this.key : api.newId(); // pressed again after a failure, no run is started twice
    try {
      const answer = await (over ? api.rerunFound({ ...query, dry_run: !really }, this.key) : api.abortFound({ ...query, dry_run: !really }));
      this.bulk.classList.toggle("danger", !really && answer.matched > 0);
      setText(this.bulk, this.bulk.classList.contains("danger") ? `${over ? "Start" : "Abort"} ${answer.matched} ${over ? "again" : "now"}?` : this.bulkLabel);
      announce(really ? (over ? `${answer.started} runs were started again.` : `${answer.aborted} runs stop.`) : `${answer.matched} runs match.`);
      const refused = Object.entries(answer.refused ?? {});
      if (refused.length) notify(`Not started again: ${refused.map(([code, count]) => `${count} (${code})`).join(", ")}.`);
      clearTimeout(this.calming);
      this.calming = setTimeout(() => this.calm(), 5000);
    } catch (error) {
      notify(error.message);
    }
    if (really) this.poll();
  }

  get showsEnded() {
    return ["ended", "failed"].includes(this.filter.name);
  }

  get bulkLabel() {
    return this.showsEnded ? "Run all again" : "Abort all";
  }

  calm() {
    clearTimeout(this.calming);
    this.bulk.classList.remove("danger");
    setText(this.bulk, this.bulkLabel);
  }

  show() {
    const now = Date.now();
    for (const run of this.runs) this.row(run).update(run, now);
    const known = new Set(this.runs.map((run) => run.run_id));
    for (const [id, row] of this.rows) {
      if (known.has(id)) continue;
      row.node.remove();
      this.rows.delete(id);
    }
    this.showRows();
    this.showTotals(now);
  }

  row(run) {
    let row = this.rows.get(run.run_id);
    if (!row) this.rows.set(run.run_id, row = new Row(run, { flower: this.me.flower_url, user: this.me.admin, abort: (id) => this.abort(id) }));
    return row;
  }

  /** Put the rows that are asked for into the table, moving only what stands elsewhere. */
  showRows() {
    const words = this.search.value.trim().toLowerCase();
    const chosen = this.runs.filter((run) => this.filter.accepts(run) && words.split(/\s+/).every((word) => haystack(run).includes(word)));
    if (this.showsEnded) chosen.sort((a, b) => Date.parse(b.finished_at) - Date.parse(a.finished_at));
    const body = byId("rows");
    let next = body.firstChild;
    for (const run of chosen) {
      const { node } = this.rows.get(run.run_id);
      if (node === next) next = next.nextSibling;
      else body.insertBefore(node, next);
    }
    while (next) {
      const after = next.nextSibling;
      next.remove();
      next = after;
    }
    this.bulk.hidden = !chosen.some((run) => this.showsEnded || !run.finished_at);
    byId("table").hidden = !chosen.length;
    byId("empty").hidden = Boolean(chosen.length);
    setText(byId("empty"), words ? "No run matches." : { live: "Nothing runs right now.", ended: "Nothing ended yet.", failed: "Nothing failed." }[this.filter.name] ?? "None right now.");
  }

  showTotals(now) {
    const rates = [...this.rows.values()].map((row) => row.rate ?? 0);
    const queued = this.runs.filter((run) => run.status === "queued" && run.waiting_for === "worker");
    const oldest = Math.max(-1, ...queued.map((run) => now - Date.parse(run.created_at)));
    for (const name of ["running", "queued", "requires_action"]) setText(this.tiles.get(name), String(this.counts?.[name] ?? 0));
    setText(this.tiles.get("rate"), String(Math.round(rates.reduce((sum, rate) => sum + rate, 0))));
    setText(this.tiles.get("oldest"), oldest < 0 ? "–" : span(oldest));
    for (const { filter, button, count } of this.tabs) {
      button.setAttribute("aria-pressed", String(filter === this.filter));
      setText(count, String(this.runs.filter(filter.accepts).length));
    }
  }

  async abort(runId) {
    try {
      const { run } = await api.abort(runId);
      announce(`Run ${run.status}.`);
    } catch (error) {
      notify(error.message);
    }
    this.poll();
  }
}

const haystack = (run) => [run.error?.code, run.error?.message, run.run_id, run.thread_id, run.user_id, run.engine, run.worker, run.status, run.reason, firstText(run.metadata.prompt)].join(" ").toLowerCase();

new Operator().begin();
