"use strict";
// Charts of a run: uPlot draws, this adds keys, marks of the anchor, the keyboard and a spoken readout.

const Make = {
  // Text only ever becomes text: nothing here reads HTML.
  element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === false || value === null || value === undefined) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  },
  line(colour, dashed, points) {
    const made = (tag, attributes) => {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      return shape;
    };
    const svg = made("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
    if (points) svg.append(made("circle", { cx: 9, cy: 4, r: 3.2, fill: colour }));
    else svg.append(made("line", { x1: 0, x2: 18, y1: 4, y2: 4, stroke: colour, "stroke-width": 2,
      "stroke-dasharray": dashed ? "4 3" : "none" }));
    return svg;
  },
};

const Figures = {
  whole: new Intl.NumberFormat("en", { maximumFractionDigits: 0 }),
  count: (value) => Figures.whole.format(value),
  figure: (value) => (Math.abs(value) >= 1000 ? Figures.count(value) : value.toFixed(3)),
  signed: (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3),
  short: (value) => {
    const size = Math.abs(value);
    if (size !== 0 && size < 0.001) return value.toExponential(1).replace("-", "−");
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : 3;
    return value.toFixed(digits).replace("-", "−");
  },
};

class Chart {
  constructor(chart, axis, sync) {
    this.axis = axis;
    this.sync = sync;
    this.hidden = new Set();
    this.figure = Make.element("figure", { class: "chart" });
    this.caption = Make.element("figcaption");
    this.plot = Make.element("div", { class: "plot", tabindex: "0", role: "group" });
    this.keys = Make.element("div", { class: "keys" });
    this.spoken = Make.element("p", { class: "unseen", "aria-live": "polite" });
    this.figure.append(this.caption, this.plot, this.keys, this.spoken);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("blur", () => this.point(null));
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.plot);
    this.show(chart);
  }

  colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--c-${name}`).trim();
  }

  tone(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  show(chart) {
    this.chart = chart;
    this.caption.replaceChildren(chart.title, Make.element("span", { title: chart.about }, chart.about));
    const filled = (series) => series.values.filter((value) => value !== null);
    const told = chart.series.filter((series) => filled(series).length).map((series) => {
      const values = filled(series);
      return `${series.label}: from ${Figures.short(values[0])} to ${Figures.short(values.at(-1))}`;
    });
    this.plot.setAttribute("aria-label",
      `${chart.title}, ${chart.about}. ${told.join("; ")}. Arrow keys read single points.`);
    this.redraw();
  }

  // Sorted by the axis that is shown: runs side by side do not agree on both.
  data() {
    const at = this.chart[this.axis];
    const order = [...at.keys()].sort((a, b) => at[a] - at[b]);
    this.series = this.chart.series.filter((s) => s.values.some((value) => value !== null));
    return [order.map((i) => at[i]), ...this.series.map((s) => order.map((i) => s.values[i]))];
  }

  redraw() {
    this.drawn?.destroy();
    this.drawn = null;
    const width = this.plot.clientWidth;
    if (!width || !this.plot.checkVisibility()) return; // in a closed section; drawn when it opens
    const data = this.data();
    this.at = null;
    this.drawn = new uPlot(this.options(width, data), data, this.plot);
    this.writeKeys();
  }

  options(width, data) {
    const ink = this.tone("soft");
    const grid = { stroke: this.tone("line"), width: 1 };
    const font = "11px system-ui, sans-serif";
    const few = data[0].length <= 40;
    const lines = this.series.map((series) => ({
      label: series.label,
      stroke: this.colour(series.colour),
      width: series.points ? 0 : 1.75,
      dash: series.dashed ? [5, 4] : undefined,
      spanGaps: true,
      show: !this.hidden.has(series.label),
      points: { show: series.points || (few && !series.dashed), size: series.points ? 8 : 5,
        fill: this.colour(series.colour), width: 0 },
    }));
    const lowest = this.chart.name === "shares" ? 0 : null;
    return {
      width,
      height: this.plot.clientHeight,
      legend: { show: false },
      padding: [10, 16, 0, 0],
      cursor: {
        y: false,
        points: { size: 7 },
        drag: { x: true, y: false },
        sync: { key: this.sync, scales: ["x", null] },
      },
      scales: {
        x: { time: false, range: (u, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
        y: { range: (u, low, high) => {
          if (low === null) return [0, 1];
          if (lowest !== null) return [0, Math.max(1, high)];
          const room = (high - low || Math.abs(high) || 1) * 0.12;
          return [low >= 0 && low < room * 3 ? 0 : low - room, high + room];
        } },
      },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { stroke: grid.stroke, size: 4 }, font, size: 26, gap: 3,
          space: 56, incrs: this.axis === "steps" ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] : undefined,
          values: (u, ticks) => ticks.map(Figures.count) },
        { stroke: ink, grid, ticks: { show: false }, font, size: 44, gap: 4, space: 28,
          values: (u, ticks) => ticks.map((tick) => String(+tick.toPrecision(6)).replace("-", "−")) },
      ],
      series: [{}, ...lines],
      hooks: { drawAxes: [(u) => this.marks(u)], setCursor: [(u) => this.read(u)] },
    };
  }

  marks(u) {
    const { ctx, bbox } = u;
    const styles = { update: [this.colour("best"), []], roll_back: [this.colour("alarm"), [5, 4]],
      alarm: [this.tone("unclear"), [1, 3]] };
    ctx.save();
    for (const mark of this.chart.marks) {
      const x = Math.round(u.valToPos(mark[this.axis], "x", true));
      if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
      const [colour, dash] = styles[mark.kind];
      ctx.strokeStyle = ctx.fillStyle = colour;
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.setLineDash(dash.map((part) => part * devicePixelRatio));
      ctx.globalAlpha = mark.kind === "alarm" ? 0.7 : 0.85;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (mark.kind === "alarm") continue;
      const size = 4.5 * devicePixelRatio; // up: the anchor follows; down: the policy goes back
      const up = mark.kind === "update";
      ctx.setLineDash([]);
      ctx.beginPath();
      ctx.moveTo(x - size, bbox.top + (up ? 0 : -size * 1.6));
      ctx.lineTo(x + size, bbox.top + (up ? 0 : -size * 1.6));
      ctx.lineTo(x, bbox.top + (up ? -size * 1.6 : 0));
      ctx.fill();
    }
    ctx.restore();
  }

  writeKeys() {
    this.values = this.series.map(() => Make.element("b"));
    const keys = this.series.map((series, number) => Make.element("button", {
      type: "button",
      "aria-pressed": String(!this.hidden.has(series.label)),
      title: "Show or hide this line",
      onclick: () => this.toggle(number),
    }, Make.line(this.colour(series.colour), series.dashed, series.points), series.label, this.values[number]));
    this.happened = Make.element("span", { class: "happened" });
    this.keys.replaceChildren(...keys, this.happened);
  }

  toggle(number) {
    const { label } = this.series[number];
    if (!this.hidden.delete(label)) this.hidden.add(label);
    this.drawn.setSeries(number + 1, { show: !this.hidden.has(label) });
    this.keys.children[number].setAttribute("aria-pressed", String(!this.hidden.has(label)));
  }

  read(u) {
    if (!this.values) return;
    const at = u.cursor.idx;
    this.series.forEach((series, number) => {
      const value = at === null || at === undefined ? null : u.data[number + 1][at];
      this.values[number].textContent = value === null || value === undefined ? "" : Figures.short(value);
    });
    const x = at === null || at === undefined ? null : u.data[0][at];
    const here = x === null ? [] : this.chart.marks.filter((mark) => mark[this.axis] === x);
    const unit = this.axis === "calls" ? "calls" : "step";
    const place = x === null ? "" : this.axis === "calls" ? `${Figures.count(x)} ${unit}` : `${unit} ${Figures.count(x)}`;
    this.happened.textContent = [place, ...new Set(here.map((mark) => mark.label))].filter(Boolean).join(" · ");
  }

  point(at) {
    if (!this.drawn) return;
    this.at = at;
    const u = this.drawn;
    if (at === null) return u.setCursor({ left: -10, top: -10 });
    u.setCursor({ left: u.valToPos(u.data[0][at], "x"), top: u.bbox.height / devicePixelRatio / 2 });
    const values = this.series.map((series, number) => [series.label, u.data[number + 1][at]]);
    const told = values.filter(([, value]) => value !== null).map(([name, value]) => `${name} ${Figures.short(value)}`);
    this.spoken.textContent = [this.happened.textContent, ...told].join(", ");
  }

  key(event) {
    if (!this.drawn) return;
    const last = this.drawn.data[0].length - 1;
    const now = this.at ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const next = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      this.point(next);
    } else if (event.key === "Escape") {
      this.point(null);
      this.drawn.setData(this.drawn.data);
    }
  }

  resize() {
    const width = this.plot.clientWidth;
    if (!width) return;
    if (this.drawn) this.drawn.setSize({ width, height: this.plot.clientHeight });
    else this.redraw();
  }

  over(axis) {
    this.axis = axis;
    this.redraw();
  }
}

class Charts {
  constructor(place, charts) {
    this.place = place;
    this.axis = "calls";
    this.sync = `run-${place.dataset.run}`;
    this.grid = Make.element("div", { class: "charts-grid" });
    this.buttons = ["calls", "steps"].map((axis) => Make.element("button", {
      type: "button", "aria-pressed": String(axis === this.axis), onclick: () => this.over(axis),
    }, axis === "calls" ? "Over target calls" : "Over steps"));
    this.tools = Make.element("div", { class: "tools" },
      Make.element("div", { class: "segments", role: "group", "aria-label": "Horizontal axis" }, ...this.buttons));
    place.replaceChildren(this.tools, this.grid);
    this.charts = new Map();
    this.show(charts);
  }

  show(charts) {
    for (const chart of charts) {
      const known = this.charts.get(chart.name);
      if (known) known.show(chart);
      else this.charts.set(chart.name, new Chart(chart, this.axis, this.sync));
    }
    this.grid.replaceChildren(...charts.map((chart) => this.charts.get(chart.name).figure));
    this.explain(charts);
  }

  // What the lines across mean, where there are some.
  explain(charts) {
    const kinds = new Set(charts.flatMap((chart) => chart.marks.map((mark) => mark.kind)));
    const words = { update: "anchor follows", roll_back: "policy goes back", alarm: "alarm" };
    const shown = Object.keys(words).filter((kind) => kinds.has(kind)).map((kind) =>
      Make.element("span", { class: "mark-key" }, Make.element("i", { class: kind, "aria-hidden": "true" }), words[kind]));
    const hint = Make.element("span", { class: "quiet" }, "Drag to zoom, double-click to see all.");
    this.tools.replaceChildren(this.tools.firstChild, ...shown, hint);
  }

  over(axis) {
    this.axis = axis;
    this.buttons.forEach((button, number) =>
      button.setAttribute("aria-pressed", String(["calls", "steps"][number] === axis)));
    this.charts.forEach((chart) => chart.over(axis));
  }

  resize() {
    this.charts.forEach((chart) => chart.resize());
  }

  repaint() {
    this.charts.forEach((chart) => chart.redraw());
  }
}
