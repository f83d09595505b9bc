// The state of the connection, for people: live while a run streams, reconnecting, offline, and otherwise nothing.

import { byId, el, setText } from "./dom.js";

const WORDS = { live: "Live", connecting: "Connecting", reconnecting: "Reconnecting", offline: "Offline", connected: "Connected" };

export class Connection {
  constructor() {
    this.node = byId("connection");
    this.label = el("span");
    this.node.replaceChildren(el("i", { class: "dot" }), this.label);
    this.stream = null; // of the run that is followed; null: none is
    this.reached = true; // the last request got an answer
    window.addEventListener("online", () => this.show());
    window.addEventListener("offline", () => this.show());
    this.show();
  }

  /** Note the state of the stream, or `ended`. */
  streams(state) {
    this.stream = state === "ended" ? null : state;
    this.show();
  }

  /** Note whether a request got an answer. */
  answered(reached) {
    this.reached = reached;
    this.show();
  }

  get state() {
    if (!navigator.onLine) return "offline";
    if (this.stream) return this.stream;
    return this.reached ? "connected" : "reconnecting";
  }

  show() {
    const { state } = this;
    clearTimeout(this.later);
    // A connection that is made at once is no news.
    if (state === "connecting") this.later = setTimeout(() => this.say("connecting"), 600);
    else this.say(state);
  }

  say(state) {
    this.node.hidden = false;
    this.node.dataset.state = state;
    setText(this.label, WORDS[state]);
  }
}
