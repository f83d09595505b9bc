// Callbacks that are not delivered: of which run, to whom, how often it was tried, what came of it, when it is tried
// next; and a button that has them sent again. For admins, on the page of all runs and on that of one.

import * as api from "./api.js";
import { announce, byId, el, notify, span } from "./dom.js";

export class UndeliveredCallbacks {
  /** Show those that `accepts` in the page's section; `link`: say of which run each is. */
  constructor({ accepts, link = false }) {
    this.accepts = accepts;
    this.link = link;
    this.shown = "";
  }

  async load() {
    try {
      this.show((await api.callbacks()).callbacks.filter(this.accepts));
    } catch (error) {
      if (error.status && error.status !== 401) notify(error.message);
    }
  }

  show(found) {
    byId("undelivered").hidden = !found.length;
    const shown = JSON.stringify(found);
    if (shown === this.shown) return; // a button keeps its focus
    this.shown = shown;
    const at = [...byId("undelivered-list").querySelectorAll("button")].indexOf(document.activeElement);
    byId("undelivered-list").replaceChildren(...found.map((one) => this.item(one)));
    if (at < 0) return;
    const buttons = byId("undelivered-list").querySelectorAll("button");
    (buttons[Math.min(at, buttons.length - 1)] ?? document.querySelector("a.button")).focus();
  }

  item(one) {
    const run = el("a", { href: `runs/${encodeURIComponent(one.run_id)}` }, one.run_id);
    const again = el("button", { type: "button", class: "button small", "aria-label": `Send again to ${one.target}` }, "Send again");
    again.addEventListener("click", () => this.send(one));
    return el("li", { data: { event: one.event_id } },
      el("div", {}, el("strong", {}, one.target), this.link ? run : null,
        el("span", { class: "detail" }, said(one)), one.error ? el("span", { class: "detail" }, one.error) : null),
      again);
  }

  async send(one) {
    try {
      const { told } = await api.resend(one.run_id);
      announce(told === 1 ? "It is sent again." : `${told} are sent again.`);
    } catch (error) {
      notify(error.message);
    }
    await this.load();
  }
}

function said(one) {
  const last = one.last_attempt_at ? `, last ${ago(one.last_attempt_at)}` : "";
  const next = one.given_up ? "given up" : `next try ${until(one.next_attempt_at)}`;
  return `${one.type} · tried ${one.attempts === 1 ? "once" : `${one.attempts} times`}${last} · ${next}`;
}

const ago = (at) => `${span(Math.max(0, Date.now() - Date.parse(at)))} ago`;

function until(at) {
  const ms = Date.parse(at) - Date.now();
  return ms > 0 ? `in ${span(ms)}` : "now";
}
