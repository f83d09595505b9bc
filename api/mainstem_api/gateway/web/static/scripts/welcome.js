// What stands on the page before the first message.

import { el, icon } from "./dom.js";
import { CHAT_SUGGESTIONS, SUGGESTIONS } from "./engines.js";

/** Return the empty conversation; `pick(suggestion)` starts one. */
export function welcome(engine, pick) {
  const offered = engine === "demo" ? SUGGESTIONS : CHAT_SUGGESTIONS;
  const cards = offered.map((suggestion) => el("li", {}, el("button", { type: "button", class: "suggestion", on: { click: () => pick(suggestion) } },
    icon(suggestion.icon), el("strong", {}, suggestion.title), el("span", {}, suggestion.hint))));
  return el("section", { class: "welcome", "aria-label": "Begin" },
    el("img", { src: "pages/icon.svg", alt: "", width: 52, height: 52 }),
    el("h2", {}, "Start something that finishes"),
    el("p", {}, "Answers here are durable runs. Reload, close the tab or lose the network: they go on, and you miss nothing."),
    el("ul", { class: "suggestions" }, ...cards));
}
