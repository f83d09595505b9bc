// The chat page: which thread is open, its turns, and who follows what. The gateway holds the truth; this page reads the
// overview every few seconds, so that what other tabs, clients and devices do shows here too.

import * as api from "./api.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { announce, breath, byId, el, icon, notify, setText } from "./dom.js";
import { Engines } from "./engines.js";
import { guard } from "./identity.js";
import { Threads } from "./threads.js";
import { Turn } from "./turn.js";
import { firstText, line } from "./values.js";
import { welcome } from "./welcome.js";

const POLL_MS = 4_000;
const NEAR_PX = 80;
const TOUCHED_MS = 1_000;

class Chat {
  constructor() {
    this.turns = new Map();
    this.thread = null;
    this.engines = new Engines([]);
    this.connection = new Connection();
    this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop() });
    this.threads = new Threads({ open: () => this.sidebar(false), remove: (id) => this.remove(id) });
    this.others = "BroadcastChannel" in window ? new BroadcastChannel("mainstem") : null;
    this.others?.addEventListener("message", () => this.poll());
    this.column = byId("turns");
    this.scroller = byId("scroller");
    this.top = 0; // where the scroller was last …
    this.height = 0; // … how high its content was …
    this.touched = -TOUCHED_MS; // … and when somebody last did what scrolls
    // At once, not when the gateway has answered: somebody may be writing already.
    this.composer.turnTo(new URLSearchParams(location.hash.slice(1)).get("thread"));
    this.dress();
    this.listen();
  }

  dress() {
    byId("new-chat").prepend(icon("plus"));
    byId("open-sidebar").append(icon("menu"));
    byId("close-sidebar").append(icon("close"));
    byId("theme").append(icon("theme"));
    byId("to-latest").prepend(icon("down"));
  }

  listen() {
    byId("theme").addEventListener("click", () => announce(`${window.mainstemTheme.toggle()} colours`));
    byId("new-chat").addEventListener("click", () => { location.hash = ""; this.sidebar(false); this.composer.field.focus(); });
    byId("brand").addEventListener("click", (event) => { event.preventDefault(); location.hash = ""; });
    byId("skip").addEventListener("click", (event) => { event.preventDefault(); this.composer.field.focus(); });
    byId("open-sidebar").addEventListener("click", () => this.sidebar(true));
    byId("close-sidebar").addEventListener("click", () => this.sidebar(false));
    byId("veil").addEventListener("click", () => this.sidebar(false));
    byId("to-latest").addEventListener("click", () => { this.pinned = true; this.pin(); });
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    for (const type of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      this.scroller.addEventListener(type, () => { this.touched = performance.now(); }, { passive: true });
    }
    this.composer.engineMenu.addEventListener("change", () => { if (!this.turns.size) this.show(); });
    window.addEventListener("hashchange", () => this.route());
    window.addEventListener("online", () => this.poll());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
    document.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.pin()).observe(this.column);
    guard(() => this.begin());
  }

  key(event) {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (document.body.classList.contains("sidebar-open")) this.sidebar(false);
    else if (!event.target.closest?.("dialog, .action-card") && this.active) this.stop();
  }

  sidebar(open) {
    document.body.classList.toggle("sidebar-open", open);
    byId("veil").hidden = !open;
    byId("open-sidebar").setAttribute("aria-expanded", String(open));
    if (open) byId("close-sidebar").focus();
  }

  // -- what is open

  async begin() {
    clearTimeout(this.again);
    try {
      await this.learnEngines();
      this.connection.answered(true);
    } catch (error) {
      this.connection.answered(false);
      if (error.status === 401) return; // the sign-in dialog is open; a token begins again
      this.again = setTimeout(() => this.begin(), 1500);
      return;
    }
    await this.route();
    this.poll();
  }

  async learnEngines() {
    const { engines } = await api.me();
    this.engines = new Engines(engines);
    this.composer.offer(this.engines);
  }

  async route() {
    const fragment = new URLSearchParams(location.hash.slice(1));
    if (fragment.has("token")) { api.takeToken(); return; }
    const runId = fragment.get("run");
    const thread = fragment.get("thread") ?? (runId ? await this.threadOf(runId) : null);
    if (thread === this.thread && thread) return;
    this.close();
    this.thread = thread;
    this.composer.turnTo(thread);
    this.show();
    if (thread) await this.load();
  }

  async threadOf(runId) {
    try {
      return (await api.getRun(runId)).thread_id;
    } catch (error) {
      notify(error.status === 404 ? "That run is gone, or it is not yours." : error.message);
      return null;
    }
  }

  close() {
    for (const turn of this.turns.values()) turn.close();
    this.turns.clear();
    this.pinned = true;
    this.top = 0;
    this.column.replaceChildren();
    this.connection.streams("ended");
    notify(null);
  }

  /** Read the open thread's newest runs, add what is new, follow what runs. */
  async load() {
    const { thread } = this;
    let page;
    try {
      page = await api.threadRuns(thread, { limit: 20 });
    } catch (error) {
      if (error.status !== 401) notify(error.message, { label: "Try again", run: () => { notify(null); this.load(); } });
      return;
    }
    if (thread !== this.thread) return; // somebody was quicker
    if (!this.turns.size) this.offerEarlier(page.next);
    const said = page.runs.length ? await this.said(thread) : new Map(); // a new thread has no messages yet
    for (const run of page.runs.reverse()) {
      this.add(Object.assign(run, said.get(run.run_id)));
      await breath(); // each may be large
      if (thread !== this.thread) return;
    }
    this.show();
    this.attach();
  }

  /** What users said, by run, as the server has it: whole, and which message a run answers. */
  async said(thread) {
    const found = new Map();
    try {
      const { messages } = await api.messages(thread, { limit: 100 });
      const texts = new Map(messages.filter(({ role }) => role === "user").map(({ id, parts }) => [id, textOf(parts)]));
      for (const { id, role, parent } of messages) if (role === "assistant") found.set(id, { asks: parent, said: texts.get(parent) });
    } catch { /* what stands in the runs is shown */ }
    return found;
  }

  /** A turn changed in more than its text. */
  noticed(turn, status) {
    this.update();
    if (turn && turn.noted !== status && turn.noted !== undefined) this.soon(); // the list shows states, too
    if (turn) turn.noted = status;
  }

  add(run, before = null) {
    const known = this.turns.get(run.run_id);
    if (known) {
      known.refresh(run);
      return known;
    }
    let turn = null; // it renders before it is returned
    turn = new Turn(run, {
      connection: (state) => this.connection.streams(state),
      changed: (state) => this.noticed(turn, state),
      grown: () => this.pin(),
      again: () => this.attach(),
      retry: (failed) => this.retry(failed.run).catch((error) => notify(error.message)),
      send: (text) => this.send(text),
    });
    this.turns.set(run.run_id, turn);
    this.column.insertBefore(turn.node, before);
    return turn;
  }

  /** Show that there is more above, and read it when asked to. */
  offerEarlier(cursor) {
    this.column.querySelector(".earlier")?.remove();
    if (!cursor) return;
    const button = el("button", { type: "button", class: "button quiet earlier" }, "Show earlier messages");
    button.addEventListener("click", async () => {
      button.disabled = true;
      const { scrollHeight } = this.scroller;
      try {
        const { thread } = this;
        const page = await api.threadRuns(thread, { limit: 20, cursor });
        if (thread !== this.thread) return;
        const later = [...this.turns];
        this.turns.clear();
        for (const run of page.runs.reverse()) this.add(run, later[0]?.[1].node ?? null);
        for (const [id, turn] of later) this.turns.set(id, turn);
        this.offerEarlier(page.next);
        this.scroller.scrollTop += this.scroller.scrollHeight - scrollHeight; // what was read stays where it is
      } catch (error) {
        button.disabled = false;
        notify(error.message);
      }
    });
    this.column.prepend(button);
  }

  /** Follow the run that is at work on this thread; those that wait behind it have nothing to say yet. */
  attach() {
    const active = [...this.turns.values()].filter((turn) => !turn.isOver);
    for (const turn of active.slice(1)) turn.leave();
    active[0]?.follow();
    this.update();
  }

  get active() {
    return [...this.turns.values()].find((turn) => !turn.isOver) ?? null;
  }

  // -- what shows

  show() {
    const empty = !this.turns.size && !this.thread;
    if (empty) this.column.replaceChildren(welcome(this.composer.engine, (picked) => this.pick(picked)));
    else this.column.querySelector(".welcome")?.remove();
    this.update();
  }

  update() {
    const { active } = this;
    this.composer.mode(!active ? "idle" : active.fold.status === "requires_action" ? "paused" : "active");
    const first = [...this.turns.values()][0];
    const said = first?.run.metadata ?? {};
    const title = line(firstText(first?.fold.title, said.thread_title, said.prompt, this.thread, "New conversation"));
    setText(byId("title"), title);
    const mark = { running: "● ", requires_action: "? ", queued: "○ " }[active?.fold.status] ?? "";
    document.title = this.turns.size ? `${mark}${title} · Mainstem` : "Mainstem";
    active?.follow(); // what was queued behind the run that ended is at work now
    this.pin();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    // Somebody went up? Browsers scroll, too, while what is above or below changes its size.
    const bySomebody = scrollHeight === this.height || performance.now() - this.touched < TOUCHED_MS;
    if (scrollHeight - scrollTop - clientHeight < NEAR_PX) this.pinned = true;
    else if (scrollTop < this.top && bySomebody) this.pinned = false;
    this.top = scrollTop;
    this.height = scrollHeight;
    byId("to-latest").hidden = this.pinned;
  }

  pin() {
    if (document.activeElement?.closest(".action-card")) return; // nothing moves under somebody who decides
    if (this.pinned) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.scrolled();
  }

  // -- what people do

  pick({ message, switches }) {
    this.send(message, { switches: new Set(switches) });
  }

  async send(text, { switches = this.composer.switches.on } = {}) {
    if (this.sending) return;
    const { active, thread } = this;
    notify(null);
    this.sending = true;
    this.composer.write("");
    try {
      if (active) await this.say(active, text);
      else await this.start(text, { switches });
    } catch (error) {
      this.composer.restore(thread, text); // nothing that was written gets lost
      notify(error.message);
    } finally {
      this.sending = false;
    }
    if (matchMedia("(hover: hover)").matches) this.composer.field.focus(); // on phones the keyboard would cover the answer
  }

  async say(turn, text) {
    try {
      turn.expects(await api.steer(turn.run.run_id, text), text);
    } catch (error) {
      if (error.code !== "not_active") throw error;
      await this.start(text, {}); // it ended this very moment
    }
    this.pin();
  }

  /** Have what a run was asked answered again: a sibling of its answer, with the input as the server has it. */
  async retry(run) {
    const input = await api.getInput(run.run_id);
    if (input.history) input.messages = input.messages.filter(({ role }) => role === "system"); // the rest is history
    const metadata = { thread_title: this.threadTitle("") };
    await this.begun({ engine: run.engine, input, metadata, parent: run.asks ?? `${run.run_id}.in` });
  }

  /** Start a run on the open thread, or on a new one. */
  async start(text, { switches = new Set() }) {
    const { engine } = this.composer;
    const input = this.engines.input(engine, text, { history: this.history(), switches });
    await this.begun({ engine, input, metadata: { prompt: text.slice(0, 4000), thread_title: this.threadTitle(text) } });
  }

  async begun(body) {
    const open = this.thread;
    const thread = open ?? `chat-${api.newId().slice(0, 16)}`;
    let run;
    try {
      run = await api.start(thread, body);
    } catch (error) {
      if (error.code === "thread_busy") this.load(); // another tab was quicker: show what it started
      throw error;
    }
    this.others?.postMessage("started");
    this.poll();
    if (this.thread !== open) return; // somebody went elsewhere meanwhile: the list leads back
    if (!open) {
      this.thread = thread;
      history.pushState(null, "", `#thread=${encodeURIComponent(thread)}`);
      this.composer.begun(thread);
      this.column.replaceChildren();
    }
    this.pinned = true;
    this.add(run);
    this.attach();
  }

  threadTitle(text) {
    const [first] = this.turns.values();
    return firstText(first?.run.metadata?.thread_title, text.slice(0, 120));
  }

  /** What was said on this thread so far, for engines that want it. */
  history() {
    return [...this.turns.values()].flatMap(({ run, fold }) => [
      ...(firstText(run.metadata?.prompt) ? [{ role: "user", content: run.metadata.prompt }] : []),
      ...(fold.text ? [{ role: "assistant", content: fold.text }] : []),
    ]);
  }

  async stop() {
    const { active } = this;
    if (!active) return;
    try {
      await api.abort(active.run.run_id);
    } catch (error) {
      notify(error.message, { label: "Try again", run: () => { notify(null); this.stop(); } });
    }
    this.others?.postMessage("stopped");
  }

  async remove(thread) {
    try {
      await api.deleteThread(thread);
    } catch (error) {
      notify(error.message);
      return;
    }
    if (thread === this.thread) location.hash = "";
    announce("Conversation deleted.");
    this.others?.postMessage("deleted");
    this.poll();
  }

  // -- what others do

  soon() {
    clearTimeout(this.polling);
    this.polling = setTimeout(() => this.poll(), 150);
  }

  async poll() {
    clearTimeout(this.polling);
    try {
      const { runs } = await api.overview({ limit: 60 });
      this.connection.answered(true);
      this.threads.update(runs, this.thread);
      for (const turn of this.turns.values()) turn.card?.tick();
      if (!this.engines.names.length) await this.learnEngines(); // no worker had been up yet
      if (runs.some((run) => this.isNews(run))) await this.load();
    } catch (error) {
      this.connection.answered(error.status !== undefined);
    }
    clearTimeout(this.polling);
    if (!document.hidden) this.polling = setTimeout(() => this.poll(), this.connection.reached ? POLL_MS : 1500);
  }

  /** Whether a run of the open thread is not here yet, or is further than what stands here. */
  isNews(run) {
    if (run.thread_id !== this.thread) return false;
    const known = this.turns.get(run.run_id);
    if (!known) return true;
    return !known.isOver && !known.follower && run.status !== known.fold.status;
  }
}

const textOf = (parts) => parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");

const chat = new Chat();
chat.begin();
