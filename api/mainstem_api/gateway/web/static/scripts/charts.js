// The fleet's last hours, by minute: runs by result, queue age, time to first token, tokens/s, cost. For operators.

import * as api from "./api.js";
import { byId, el, setText, span } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const POLL_MS = 10_000; // sweeps tell every five seconds
const WIDTH = 300;
const HEIGHT = 84;
const RESULTS = ["succeeded", "aborted", "failed"]; // from the axis up
const seconds = (value) => (value === null ? "–" : value < 10 ? `${value.toFixed(value < 1 ? 2 : 1)} s` : span(value * 1000));
const whole = (value) => Math.round(value).toLocaleString("en");
const dollars = (value) => (value && value < 0.01 ? "<$0.01" : `$${value.toFixed(2)}`);

const sum = (points, of) => points.reduce((total, point) => total + of(point), 0);
const ended = (result) => (point) => point.ended[result] ?? 0;
const highest = (points, of) => points.reduce((top, point) => (of(point) === null ? top : Math.max(top ?? 0, of(point))), null);

/** What each chart shows: its series, how a value is spelled, and what its caption says of the whole time. */
const CHARTS = [
  {
    name: "ended", title: "Runs that ended", spell: whole, bars: true,
    series: RESULTS.map((result) => ({ name: result, of: ended(result) })),
    says: (points) => RESULTS.map((result) => `${whole(sum(points, ended(result)))} ${result}`).join(", "),
  },
  {
    name: "queue", title: "Oldest queued run", spell: seconds, series: [{ name: "waited", of: (point) => point.queue_oldest_s }],
    says: (points) => `at most ${seconds(highest(points, (point) => point.queue_oldest_s))}`,
  },
  {
    name: "first", title: "Time to first token", spell: seconds,
    series: [{ name: "half within", of: (point) => point.first_token_p50_s }, { name: "95% within", of: (point) => point.first_token_p95_s }],
    says: (points) => `95% within ${seconds(highest(points, (point) => point.first_token_p95_s))} at worst`,
  },
  {
    name: "tokens", title: "Tokens/s of providers", spell: whole, series: [{ name: "tokens/s", of: (point) => point.tokens / point.seconds }],
    says: (points) => `${whole(sum(points, (point) => point.tokens))} tokens`,
  },
  {
    name: "cost", title: "Cost per minute", spell: dollars, bars: true, series: [{ name: "cost", of: (point) => point.cost_usd }],
    says: (points) => dollars(sum(points, (point) => point.cost_usd)),
  },
];

export class Charts {
  constructor() {
    this.minutes = 60;
    this.charts = CHARTS.map((chart) => new Chart(chart));
    byId("charts-list").append(...this.charts.map((chart) => chart.node));
    this.ranges = [[60, "1 hour"], [180, "3 hours"], [360, "6 hours"]].map(([minutes, label]) => {
      const button = el("button", { type: "button", class: "tab", "aria-pressed": String(minutes === this.minutes) }, label);
      button.addEventListener("click", () => this.choose(minutes));
      byId("charts-range").append(button);
      return { minutes, button };
    });
  }

  choose(minutes) {
    this.minutes = minutes;
    for (const range of this.ranges) range.button.setAttribute("aria-pressed", String(range.minutes === minutes));
    this.load();
  }

  /** Show the figures, and again every few seconds while somebody looks; nothing if they are not for this caller. */
  async load() {
    clearTimeout(this.again);
    try {
      const { minutes } = await api.trends({ minutes: this.minutes });
      byId("charts").hidden = !minutes.length;
      if (!minutes.length) return;
      const now = Date.now(); // the last minute is not over
      const points = minutes.map((point) => ({ ...point, seconds: Math.min(60, Math.max(1, (now - Date.parse(point.at)) / 1000)) }));
      for (const chart of this.charts) chart.show(points);
    } catch { /* the connection's state is said already; what was drawn stays */ }
    if (!document.hidden) this.again = setTimeout(() => this.load(), POLL_MS);
  }
}

class Chart {
  constructor(chart) {
    this.chart = chart;
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.top = el("span", { class: "chart-top" });
    this.says = el("span", { class: "detail" });
    this.from = el("time");
    this.node = el("figure", { class: "chart", data: { chart: chart.name } },
      el("figcaption", {}, el("strong", {}, chart.title), this.says),
      el("div", { class: "chart-plot" }, this.top, this.svg),
      el("div", { class: "chart-axis" }, this.from, el("span", {}, "now")));
  }

  show(points) {
    const { series, bars, spell, says, title } = this.chart;
    const total = (point) => sum(series, (one) => one.of(point) ?? 0);
    const top = Math.max(...points.map((point) => (bars ? total(point) : Math.max(...series.map((one) => one.of(point) ?? 0)))));
    const scale = top ? (HEIGHT - 8) / top : 0;
    this.svg.replaceChildren(...(bars ? this.stacks(points, scale) : this.lines(points, scale)), ...this.hints(points));
    this.svg.setAttribute("aria-label", `${title}, ${says(points)}`);
    setText(this.says, says(points));
    setText(this.top, top ? spell(top) : "");
    const begin = new Date(points[0].at);
    this.from.dateTime = points[0].at;
    setText(this.from, begin.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  }

  stacks(points, scale) {
    const step = WIDTH / points.length;
    return points.flatMap((point, nth) => {
      let base = HEIGHT;
      return this.chart.series.map(({ name, of }) => {
        const height = of(point) * scale;
        base -= height;
        return height ? draw("rect", { class: `series-${name}`, x: nth * step, y: base, width: Math.max(1, step - 0.6), height }) : null;
      }).filter(Boolean);
    });
  }

  /** One line for each series; it is broken where nothing is known. */
  lines(points, scale) {
    const step = WIDTH / points.length;
    return this.chart.series.flatMap(({ of }, number) => {
      const pieces = [];
      let piece = null;
      points.forEach((point, nth) => {
        const value = of(point);
        if (value === null) { piece = null; return; }
        if (!piece) pieces.push(piece = []);
        piece.push(`${((nth + 0.5) * step).toFixed(1)},${(HEIGHT - value * scale).toFixed(1)}`);
      });
      // A single point is a short line: a polyline of one point shows nothing.
      return pieces.map((each) => draw("polyline", { class: `line-${number}`, points: each.length > 1 ? each.join(" ") : `${each[0]} ${shifted(each[0], step / 2)}` }));
    });
  }

  /** A title for each minute: what a pointer that rests there is told. */
  hints(points) {
    const step = WIDTH / points.length;
    return points.map((point, nth) => {
      const at = new Date(point.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      const words = this.chart.series.map(({ name, of }) => `${name} ${of(point) === null ? "–" : this.chart.spell(of(point))}`).join(", ");
      const hint = draw("rect", { class: "chart-hint", x: nth * step, y: 0, width: step, height: HEIGHT });
      const title = draw("title", {});
      title.textContent = `${at}: ${words}`;
      hint.append(title);
      return hint;
    });
  }
}

function shifted(point, by) {
  const [x, y] = point.split(",");
  return `${(Number(x) + by).toFixed(1)},${y}`;
}

function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
