// The chat page: which thread is open, its turns, and who follows what. The gateway holds the truth; this page reads
// messages and the list of threads every few seconds, so that what other tabs, clients and devices do shows here too.

import * as api from "./api.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { announce, breath, byId, el, icon, notify, setText } from "./dom.js";
import { Engines, promptOf } from "./engines.js";
import { exchanges, isOver, runOf, textOf } from "./exchanges.js";
import { guard } from "./identity.js";
import { unanswered } from "./said.js";
import { Threads } from "./threads.js";
import { Turn } from "./turn.js";
import { firstText, line } from "./values.js";
import { welcome } from "./welcome.js";

const PAGE = 100; // messages that are read at a time
const POLL_MS = 4_000;
const NEAR_PX = 80;
const TOUCHED_MS = 1_000;

class Chat {
  constructor() {
    this.turns = new Map();
    this.thread = null;
    this.engines = new Engines([]);
    this.connection = new Connection();
    this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop(), takesFiles: (name) => this.engines.takesFiles(name) });
    this.threads = new Threads({
      open: () => this.sidebar(false),
      remove: (id) => this.remove(id),
      rename: (id, title) => this.rename(id, title),
      search: () => this.poll(),
    });
    this.branch = null; // a message of the branch that is open; null: the latest one
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

  clear() {
    for (const turn of this.turns.values()) turn.close();
    this.turns.clear();
    this.column.replaceChildren();
  }

  close() {
    this.clear();
    this.branch = null;
    this.newest = null;
    this.pinned = true;
    this.top = 0;
    this.connection.streams("ended");
    notify(null);
  }

  /** Read the open thread's latest messages, on the branch that is open; add what is new, follow what runs. */
  async load() {
    const { thread, branch } = this;
    let page;
    try {
      if (!this.turns.size && !await api.hasBegun(thread)) return this.show(); // nothing was said there yet
      page = await api.messages(thread, { limit: PAGE, branch });
    } catch (error) {
      if (error.status === 404) this.show();
      else if (error.status !== 401) notify(error.message, { label: "Try again", run: () => { notify(null); this.load(); } });
      return;
    }
    const found = exchanges(page.messages);
    const first = found[0]?.id;
    const isCurrent = () => thread === this.thread && branch === this.branch;
    if (!isCurrent()) return; // somebody was quicker
    if (!this.turns.has(first)) this.clear();
    if (!this.turns.size) this.offerEarlier(page.previous);
    this.keep(first, new Set(found.map(({ id }) => id)));
    for (const exchange of found) {
      const run = await this.runOf(exchange);
      if (!isCurrent()) return;
      if (run) this.add(exchange, run);
      await breath(); // each may be large
      if (!isCurrent()) return;
    }
    this.unanswered(found.at(-1));
    this.show();
    this.attach();
  }

  /** Return the run of an exchange: of one that is not over as it is now, so that it can be followed from there. */
  async runOf({ answer }) {
    if (!answer) return null;
    const known = this.turns.get(answer.run_id);
    if (isOver(answer) || known?.follower) return runOf(answer);
    try {
      return await api.getRun(answer.run_id);
    } catch {
      return runOf(answer);
    }
  }

  /** Take what stands on another branch off the page: turns from `first` on that are not among these. */
  keep(first, ids) {
    let within = false;
    for (const [id, turn] of this.turns) {
      within ||= id === first;
      if (!within || ids.has(id)) continue;
      turn.close();
      turn.node.remove();
      this.turns.delete(id);
    }
  }

  /** Show what was said at the end and not answered: a thread may be forked there. */
  unanswered(last) {
    this.column.querySelector(".unanswered")?.remove();
    if (last && !last.answer) this.column.append(unanswered(last.said, { edit: (message, text) => this.edit(message, text), open: (id) => this.open(id) }));
  }

  /** Show the branch on which a message stands. */
  async open(id) {
    this.branch = id;
    this.pinned = false;
    await this.load();
    const shown = [...this.turns.values()].find((turn) => turn.run.run_id === id) ?? [...this.turns.values()].find(({ node }) => node.querySelector(`[data-message="${CSS.escape(id)}"]`));
    shown?.node.scrollIntoView({ block: "nearest" });
    announce("Another version is shown.");
  }

  /** A turn changed in more than its text. */
  noticed(turn, status) {
    this.update();
    if (turn && turn.noted !== status && turn.noted !== undefined) this.soon(); // the list shows states, too
    if (turn) turn.noted = status;
  }

  add({ said, answer }, run, before = null) {
    const known = this.turns.get(run.run_id);
    if (known) {
      if (answer) known.updates(said, answer);
      known.refresh(run);
      return known;
    }
    let turn = null; // it renders before it is returned
    turn = new Turn({ run, said, answer }, {
      connection: (state) => this.connection.streams(state),
      changed: (state) => this.noticed(turn, state),
      grown: () => this.pin(),
      again: () => this.attach(),
      retry: (ended) => this.retry(ended).catch((error) => notify(error.message)),
      send: (text) => this.send(text),
      edit: (message, text) => this.edit(message, text),
      open: (id) => this.open(id),
    });
    this.turns.set(run.run_id, turn);
    this.column.insertBefore(turn.node, before);
    return turn;
  }

  /** Show that there is more above, and read it when asked to. */
  offerEarlier(previous) {
    this.column.querySelector(".earlier")?.remove();
    if (!previous) return;
    const button = el("button", { type: "button", class: "button quiet earlier" }, "Show earlier messages");
    button.addEventListener("click", async () => {
      button.disabled = true;
      const { scrollHeight } = this.scroller;
      try {
        const { thread, branch } = this;
        const page = await api.messages(thread, { limit: PAGE, branch, before: previous });
        if (thread !== this.thread || branch !== this.branch) return;
        this.prepend(exchanges(page.messages));
        this.offerEarlier(page.previous);
        this.scroller.scrollTop += this.scroller.scrollHeight - scrollHeight; // what was read stays where it is
      } catch (error) {
        button.disabled = false;
        notify(error.message);
      }
    });
    this.column.prepend(button);
  }

  /** Put earlier exchanges before the others; what was said last there belongs to the first of those. */
  prepend(found) {
    const later = [...this.turns];
    const [, oldest] = later[0] ?? [];
    const last = found.at(-1);
    if (last && !last.answer) {
      oldest?.says([...last.said, ...oldest.said]);
      found.pop();
    }
    this.turns.clear();
    for (const exchange of found) this.add(exchange, runOf(exchange.answer), oldest?.node ?? null);
    for (const [id, turn] of later) this.turns.set(id, turn);
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
    const [first] = this.turns.values();
    const title = line(firstText(this.threads.title(this.thread), first?.fold.title, first?.said.map(textOf).join(" "), this.thread, "New conversation"));
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
    const files = this.composer.take();
    try {
      if (active) await this.say(active, text);
      else await this.start(text, { switches, files });
    } catch (error) {
      this.composer.restore(thread, text, files); // nothing that was written gets lost
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
  async retry({ run, answer }) {
    const engine = run.engine ?? (await api.getRun(run.run_id)).engine;
    const input = await api.getInput(run.run_id);
    if (input.history) input.messages = input.messages.filter(({ role }) => role === "system"); // the rest is history
    await this.begun({ engine, input, parent: answer?.parent ?? `${run.run_id}.in` });
  }

  /** Say something else in a message's place: its sibling, with the same files. */
  async edit(message, text) {
    try {
      const { engine } = await api.getRun(message.run_id);
      const input = await api.getInput(message.run_id);
      await this.begun({ engine, input: this.engines.edited(engine, input, text), parent: message.parent ?? "root", metadata: { prompt: line(text) } });
    } catch (error) {
      notify(error.message);
    }
  }

  /** Start a run on the open thread, or on a new one; after what is open, if that is not the latest branch. */
  async start(text, { switches = new Set(), files = [] }) {
    const { engine } = this.composer;
    const input = this.engines.input(engine, text, { switches, files });
    const last = this.branch && [...this.turns.keys()].at(-1);
    await this.begun({ engine, input, metadata: { prompt: promptOf(text, files) }, ...(last ? { parent: last } : {}) });
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
    if (this.thread !== open) return this.poll(); // somebody went elsewhere meanwhile: the list leads back
    if (!open) {
      this.thread = thread;
      history.pushState(null, "", `#thread=${encodeURIComponent(thread)}`);
      this.composer.begun(thread);
      this.column.replaceChildren();
    }
    this.poll();
    this.pinned = true;
    this.branch = null;
    this.newest = run.run_id;
    await this.load();
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

  async rename(thread, title) {
    try {
      await api.describeThread(thread, { title });
      announce("Conversation renamed.");
    } catch (error) {
      notify(error.message);
    }
    this.others?.postMessage("renamed");
    this.poll();
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
      const { query } = this.threads;
      const found = await api.threads(query);
      this.connection.answered(true);
      if (query.search !== this.threads.query.search) return this.poll(); // somebody went on typing
      this.threads.update(found, this.thread);
      if (this.turns.size) this.update();
      for (const turn of this.turns.values()) turn.card?.tick();
      if (!this.engines.names.length) await this.learnEngines(); // no worker had been up yet
      if (found.threads.some((thread) => this.isNews(thread))) await this.load();
    } catch (error) {
      this.connection.answered(error.status !== undefined);
    }
    clearTimeout(this.polling);
    if (!document.hidden) this.polling = setTimeout(() => this.poll(), this.connection.reached ? POLL_MS : 1500);
  }

  /** Whether the open thread has a newer run than was read, or that run is further than what stands here. */
  isNews({ thread_id: id, run_id: newest, status }) {
    if (id !== this.thread) return false;
    const known = this.turns.get(newest);
    if (known) return !known.isOver && !known.follower && status !== known.fold.status;
    if (newest === this.newest) return false;
    this.newest = newest;
    return true;
  }
}

const chat = new Chat();
chat.begin();
