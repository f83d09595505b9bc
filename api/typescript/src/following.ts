/**
 * Follows the events of a run: each once and in order, however often the connection breaks.
 *
 * The rules are those of docs/events.md: the id of an event is a cursor; the stream is over after `run.finished` or at a
 * 204, and any other end of it, clean or not, means to connect again with the cursor of the last event.
 */

import { createParser } from "eventsource-parser";

import { failure, MainstemError } from "./errors.js";

/** A stream carries a heartbeat every 15 s; one that is silent for three of them is dead. */
const SILENCE_MS = 45_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;

/** One event of a run. */
export interface RunEvent {
  /** Its id, opaque: what to follow the run after. */
  readonly cursor: string;
  /** Its type; ignore those that you do not know. */
  readonly type: string;
  readonly data: Record<string, any>;
}

export type ConnectionState = "connecting" | "live" | "reconnecting";

export interface FollowOptions {
  /** The cursor of the last event you used; without one, events come from the first. */
  after?: string;
  /** Begin with one `snapshot` in place of the past. */
  fromSnapshot?: boolean;
  /** Ends the iteration, by rejecting with the signal's reason. */
  signal?: AbortSignal;
  /** Is told the state of the connection. */
  onConnection?: (state: ConnectionState) => void;
}

/** Opens the event stream: a request of `…/events`, given its headers. */
export type OpenStream = (headers: Record<string, string>, signal: AbortSignal) => Promise<Response>;

/** Yield a run's events until it is over. Throws a MainstemError for a run that is gone, or that is not yours. */
export async function* follow(open: OpenStream, options: FollowOptions = {}): AsyncGenerator<RunEvent, void> {
  let cursor = options.after;
  let failures = 0;
  options.onConnection?.("connecting");
  for (;;) {
    let retryAfter: number | null = null;
    try {
      for await (const event of connection(open, cursor, options)) {
        failures = 0;
        cursor = event.cursor;
        yield event;
        if (event.type === "run.finished") return;
      }
    } catch (error) {
      options.signal?.throwIfAborted();
      if (error instanceof Over) return;
      if (error instanceof MainstemError) {
        if (!error.isTemporary) throw error;
        retryAfter = error.retryAfter;
      }
      // Everything else is a connection that broke, as connections may.
    }
    failures += 1;
    options.onConnection?.("reconnecting");
    await pause(failures, retryAfter, options.signal);
  }
}

/** The gateway says that nothing more will come. */
class Over extends Error {}

/** Connect once; yields what comes until the stream ends or breaks. */
async function* connection(
  open: OpenStream,
  cursor: string | undefined,
  { signal, onConnection }: FollowOptions,
): AsyncGenerator<RunEvent, void> {
  const controller = new AbortController();
  const stop = () => controller.abort(signal?.reason);
  signal?.addEventListener("abort", stop);
  let heard = Date.now();
  const watchdog = setInterval(() => {
    if (Date.now() - heard > SILENCE_MS) controller.abort();
  }, SILENCE_MS / 9);
  try {
    signal?.throwIfAborted();
    const headers = { accept: "text/event-stream", ...(cursor === undefined ? {} : { "last-event-id": cursor }) };
    const response = await open(headers, controller.signal);
    if (response.status === 204) throw new Over();
    if (!response.ok) throw await failure(response);
    if (response.body === null) throw new TypeError("the answer has no body");
    onConnection?.("live");
    const events: RunEvent[] = [];
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        if (id !== undefined) events.push({ cursor: id, type: event ?? "message", data: JSON.parse(data) });
      },
    });
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard = Date.now();
      parser.feed(decoder.decode(value, { stream: true }));
      yield* events.splice(0);
    }
  } finally {
    clearInterval(watchdog);
    signal?.removeEventListener("abort", stop);
    controller.abort();
  }
}

/** Wait before the next attempt: longer each time and never in step with others, or as long as the gateway asks. */
function pause(failures: number, retryAfter: number | null, signal: AbortSignal | undefined): Promise<void> {
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures);
  const ms = retryAfter === null ? longest * (0.5 + Math.random() / 2) : retryAfter * 1000;
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
