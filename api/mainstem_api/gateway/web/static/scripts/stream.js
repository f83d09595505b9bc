// Following a run: its events over a streaming fetch, which unlike EventSource can carry a token in a header. Breaks are
// expected: it connects again with the id of the last event it used, until `run.finished` came.

import { address, authorization, problem } from "./api.js";
import { breath } from "./dom.js";

const SILENCE_MS = 45_000; // a stream carries a heartbeat every 15 s; one that is silent for three of them is dead
const LONGEST_PAUSE_MS = 5_000;
const SLICE_MS = 12; // of reading without a break, when much comes at once
const HIDDEN_MS = 60_000; // a tab that nobody looks at gives its connection back: browsers have six for one gateway

/**
 * Follow a run. `event(type, data)` gets each event once, in order; `state(name)` gets `connecting`, `live`,
 * `reconnecting`; `end(why)` is called once: `finished`, `gone` or the error of a refusal.
 */
export class Follower {
  constructor(runId, { cursor = null, event, state, end }) {
    this.runId = runId;
    this.cursor = cursor;
    this.handlers = { event, state, end };
    this.stopped = false;
    this.abort = null;
    this.wake = null;
    this.nudge = () => this.wake?.();
    this.look = () => this.visibility();
    window.addEventListener("online", this.nudge);
    window.addEventListener("mainstem:token", this.nudge);
    document.addEventListener("visibilitychange", this.look);
    this.run();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.resting);
    window.removeEventListener("online", this.nudge);
    window.removeEventListener("mainstem:token", this.nudge);
    document.removeEventListener("visibilitychange", this.look);
    this.abort?.abort();
    this.wake?.();
  }

  visibility() {
    clearTimeout(this.resting);
    if (document.hidden) this.resting = setTimeout(() => { this.rests = true; this.abort?.abort(); }, HIDDEN_MS);
    else { this.rests = false; this.wake?.(); }
  }

  finish(why) {
    if (this.stopped) return;
    this.stop();
    this.handlers.end(why);
  }

  async run() {
    let failures = 0;
    this.handlers.state("connecting");
    while (!this.stopped) {
      let progressed = false;
      try {
        progressed = await this.connect();
      } catch (error) {
        if (this.stopped) return;
        if (error.status === 404) return this.finish("gone");
        if (error.status >= 400 && error.status < 500 && ![401, 408, 425, 429].includes(error.status)) return this.finish(error);
      }
      if (this.stopped) return;
      failures = progressed ? 0 : failures + 1;
      this.handlers.state("reconnecting");
      await this.pause(failures);
    }
  }

  /** Wait before the next attempt: longer each time, but not once the network or the reader is back. */
  pause(failures) {
    const longest = Math.min(LONGEST_PAUSE_MS, 200 * 2 ** failures);
    return new Promise((resolve) => {
      const timer = this.rests ? 0 : setTimeout(resolve, longest * (0.5 + Math.random() / 2));
      this.wake = () => { clearTimeout(timer); this.wake = null; resolve(); };
    });
  }

  /** Connect once; returns whether anything came before the stream broke. */
  async connect() {
    this.abort = new AbortController();
    const headers = { Accept: "text/event-stream", ...authorization(), ...(this.cursor ? { "Last-Event-ID": this.cursor } : {}) };
    let heard = Date.now();
    const watchdog = setInterval(() => { if (Date.now() - heard > SILENCE_MS) this.abort.abort(); }, 5_000);
    let progressed = false;
    try {
      const response = await fetch(address(`v1/runs/${encodeURIComponent(this.runId)}/events`), {
        headers, signal: this.abort.signal, cache: "no-store",
      });
      if (response.status === 204) return this.finish("finished");
      if (!response.ok) throw await problem(response);
      this.handlers.state("live");
      const reader = response.body.getReader();
      const parser = new Parser((id, type, data) => this.take(id, type, data));
      for (let began = performance.now(); ;) {
        if (performance.now() - began > SLICE_MS) { await breath(); began = performance.now(); }
        const { done, value } = await reader.read();
        if (done || this.stopped) return progressed;
        heard = Date.now();
        progressed = true;
        parser.feed(value);
      }
    } catch (error) {
      if (error.status || this.stopped) throw error;
      return progressed; // the stream broke, as it may
    } finally {
      clearInterval(watchdog);
      this.abort.abort();
    }
  }

  take(id, type, data) {
    if (this.stopped) return;
    this.handlers.event(type, JSON.parse(data));
    if (id) this.cursor = id; // only now: an event counts once it was used
    if (type === "run.finished") this.finish("finished");
  }
}

/** Server-sent events out of bytes, however they are cut. */
export class Parser {
  constructor(emit) {
    this.emit = emit;
    this.decoder = new TextDecoder();
    this.rest = []; // pieces of a block whose end did not come yet: only new pieces are searched for it
  }

  feed(bytes) {
    const text = (this.rest.at(-1)?.endsWith("\n") ? this.rest.pop() : "") + this.decoder.decode(bytes, { stream: true });
    const blocks = text.split("\n\n");
    const rest = blocks.pop();
    for (const block of blocks) this.block(this.rest.splice(0).join("") + block);
    if (rest) this.rest.push(rest);
  }

  block(block) {
    let id = null;
    let type = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("event:")) type = line.slice(6).trim();
      else if (line.startsWith("id:")) id = line.slice(3).trim();
    }
    if (data.length) this.emit(id, type, data.join("\n"));
  }
}
