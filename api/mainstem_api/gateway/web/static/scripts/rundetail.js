// One run: what happened to it, when and why, and what can be done about it. Refreshed while it is not over.

import * as api from "./api.js";
import { Connection } from "./connection.js";
import { announce, byId, el, icon, notify, setText, span } from "./dom.js";
import { ends } from "./endings.js";
import { guard } from "./identity.js";
import { UndeliveredCallbacks } from "./undelivered_callbacks.js";
import { line } from "./values.js";

const POLL_MS = 2_000;
const SHOWN = 20_000; // characters of input and of output
const RUN = decodeURIComponent(location.pathname.split("/").at(-1));
const STATES = { queued: "Queued", running: "Running", requires_action: "Waiting for people", succeeded: "Done", failed: "Failed", aborted: "Aborted" };
const EVENT_TITLES = {
  "run.created": "Created", "run.started": "Begun by a worker", "run.resumed": "Continued by a worker", "run.restarted": "Begun again",
  "run.queued": "Given back to the queue", "run.sealed": "Taken from its worker", "run.stop_asked": "Somebody asked it to stop",
  "approval.required": "Waits for people", "approval.resolved": "Decided", "approval.expired": "Nobody decided in time",
  "run.finished": "Over", resync: "Written anew after the store lost something",
};

const WAITS = { children: "Waits for its children", event: "Waits for an event", sleep: "Sleeps" };

class RunPage {
  constructor() {
    this.connection = new Connection();
    this.undelivered = new UndeliveredCallbacks({ accepts: (one) => one.run_id === RUN });
    byId("theme").append(icon("theme"));
    byId("theme").addEventListener("click", () => announce(`${window.mainstemTheme.toggle()} colours`));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.load(); });
    setText(byId("run-id"), RUN);
    this.abortButton = this.action("Abort", () => this.abort());
    this.decide = el("a", { class: "button small", href: `./#run=${encodeURIComponent(RUN)}` }, "Open in the chat");
    byId("actions").append(this.decide);
    this.again = this.action("Run again", () => this.rerun());
    this.action("Fork the thread here", () => this.fork());
    this.action("Download JSON", () => this.download());
    this.flower = el("a", { class: "button small quiet", target: "_blank", rel: "noreferrer", hidden: true }, "Flower", icon("external"));
    byId("actions").append(this.flower);
    guard(() => this.begin());
  }

  action(label, run) {
    const button = el("button", { type: "button", class: "button small", on: { click: run } }, label);
    byId("actions").append(button);
    return button;
  }

  async begin() {
    try {
      this.me = await api.me();
    } catch (error) {
      this.connection.answered(error.status !== undefined);
      if (error.status !== 401) setTimeout(() => this.begin(), 1500);
      return;
    }
    this.load();
  }

  async load() {
    clearTimeout(this.polling);
    if (!this.me) return;
    try {
      this.shown = await api.request("GET", `v1/runs/${encodeURIComponent(RUN)}/details`);
      this.connection.answered(true);
      this.show(this.shown);
    } catch (error) {
      this.connection.answered(error.status !== undefined);
      if (error.status && error.status !== 401) notify(error.status === 404 ? "There is no such run (any more)." : error.message);
      if (error.status) return;
    }
    if (!this.shown?.run.finished_at && !document.hidden) this.polling = setTimeout(() => this.load(), POLL_MS);
  }

  show(details) {
    const { run } = details;
    document.title = `${STATES[run.status]} · ${run.engine} · Mainstem`;
    byId("state").dataset.status = run.status;
    setText(byId("state"), STATES[run.status]);
    this.abortButton.hidden = Boolean(run.finished_at);
    setText(this.decide, run.status === "requires_action" ? "Decide in the chat" : "Open in the chat");
    this.showFailure(run);
    this.showFacts(details);
    this.showTimeline(details);
    this.showSteps(run);
    this.showCalls(run);
    this.showChildren(details.children ?? []);
    this.checkUndelivered(run);
    setText(byId("input"), cut(JSON.stringify(details.input, null, 2)));
    setText(byId("output"), cut(run.text) || "(none)");
    const task = details.tasks.at(-1);
    this.flower.hidden = !(this.me.flower_url && task);
    if (!this.flower.hidden) this.flower.href = `${this.me.flower_url.replace(/\/$/, "")}/task/${encodeURIComponent(task)}`;
  }

  /** Look for callbacks once the run waits or is over, and again while some are listed. */
  async checkUndelivered(run) {
    clearTimeout(this.undeliveredTimer);
    if (!this.me.admin || !(run.finished_at || run.status === "requires_action")) return;
    await this.undelivered.load();
    if (!byId("undelivered").hidden) this.undeliveredTimer = setTimeout(() => this.checkUndelivered(this.shown.run), POLL_MS);
  }

  showFailure(run) {
    const node = byId("failure");
    node.hidden = !run.error;
    if (run.error) node.replaceChildren(el("strong", {}, run.error.code), el("span", {}, run.error.message));
  }

  showFacts(details) {
    const { run } = details;
    const usage = run.usage;
    const facts = {
      Engine: run.engine, User: run.user_id, Thread: run.thread_id,
      Ended: run.reason ? ends(run.reason) || run.reason : null,
      "Waited for a worker": spell(details.queue_wait_ms), "Took in all": spell(details.duration_ms), "Paused": spell(details.paused_ms || null),
      Worker: run.worker, Segments: details.segments, "Workers lost": details.losses || null, Restarts: details.restarts || null,
      "Messages sent": details.messages, "Celery tasks": details.tasks.join(", "),
      "Kept in": details.archived ? "the archive" : null,
      Cost: usage?.cost_usd ? `$${usage.cost_usd}` : null,
      Tokens: usage ? `${usage.input_tokens} in, ${usage.output_tokens} out` : null,
    };
    const nodes = Object.entries(facts).filter(([, value]) => value !== null && value !== "" && value !== undefined)
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))));
    const words = nodes.map((node) => node.textContent).join();
    if (byId("facts").textContent !== words.replaceAll(",", "")) byId("facts").replaceChildren(...nodes);
  }

  showTimeline(details) {
    const began = Date.parse(details.run.created_at);
    byId("incomplete").hidden = details.timeline_complete;
    byId("timeline").replaceChildren(...details.timeline.map((one) => el("li", {},
      el("time", { datetime: one.at, title: one.at }, one.at ? `+${exact(Date.parse(one.at) - began)}` : ""),
      el("strong", {}, WAITS[one.about.action?.kind] ?? EVENT_TITLES[one.what] ?? one.what), el("span", { class: "detail" }, about(one)))));
  }

  showSteps(run) {
    const began = Date.parse(run.created_at);
    byId("steps").closest("section").hidden = !run.steps.length;
    const nested = new Set(run.steps.filter((step) => step.agent || step.parent)); // of sub-agents
    byId("steps").replaceChildren(...run.steps.map((step) => el("li", { class: nested.has(step) ? "nested" : "" },
      el("time", { datetime: step.started_at }, `+${exact(Date.parse(step.started_at) - began)}`),
      el("strong", {}, line(step.name)), el("span", { class: "detail" }, `${step.kind} · ${step.state}${step.completed_at ? ` · ${exact(Date.parse(step.completed_at) - Date.parse(step.started_at))}` : ""}`))));
  }

  /** Calls of providers: when, which model, what it took and cost, and for which sub-agent. */
  showCalls(run) {
    const calls = run.usage?.calls ?? [];
    const began = Date.parse(run.created_at);
    byId("calls").closest("section").hidden = !calls.length;
    byId("calls").replaceChildren(...calls.map((call) => el("li", {},
      el("time", { datetime: call.at }, call.at ? `+${exact(Date.parse(call.at) - began)}` : ""), el("strong", {}, line(call.model ?? "a model")),
      el("span", { class: "detail" }, [`${call.input_tokens} in, ${call.output_tokens} out`, call.cost_usd === null ? "cost unknown" : `$${call.cost_usd}`,
        call.agent ? `by ${line(call.agent)}` : null, call.estimated ? "estimated" : null].filter(Boolean).join(" · ")))));
  }

  /** The runs that it started, as a tree; and the way up to the run that started it. */
  showChildren(children) {
    const { parent_run: parent } = this.shown.run;
    byId("children").closest("section").hidden = !children.length && !parent;
    byId("parent").hidden = !parent;
    if (parent) byId("parent").replaceChildren("Started by ", el("a", { href: `runs/${encodeURIComponent(parent)}` }, parent));
    const known = JSON.stringify(children);
    if (known === this.children) return; // a link keeps its focus
    this.children = known;
    byId("children").replaceChildren(...children.map(branch));
  }

  async fork() {
    const { run } = this.shown;
    const made = await this.does(() => api.fork(run.thread_id, { message_id: run.run_id }));
    if (made) location.assign(api.address(`./#thread=${encodeURIComponent(made.thread_id)}`));
  }

  async abort() {
    await this.does(() => api.abort(RUN), "The run stops.");
    this.load();
  }

  async rerun() {
    const { run, input } = this.shown;
    const started = await this.does(() => api.start(run.thread_id, { engine: run.engine, input, metadata: run.metadata, if_active: "enqueue" }));
    if (started) location.assign(api.address(`runs/${encodeURIComponent(started.run_id)}`));
  }

  async does(what, said = null) {
    try {
      const answer = await what();
      if (said) announce(said);
      return answer;
    } catch (error) {
      notify(error.message);
      return null;
    }
  }

  download() {
    const link = el("a", { download: `${RUN}.json`, href: URL.createObjectURL(new Blob([JSON.stringify(this.shown, null, 2)], { type: "application/json" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

const cut = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN)}\n… ${text.length - SHOWN} more characters: download the JSON` : text);
const spell = (ms) => (ms === null || ms === undefined ? null : exact(ms));
const exact = (ms) => (ms < 10_000 ? `${(ms / 1000).toFixed(2)} s` : span(ms));

/** One run of the tree, with those below it. */
function branch(run) {
  const took = run.finished_at ? exact(Date.parse(run.finished_at) - Date.parse(run.created_at)) : null;
  const reason = run.reason && run.reason !== "completed" ? ends(run.reason) || run.reason : null;
  return el("li", {},
    el("span", { class: "badge", data: { status: run.status } }, STATES[run.status]),
    el("a", { href: `runs/${encodeURIComponent(run.run_id)}` }, line(run.engine)),
    el("span", { class: "detail" }, [reason, took, `…${run.run_id.slice(-8)}`].filter(Boolean).join(" · ")),
    run.children?.length ? el("ul", {}, ...run.children.map(branch)) : null);
}

/** Say the rest of what an entry tells: who, why, where. */
function about(one) {
  return Object.entries(one.about).filter(([name]) => !["run_id", "thread_id", "v", "status", "error"].includes(name))
    .map(([name, value]) => `${name.replaceAll("_", " ")}: ${line(typeof value === "object" ? JSON.stringify(value) : String(value), 200)}`).join(" · ");
}

new RunPage().begin();
