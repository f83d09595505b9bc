/** Folds a run's events into its state: docs/events.md says what each means; types that are not here change nothing. */

import type { RunEvent } from "./following.js";
import type { Run } from "./openapi.js";

export type ContentPart = Run["content"][number];
export type Step = NonNullable<Run["steps"]>[number];

type Call = Extract<ContentPart, { type: "tool_call" }>;
type Payload = Record<string, any>;

const CALLS_KEPT = 1000;
const DELTAS: Record<string, "text" | "reasoning" | "refusal"> = {
  "message.delta": "text",
  "reasoning.delta": "reasoning",
  "refusal.delta": "refusal",
};

/** Whether a run has ended. */
export function isOver(status: Run["status"] | null): boolean {
  return status === "succeeded" || status === "failed" || status === "aborted";
}

/** A run as of the last event that it was given. */
export class RunState {
  /** The cursor of that event; null before the first. */
  cursor: string | null = null;
  status: Run["status"] | null = null;
  reason: Run["reason"] = null;
  error: Run["error"] = null;
  content: ContentPart[] = [];
  steps: Step[] = [];
  usage: Payload | null = null;
  title: string | null = null;
  /** What a paused run waits for. */
  action: Payload | null = null;
  output: unknown = null;
  finishReason: string | null = null;
  agent: Payload | null = null;
  contextUsage: Payload | null = null;
  /** What users said meanwhile and the engine read. */
  inputs: Payload[] = [];
  /** What users said and nobody read before the end. */
  unread: Payload[] = [];

  /** All text parts, with nothing between. */
  get text(): string {
    return this.content.map((part) => (part.type === "text" ? part.text : "")).join("");
  }

  get isOver(): boolean {
    return isOver(this.status);
  }

  /** Take the next event. */
  apply({ cursor, type, data }: RunEvent): void {
    const kind = DELTAS[type];
    if (kind !== undefined) this.#append(kind, data["part"], data["text"]);
    else HANDLERS[type]?.(this, data);
    this.cursor = cursor;
  }

  /** Take a whole state: a run as `Mainstem.get` returns it, or the payload of a `snapshot`. */
  load(state: Payload): void {
    this.content = structuredClone(state["content"] ?? []);
    this.steps = structuredClone(state["steps"] ?? []);
    this.usage = state["usage"] ?? null;
    this.title = state["title"] ?? null;
    this.action = state["action"] ?? null;
    this.output = state["output"] ?? null;
    this.finishReason = state["finish_reason"] ?? null;
    this.agent = state["agent"] ?? null;
    this.contextUsage = state["context_usage"] ?? null;
    this.inputs = state["inputs"] ?? [];
    this.unread = state["unread"] ?? [];
  }

  /** A copy that later events leave as it is, for libraries that compare by identity. */
  copy(): RunState {
    const copy = Object.assign(new RunState(), this);
    copy.content = this.content.map((part) => ({ ...part }));
    copy.steps = this.steps.map((step) => ({ ...step }));
    copy.inputs = [...this.inputs];
    return copy;
  }

  #append(type: "text" | "reasoning" | "refusal", number: number, text: string): void {
    const part = this.content[number];
    if (part === undefined) this.content.push({ type, text } as ContentPart);
    else if ("text" in part) part.text += text;
  }

  call(id: string): Call | undefined {
    return this.content.findLast((part): part is Call => part.type === "tool_call" && part.call_id === id);
  }
}

const HANDLERS: Record<string, (run: RunState, data: Payload) => void> = {
  "run.created": (run) => {
    run.status = "queued";
  },
  snapshot: replaced,
  resync: replaced,
  "run.started": began,
  "run.resumed": began,
  "run.restarted": (run, data) => {
    if ("content" in data) run.load(data);
    began(run);
  },
  "run.queued": (run) => {
    run.status = "queued";
  },
  "run.finished": (run, data) => {
    run.load(data);
    run.status = data["status"];
    run.reason = data["reason"];
    run.error = data["error"] ?? null;
  },
  "step.started": stepStarted,
  "step.delta": (run, data) => {
    const call = run.call(data["step_id"]);
    if (call !== undefined && typeof call.arguments === "string") call.arguments += data["arguments"];
  },
  "step.completed": (run, data) => {
    const step = run.steps.find(({ step_id: id }) => id === data["step_id"]);
    if (step !== undefined) Object.assign(step, { state: data["state"], completed_at: time(data["at"]) });
    const call = run.call(data["step_id"]);
    if (call !== undefined) Object.assign(call, { state: data["state"], result: data["result"] ?? null });
  },
  part: (run, { part }) => {
    const known = run.content.findIndex((other) => other.type === part.type && "id" in other && other.id === part.id);
    if (known < 0) run.content.push(part);
    else run.content[known] = part;
  },
  annotation: (run, { annotation }) => {
    const part = run.content.findLast((other) => other.type === "text") as Payload | undefined;
    if (part !== undefined) part["annotations"] = [...(part["annotations"] ?? []), annotation];
  },
  output: (run, { value }) => {
    run.output = value;
  },
  custom: (run, { name, data }) => {
    if (name === "finish" && typeof data?.finish_reason === "string") run.finishReason = data.finish_reason;
  },
  usage: (run, { call, ...sums }) => {
    const calls = [...(run.usage?.["calls"] ?? []), ...(call ? [call] : [])].slice(0, CALLS_KEPT);
    run.usage = calls.length > 0 ? { ...sums, calls } : sums;
  },
  title: (run, { title }) => {
    run.title = title;
  },
  "approval.required": (run, { action }) => {
    run.status = "requires_action";
    run.action = action;
  },
  "approval.resolved": decided,
  "approval.expired": decided,
  "agent.updated": (run, data) => {
    run.agent = data;
  },
  context_usage: (run, data) => {
    run.contextUsage = data;
  },
  "input.accepted": (run, data) => {
    run.inputs.push({ ...data, part: run.content.length });
  },
};

function replaced(run: RunState, data: Payload): void {
  run.load(data);
  if (run.action !== null) run.status = "requires_action"; // a state stands in for events that would have said so
  else if (!run.isOver) run.status = "running";
}

function began(run: RunState): void {
  run.status = "running";
}

function decided(run: RunState): void {
  run.action = null;
  run.status = "queued";
}

function stepStarted(run: RunState, { step_id: id, kind, name, arguments: given, at }: Payload): void {
  const step = { step_id: id, kind, name, state: "running", started_at: time(at), completed_at: null } as Step;
  const known = run.steps.find((other) => other.step_id === id);
  if (known !== undefined) Object.assign(known, step);
  else run.steps.push(step);
  if (kind !== "tool_call") return;
  const state = typeof given === "string" ? "streaming" : "called";
  const part = { type: "tool_call", call_id: id, name, arguments: given, result: null, state } as Call;
  const call = run.call(id);
  if (call !== undefined) Object.assign(call, part);
  else run.content.push(part);
}

function time(ms: number): string {
  return new Date(ms).toISOString();
}
