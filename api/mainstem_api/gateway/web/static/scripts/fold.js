// A run's state from its events: what `mainstem_shared.model.contents` does, in the browser. `docs/events.md` says what each
// event means; types that are not here change nothing.

const CALLS_KEPT = 1000;
const DELTAS = { "message.delta": "text", "reasoning.delta": "reasoning", "refusal.delta": "refusal" };
const KEYED = ["data", "source", "file"];

/** A run as of its last event: content and steps, and what became of it. */
export class Fold {
  /** Begin with a run as `GET /v1/runs/{run_id}` returns it. */
  constructor(run) {
    this.status = run.status;
    this.reason = run.reason;
    this.error = run.error;
    this.waitingFor = run.waiting_for;
    this.startedAt = run.started_at;
    this.finishedAt = run.finished_at;
    this.restarts = 0;
    this.decisions = new Map(); // by call or question: only the log has them
    this.load(run);
    for (const decision of run.decisions ?? []) this.decisions.set(decision.id, decision);
  }

  get text() {
    return this.content.filter((part) => part.type === "text").map((part) => part.text).join("");
  }

  get isOver() {
    return ["succeeded", "failed", "aborted"].includes(this.status);
  }

  load(state) {
    this.content = state.content ?? [];
    this.steps = state.steps ?? [];
    this.calls = new Map(this.content.filter((part) => part.type === "tool_call").map((part) => [part.call_id, part]));
    this.keyed = new Map(this.content.filter((part) => KEYED.includes(part.type)).map((part) => [keyOf(part), part]));
    this.output = state.output ?? null;
    this.finishReason = state.finish_reason ?? null;
    this.known = new Map(this.steps.map((step) => [step.step_id, step]));
    this.usage = state.usage ?? null;
    this.title = state.title ?? null;
    this.action = state.action ?? null;
    this.agent = state.agent ?? null;
    this.contextUsage = state.context_usage ?? null;
    this.inputs = state.inputs ?? [];
    this.unread = state.unread ?? [];
  }

  apply(type, data) {
    if (type in DELTAS) this.append(DELTAS[type], data.part, data.text);
    else this[HANDLERS[type]]?.(data);
  }

  append(type, part, text) {
    if (part < this.content.length) this.content[part].text += text;
    else this.content.push({ type, text });
  }

  replaced(data) {
    this.load(data);
    if (this.action) this.status = "requires_action"; // a state stands in for events that would have said so
    else if (!this.isOver && this.status === "requires_action") this.status = "running";
  }

  began(data) {
    this.status = "running";
    this.waitingFor = null;
    this.startedAt ??= new Date(data.at).toISOString();
  }

  beganAgain(data) {
    this.began(data);
    this.restarts += 1;
    if ("content" in data) this.load(data);
  }

  givenBack() {
    this.status = "queued";
    this.waitingFor = "worker";
  }

  finished(data) {
    this.load(data);
    this.status = data.status;
    this.reason = data.reason;
    this.error = data.error;
    this.finishedAt = new Date(data.at).toISOString();
  }

  stepStarted({ step_id: id, kind, name, arguments: given, at, agent, parent }) {
    const whose = { ...(typeof agent === "string" ? { agent } : {}), ...(typeof parent === "string" ? { parent } : {}) };
    const step = { step_id: id, kind, name, state: "running", started_at: new Date(at).toISOString(), completed_at: null, ...whose };
    const known = this.known.get(id);
    if (known) Object.assign(known, step);
    else {
      this.steps.push(step);
      this.known.set(id, step);
    }
    if (kind !== "tool_call") return;
    const part = { type: "tool_call", call_id: id, name, arguments: given, result: null, state: typeof given === "string" ? "streaming" : "called", ...whose };
    const call = this.calls.get(id);
    if (call) Object.assign(call, part);
    else {
      this.content.push(part);
      this.calls.set(id, part);
    }
  }

  stepDelta({ step_id: id, arguments: text }) {
    const call = this.calls.get(id);
    if (call && typeof call.arguments === "string") call.arguments += text;
  }

  stepCompleted({ step_id: id, state, result, at }) {
    const step = this.known.get(id);
    if (step) Object.assign(step, { state, completed_at: new Date(at).toISOString() });
    const call = this.calls.get(id);
    if (call) Object.assign(call, { state, result: result ?? null });
  }

  partSet({ part }) {
    const known = this.keyed.get(keyOf(part));
    if (known) {
      for (const name of Object.keys(known)) delete known[name];
      Object.assign(known, part);
    } else {
      this.content.push(part);
      this.keyed.set(keyOf(part), part);
    }
  }

  annotated({ annotation }) {
    const text = this.content.findLast((part) => part.type === "text");
    if (text) text.annotations = [...(text.annotations ?? []), annotation];
  }

  outputChanged(data) { this.output = data.value; }

  custom({ name, data }) {
    if (name === "finish" && typeof data?.finish_reason === "string") this.finishReason = data.finish_reason;
  }

  used({ call, ...sums }) {
    const calls = [...(this.usage?.calls ?? []), ...(call ? [call] : [])].slice(0, CALLS_KEPT);
    this.usage = calls.length ? { ...sums, calls } : sums;
  }

  titled(data) { this.title = data.title; }

  paused(data) {
    this.status = "requires_action";
    this.action = data.action;
  }

  decided(data) {
    this.action = null;
    this.status = "queued";
    this.waitingFor = "worker";
    for (const decision of data.decisions ?? []) this.decisions.set(decision.id, decision);
  }

  agentChanged(data) { this.agent = data; }

  contextUsed(data) { this.contextUsage = data; }

  heard(data) { this.inputs.push({ ...data, part: this.content.length }); }
}

const keyOf = (part) => `${part.type} ${part.id}`;

const HANDLERS = {
  snapshot: "replaced",
  resync: "replaced",
  "run.started": "began",
  "run.resumed": "began",
  "run.restarted": "beganAgain",
  "run.queued": "givenBack",
  "run.finished": "finished",
  "step.started": "stepStarted",
  "step.delta": "stepDelta",
  "step.completed": "stepCompleted",
  part: "partSet",
  annotation: "annotated",
  output: "outputChanged",
  custom: "custom",
  usage: "used",
  title: "titled",
  "approval.required": "paused",
  "approval.resolved": "decided",
  "approval.expired": "decided",
  "agent.updated": "agentChanged",
  context_usage: "contextUsed",
  "input.accepted": "heard",
};
