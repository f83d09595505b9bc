/** The gateway's routes as methods. Bodies and answers are those of its OpenAPI document. */

import { failure, MainstemError } from "./errors.js";
import { follow, type FollowOptions, type RunEvent } from "./following.js";
import { RunState } from "./fold.js";
import type {
  AbortReply,
  Description,
  ForkBody,
  ForkReply,
  MessageList,
  paths,
  Receipt,
  ResumeRequest,
  Run,
  RunList,
  StartBody,
  StreamToken,
  ThreadList,
} from "./openapi.js";

type Headers = Record<string, string>;
type Query = Record<string, unknown>;
/** The query of a route that lists. */
type QueryOf<Path extends "/v1/runs" | "/v1/threads" | "/v1/threads/{thread_id}/messages"> = NonNullable<
  paths[Path]["get"]["parameters"]["query"]
>;

const RETRIES = 3;

export interface MainstemOptions {
  /** Where the gateway is; without one, requests go to the page's own origin. */
  baseUrl?: string;
  /** Sent with every request; a function is asked before each, so that it can renew a token. */
  headers?: Headers | (() => Headers | Promise<Headers>);
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

export interface StartOptions extends RequestOptions {
  /** Repeating a start with the same key starts nothing; by default each call has a key of its own. */
  idempotencyKey?: string;
}

/** A client of one gateway. */
export class Mainstem {
  readonly #baseUrl: string;
  readonly #headers: () => Headers | Promise<Headers>;
  readonly #fetch: typeof fetch;

  constructor(options: MainstemOptions = {}) {
    const { headers = {} } = options;
    this.#baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "");
    this.#headers = typeof headers === "function" ? headers : () => headers;
    this.#fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
  }

  /** Start a run on a thread. It is repeated under one key while the gateway is unavailable, so that it starts once. */
  start(threadId: string, body: Partial<StartBody>, options: StartOptions = {}): Promise<Run> {
    const { idempotencyKey = crypto.randomUUID(), ...rest } = options;
    return this.#ask("POST", `threads/${part(threadId)}/runs`, { ...rest, body, headers: { "idempotency-key": idempotencyKey } });
  }

  /** Read a run as of now. */
  get(runId: string, options: RequestOptions = {}): Promise<Run> {
    return this.#ask("GET", `runs/${part(runId)}`, options);
  }

  /** List your runs, or those of a thread, the newest first. */
  runs(query: QueryOf<"/v1/runs"> & { thread_id?: string } = {}, options: RequestOptions = {}): Promise<RunList> {
    const { thread_id: thread, ...rest } = query;
    return this.#ask("GET", thread === undefined ? "runs" : `threads/${part(thread)}/runs`, { ...options, query: rest });
  }

  /** Yield a run's events, each once and in order, until it is over. */
  events(runId: string, options: FollowOptions = {}): AsyncGenerator<RunEvent, void> {
    const query = options.fromSnapshot ? { from: "snapshot" } : {};
    return follow(async (headers, signal) => {
      const url = this.#url(`runs/${part(runId)}/events`, query);
      return this.#fetch(url, { headers: { ...(await this.#headers()), ...headers }, signal, cache: "no-store" });
    }, options);
  }

  /** Yield a run's state after each of its events, until it is over. It is one object that grows: copy what you keep. */
  async *follow(runId: string, options: FollowOptions = {}): AsyncGenerator<RunState, void> {
    const state = new RunState();
    for await (const event of this.events(runId, options)) {
      state.apply(event);
      yield state;
    }
  }

  /** Abort a run; waits up to `waitS` seconds for it to end. What it has produced is kept. */
  abort(runId: string, { waitS = 0, ...options }: RequestOptions & { waitS?: number } = {}): Promise<AbortReply> {
    return this.#ask("POST", `runs/${part(runId)}/abort`, { ...options, query: { wait: waitS } });
  }

  /** Decide what a paused run waits for. */
  resume(runId: string, decision: ResumeRequest, options: RequestOptions = {}): Promise<Run> {
    return this.#ask("POST", `runs/${part(runId)}/resume`, { ...options, body: decision });
  }

  /** Say something to a run while it is at work; the same `inputId` is said once. */
  sendInput(runId: string, text: string, inputId: string = crypto.randomUUID(), options: RequestOptions = {}): Promise<Receipt> {
    return this.#ask("POST", `runs/${part(runId)}/input`, { ...options, body: { text, input_id: inputId } });
  }

  /** Read a page of a thread's messages, oldest first; without a position, the latest ones. */
  messages(
    threadId: string,
    query: QueryOf<"/v1/threads/{thread_id}/messages"> = {},
    options: RequestOptions = {},
  ): Promise<MessageList> {
    return this.#ask("GET", `threads/${part(threadId)}/messages`, { ...options, query });
  }

  /** Copy a thread's history, up to a message or an event, to a new thread; under one key, so that it is made once. */
  forkThread(threadId: string, body: Partial<ForkBody> = {}, options: StartOptions = {}): Promise<ForkReply> {
    const { idempotencyKey = crypto.randomUUID(), ...rest } = options;
    return this.#ask("POST", `threads/${part(threadId)}/fork`, { ...rest, body, headers: { "idempotency-key": idempotencyKey } });
  }

  /** List your threads by their last activity; `search` looks for words of their titles. */
  threads(query: QueryOf<"/v1/threads"> = {}, options: RequestOptions = {}): Promise<ThreadList> {
    return this.#ask("GET", "threads", { ...options, query });
  }

  /** Change a thread's title, labels or metadata: what is left out stays, null clears. */
  describeThread(threadId: string, change: Partial<Description>, options: RequestOptions = {}): Promise<Description> {
    return this.#ask("PATCH", `threads/${part(threadId)}`, { ...options, body: change });
  }

  /** Change a run's title, labels or metadata: what is left out stays, null clears. */
  describeRun(runId: string, change: Partial<Description>, options: RequestOptions = {}): Promise<Run> {
    return this.#ask("PATCH", `runs/${part(runId)}`, { ...options, body: change });
  }

  /** Delete a thread: what is active ends, then everything is removed. */
  async deleteThread(threadId: string, options: RequestOptions = {}): Promise<void> {
    await this.#ask("DELETE", `threads/${part(threadId)}`, options);
  }

  /** Make a token that opens one run's events as the query parameter `token`, for an `EventSource`. */
  streamToken(runId: string, options: RequestOptions = {}): Promise<StreamToken> {
    return this.#ask("POST", `runs/${part(runId)}/stream-token`, options);
  }

  /** Ask the gateway; what is safe to repeat is repeated while it is unavailable. */
  async #ask<Answer>(
    method: string,
    path: string,
    { signal, query, body, headers = {} }: { signal?: AbortSignal; query?: Query; body?: unknown; headers?: Headers },
  ): Promise<Answer> {
    for (let attempt = 1; ; attempt += 1) {
      let problem: unknown;
      try {
        const response = await this.#fetch(this.#url(path, query), {
          method,
          headers: { ...(await this.#headers()), ...headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
          ...(signal === undefined ? {} : { signal }),
        });
        if (response.ok) return (response.status === 204 ? undefined : await response.json()) as Answer;
        problem = await failure(response);
      } catch (error) {
        signal?.throwIfAborted();
        problem = error;
      }
      if (attempt > RETRIES || !isWorthRepeating(problem)) throw problem;
      const seconds = problem instanceof MainstemError ? problem.retryAfter : null;
      await new Promise((resolve) => setTimeout(resolve, Math.min(5_000, seconds === null ? 100 * 2 ** attempt : seconds * 1000)));
    }
  }

  #url(path: string, query: Query = {}): string {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return `${this.#baseUrl}/v1/${path}${search === "" ? "" : `?${search}`}`;
  }
}

/** Every route bears repeating (starts and inputs have keys): what broke on the way, and what is only unavailable for now. */
function isWorthRepeating(problem: unknown): boolean {
  if (problem instanceof MainstemError) return [429, 502, 503, 504].includes(problem.status);
  return problem instanceof TypeError; // what `fetch` throws for a connection that failed
}

function part(id: string): string {
  return encodeURIComponent(id);
}
