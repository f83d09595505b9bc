// One run in the operator's table. Made once, updated in place: what does not change does not flicker.

import { el, icon, setText, span } from "./dom.js";
import { ends } from "./endings.js";
import { firstText, line } from "./values.js";

const SVG = "http://www.w3.org/2000/svg";
const SAMPLES = 24; // of speed, for the line beside it
const WINDOW_MS = 6_000; // over which the shown speed is taken
const WORDS = { queued: "Queued", running: "Running", requires_action: "Waiting", succeeded: "Done", failed: "Failed", aborted: "Aborted" };

export class Row {
  constructor(run, { flower, user, abort }) {
    this.samples = [];
    this.line = [];
    this.rate = null;
    this.flower = flower;
    this.state = el("span", { class: "badge" });
    this.detail = el("span", { class: "detail" });
    this.age = el("span");
    this.ran = el("span", { class: "detail" });
    this.worker = el("span", { class: "worker" });
    this.number = el("span", { class: "rate" });
    this.spark = sparkline();
    this.task = el("a", { class: "button small quiet", target: "_blank", rel: "noreferrer", hidden: true }, "Flower", icon("external"));
    this.abortButton = el("button", { type: "button", class: "button small" }, "Abort");
    this.abortButton.addEventListener("click", () => this.aborts(abort, run.run_id));
    const title = line(firstText(run.metadata.prompt, run.thread_id));
    this.node = el("tr", { data: { run: run.run_id } },
      el("td", { class: "cell-state" }, this.state, this.detail),
      el("td", { class: "cell-run" },
        el("a", { class: "run-title", href: `runs/${run.run_id}`, title }, title),
        el("span", { class: "detail" }, el("span", {}, run.engine), user ? el("span", {}, run.user_id) : null, el("code", { title: run.run_id }, `…${run.run_id.slice(-8)}`))),
      el("td", { class: "cell-age", "data-label": "Age" }, this.age, this.ran),
      el("td", { class: "cell-worker", "data-label": "Worker" }, this.worker),
      el("td", { class: "cell-rate number", "data-label": "Tokens/s" }, this.spark.node, this.number),
      el("td", { class: "cell-actions" }, el("div", {}, this.task, this.abortButton)));
  }

  update(run, now) {
    this.measure(run, now);
    this.node.dataset.status = run.status;
    setText(this.state, run.stopping ? "Stopping" : WORDS[run.status]);
    this.state.dataset.status = run.stopping ? "stopping" : run.status;
    setText(this.detail, detail(run));
    this.detail.title = line(run.error?.message, 2_000);
    setText(this.age, span(now - Date.parse(run.created_at)));
    setText(this.ran, run.finished_at && run.started_at ? `ran ${span(Date.parse(run.finished_at) - Date.parse(run.started_at))}` : "");
    const worker = run.status === "running" || run.finished_at ? run.worker : null;
    setText(this.worker, worker ? worker.replace(/@.*$/, "") : "–");
    this.worker.title = worker ?? "";
    setText(this.number, this.rate === null ? "–" : this.rate < 10 ? this.rate.toFixed(1) : String(Math.round(this.rate)));
    this.spark.draw(this.line);
    this.task.hidden = !(this.flower && run.task_id);
    if (!this.task.hidden) this.task.href = `${this.flower.replace(/\/$/, "")}/task/${encodeURIComponent(run.task_id)}`;
    this.abortButton.hidden = Boolean(run.finished_at);
  }

  /** Note how far the run is; its speed is what it gained over the last seconds, in the same epoch. */
  measure(run, now) {
    const last = this.samples.at(-1);
    if (run.status !== "running" || run.events === null || (last && last.epoch !== run.epoch)) this.samples = [];
    if (run.status !== "running" || run.events === null) {
      this.rate = null;
      return;
    }
    if (last?.at === now) return; // shown again, not read again
    this.samples.push({ at: now, events: run.events, epoch: run.epoch });
    while (this.samples.length > 2 && now - this.samples[0].at > WINDOW_MS) this.samples.shift();
    const [first] = this.samples;
    if (this.samples.length < 2 || now - first.at < 300) return;
    this.rate = ((run.events - first.events) / (now - first.at)) * 1000;
    this.line = [...this.line, this.rate].slice(-SAMPLES);
  }

  /** Abort at the second press, within three seconds. */
  aborts(abort, runId) {
    const button = this.abortButton;
    if (!button.classList.contains("danger")) {
      button.classList.add("danger");
      setText(button, "Abort now?");
      this.calm = setTimeout(() => this.unsure(), 3000);
      return;
    }
    clearTimeout(this.calm);
    button.disabled = true;
    abort(runId).finally(() => { button.disabled = false; this.unsure(); });
  }

  unsure() {
    this.abortButton.classList.remove("danger");
    setText(this.abortButton, "Abort");
  }
}

function detail(run) {
  if (run.action) {
    const calls = run.action.calls?.length ?? 0;
    return calls ? `${calls} approval${calls > 1 ? "s" : ""}` : "a question";
  }
  if (run.status === "queued") return run.waiting_for === "thread" ? "for its turn" : "for a worker";
  return run.reason && run.reason !== "completed" ? ends(run.reason) : "";
}

function sparkline() {
  const node = document.createElementNS(SVG, "svg");
  const area = document.createElementNS(SVG, "polygon");
  const path = document.createElementNS(SVG, "polyline");
  node.setAttribute("viewBox", "0 0 72 20");
  node.setAttribute("class", "spark");
  node.setAttribute("aria-hidden", "true");
  node.append(area, path);
  return {
    node,
    draw(line) {
      const top = Math.max(...line, 1) * 1.3;
      const x = (i) => 72 - (line.length - 1 - i) * (72 / (SAMPLES - 1));
      const points = line.map((rate, i) => `${x(i).toFixed(1)},${(19 - (rate / top) * 18).toFixed(1)}`);
      path.setAttribute("points", points.join(" "));
      area.setAttribute("points", line.length > 1 ? [`${x(0).toFixed(1)},20`, ...points, "72,20"].join(" ") : "");
    },
  };
}
