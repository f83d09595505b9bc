// Parsing away from the page: one worker gets one text after the other, each for a limited time. A text that takes longer,
// or ends the worker, has no tree; the next text gets a new worker.

const DEADLINE_MS = 750;
const BOOT_MS = 15_000; // a machine may be busy when a page opens
const FAILED_BOOTS = 3; // in a row: this browser does not let us have a worker

class Parsing {
  constructor() {
    this.waiting = [];
    this.current = null;
    this.worker = null;
    this.ready = false;
    this.failed = 0;
  }

  /** Return `{ tree, ms }`: the tree of a text or null, and how long that took; requests are answered in their order. */
  parse(source, links) {
    return new Promise((resolve) => {
      this.waiting.push({ source, links, resolve });
      this.go();
    });
  }

  go() {
    if (this.failed >= FAILED_BOOTS) {
      for (const { resolve } of this.waiting.splice(0)) resolve({ tree: null, ms: 0 });
      return;
    }
    if (!this.waiting.length || this.current) return;
    if (!this.worker) this.boot();
    if (!this.ready || !this.waiting.length) return;
    this.current = this.waiting.shift();
    this.began = performance.now();
    this.timer = setTimeout(() => this.lost(), DEADLINE_MS);
    this.worker.postMessage({ source: this.current.source, links: this.current.links });
  }

  boot() {
    let worker;
    try {
      worker = this.worker = new Worker(new URL("./treeworker.js", import.meta.url), { type: "module" });
    } catch { // a policy of this browser
      this.failed = FAILED_BOOTS;
      this.go();
      return;
    }
    worker.addEventListener("message", ({ data }) => { if (worker === this.worker) this.heard(data); });
    worker.addEventListener("error", (event) => { event.preventDefault(); if (worker === this.worker) this.lost(); });
    this.timer = setTimeout(() => this.lost(), BOOT_MS);
  }

  heard(data) {
    clearTimeout(this.timer);
    this.failed = 0;
    if (data.ready) this.ready = true;
    else this.answer(data.tree);
    this.go();
  }

  /** Give the worker up, and with it what it was at. */
  lost() {
    clearTimeout(this.timer);
    if (!this.ready) this.failed += 1;
    this.worker.terminate();
    this.worker = null;
    this.ready = false;
    this.answer(null);
    this.go();
  }

  answer(tree) {
    const { current } = this;
    this.current = null;
    current?.resolve({ tree, ms: performance.now() - this.began });
  }
}

const parsing = new Parsing();

/** Return the tree of a Markdown text (`trees.js`), null if it cannot be had, and the milliseconds it took. */
export const parse = (source, links) => parsing.parse(source, links);
