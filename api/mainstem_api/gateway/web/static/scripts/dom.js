// Elements, icons and small words. Text only ever becomes text nodes: nothing here, or anywhere in these pages, parses
// HTML from strings.

/** Return an element. Properties: `class`, `data`, `on` (listeners); all others are attributes, null ones are left out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  send: ["M12 19V5", "M5.5 11.5 12 5l6.5 6.5"],
  stop: ["M7 7h10v10H7z"],
  plus: ["M12 5v14", "M5 12h14"],
  menu: ["M4 7h16", "M4 12h16", "M4 17h10"],
  close: ["M6 6l12 12", "M18 6 6 18"],
  theme: ["M12 3.5a8.5 8.5 0 1 0 0 17z", "M12 3.5a8.5 8.5 0 0 1 0 17"],
  trash: ["M5 7h14", "M10 7V4.5h4V7", "M7 7l.8 12.5h8.4L17 7"],
  edit: ["M4.5 19.5l1-4.2L16.2 4.6l3.2 3.2L8.7 18.5z", "M14 6.8l3.2 3.2"],
  file: ["M6.5 3.5h7l4 4v13h-11z", "M13.5 3.5v4h4"],
  clip: ["M19 11.5l-7.4 7.4a4.6 4.6 0 0 1-6.5-6.5l8-8a3 3 0 0 1 4.3 4.3l-7.8 7.8a1.5 1.5 0 0 1-2.1-2.1l6.9-6.9"],
  copy: ["M9 9h10.5v10.5H9z", "M15 9V4.5H4.5V15H9"],
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  retry: ["M19.5 12a7.5 7.5 0 1 1-2.2-5.3", "M19.5 3.5V8H15"],
  tool: ["M4 5h16v14H4z", "M7.5 9.5 10 12l-2.5 2.5", "M12.5 14.5h4"],
  ask: ["M9.2 9.2a2.9 2.9 0 1 1 4.2 2.6c-.9.5-1.4 1.1-1.4 2.2", "M12 17.2v.2", "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17z"],
  shield: ["M12 3.5l7 2.5v5.5c0 4.3-2.9 7.3-7 9-4.1-1.7-7-4.7-7-9V6z", "M9 12l2.2 2.2L15.2 10"],
  warn: ["M12 4 2.8 19.5h18.4z", "M12 10v4.5", "M12 17v.2"],
  stream: ["M4 8c5 0 5 8 10 8h6", "M4 16c5 0 5-8 10-8h6"],
  person: ["M12 12a3.8 3.8 0 1 0 0-7.6 3.8 3.8 0 0 0 0 7.6z", "M5 20c.7-3.6 3.4-5.4 7-5.4s6.3 1.8 7 5.4"],
  chevron: ["M9 6l6 6-6 6"],
  down: ["M12 5v13", "M6 12.5l6 6 6-6"],
  external: ["M14 5h5v5", "M19 5l-8 8", "M17 14v5H5V7h5"],
};

/** Return an icon; it says nothing to screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  for (const d of PATHS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** Replace an element's children only if they would differ in text: no flicker, no lost selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Let the browser do what waits, frames and input before anything else. */
export const breath = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => { port1.close(); resolve(); };
  port2.postMessage(null);
});

/** Return how long ago something was, for lists that need no seconds. */
export const ago = (ms) => (ms < 60_000 ? "now" : span(ms));

/** Return a time span in words: `12 s`, `4 min`, `3 h 10 min`, `2 d`. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

let clearing = 0;

/** Have screen readers say something, once they are through with what they are saying. */
export function announce(text) {
  const node = byId("announcer");
  node.textContent = "";
  clearTimeout(clearing);
  clearing = setTimeout(() => { node.textContent = text; }, 50); // an unchanged text would not be said again
}

/** Show a notice above the field (null hides it). */
export function notify(text, action = null) {
  const node = byId("notice");
  node.replaceChildren();
  node.hidden = text === null;
  if (text === null) return;
  node.append(el("span", {}, text));
  if (action) node.append(el("button", { type: "button", class: "button small", on: { click: action.run } }, action.label));
  node.append(el("button", { type: "button", class: "icon-button", "aria-label": "Dismiss", on: { click: () => notify(null) } }, icon("close")));
}
