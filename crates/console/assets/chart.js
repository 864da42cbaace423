// Draws the history of what a page is about, and keeps it and the table below it up to date. The table says the same without this.
(function () {
  "use strict";
  const EVERY_MS = 30000;
  const HEIGHT = 180;
  /** So many lines have a colour of their own; the next ones are dashed. */
  const COLOURS = 8;
  const CHARTS = [
    { quantity: "utilization_percent", name: "Load", unit: "%", top: 100 },
    { quantity: "memory_used_mib", name: "Memory in use", unit: "MiB" },
    { quantity: "temperature_c", name: "Temperature", unit: "\u00b0C" },
    { quantity: "power_w", name: "Power", unit: "W" },
  ];

  // A canvas knows no names of colours that follow the theme, so it is asked what they are at the moment.
  function paint(probe, name) {
    probe.className = name;
    return getComputedStyle(probe).color;
  }

  const utc = (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC");
  const moment = uPlot.fmtDate("{YYYY}-{MM}-{DD} {HH}:{mm} UTC");
  const hour = uPlot.fmtDate("{HH}:{mm}");
  const day = uPlot.fmtDate("{MM}-{DD}");

  function label({ partition }) {
    return partition === undefined ? "All of it" : "Partition " + partition;
  }

  class Chart {
    constructor(place, probe, { name, unit, top }, series, range) {
      this.frame = document.createElement("figure");
      this.caption = document.createElement("figcaption");
      this.caption.textContent = name;
      this.frame.append(this.caption);
      place.append(this.frame);
      const colour = (index) => () => paint(probe, "line-" + (index % COLOURS));
      const line = (each, index) => ({
        label: series.length === 1 ? name : label(each),
        stroke: colour(index),
        width: 1.5,
        dash: index >= COLOURS ? [6, 4] : undefined,
        points: { show: false },
        value: (_, value) => (value === null || value === undefined ? "\u2013" : Math.round(value) + "\u00a0" + unit),
      });
      const text = () => paint(probe, "axis");
      const grid = { stroke: () => paint(probe, "grid"), width: 1 };
      this.plot = new uPlot({
        width: this.width(), height: HEIGHT,
        tzDate: utc,
        cursor: { drag: { x: false, y: false }, sync: { key: "history" } },
        scales: { y: { range: (_, __, max) => [0, top ?? Math.max(1, max * 1.1)] } },
        axes: [
          { stroke: text, grid, ticks: grid, values: (_, ticks, __, ___, step) => ticks.map((at) => (step >= 86400 ? day : hour)(utc(at))) },
          { stroke: text, grid, ticks: grid, size: 80, values: (_, ticks) => ticks.map((value) => value + "\u00a0" + unit) },
        ],
        series: [{ label: "Time", value: (_, at) => (at === null || at === undefined ? "\u2013" : moment(utc(at))) }, ...series.map(line)],
      }, [[], ...series.map(() => [])], this.frame);
      const canvas = this.frame.querySelector("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", name + ", " + range + ". The table below has the figures; the arrow keys go through the chart.");
      canvas.tabIndex = 0;
      // The next chart makes room for itself beside this one.
      this.observer = new ResizeObserver(() => this.resize());
      this.observer.observe(this.caption);
      canvas.addEventListener("keydown", (event) => this.step(event));
      canvas.addEventListener("blur", () => this.plot.setCursor({ left: -10, top: -10 }));
    }

    width() {
      return Math.max(200, this.caption.clientWidth);
    }

    show(at, series) {
      this.plot.setData([at, ...series.map(({ means }) => means)]);
    }

    resize() {
      if (this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: HEIGHT });
    }

    remove() {
      this.observer.disconnect();
      this.plot.destroy();
      this.frame.remove();
    }

    step(event) {
      const last = this.plot.data[0].length - 1;
      const now = this.plot.cursor.idx ?? last;
      const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      const at = this.plot.data[0][Math.min(Math.max(next, 0), last)];
      this.plot.setCursor({ left: this.plot.valToPos(at, "x"), top: 10 });
    }
  }

  class History {
    constructor(section) {
      this.section = section;
      this.place = section.querySelector(".charts");
      this.probe = document.createElement("span");
      this.probe.hidden = true;
      section.append(this.probe);
      this.charts = new Map();
    }

    async load() {
      const answer = await fetch(this.section.dataset.history, { headers: { accept: "application/json" } });
      if (!answer.ok) return;
      this.draw(await answer.json());
    }

    draw({ at, series }) {
      const times = at.map((ms) => ms / 1000);
      this.place.hidden = series.length === 0;
      for (const kind of CHARTS) {
        const own = series.filter(({ quantity }) => quantity === kind.quantity);
        const key = own.map(label).join();
        let chart = this.charts.get(kind.quantity);
        // Partitions come and go.
        if (chart && chart.key !== key) {
          chart.remove();
          this.charts.delete(kind.quantity);
          chart = undefined;
        }
        if (own.length === 0) continue;
        if (!chart) {
          chart = new Chart(this.place, this.probe, kind, own, this.section.dataset.range);
          chart.key = key;
          this.charts.set(kind.quantity, chart);
        }
        chart.show(times, own);
        own.forEach((each) => this.tell(kind, each));
      }
    }

    /** Brings a row of the table up to date. */
    tell({ quantity, unit }, series) {
      const key = series.partition === undefined ? quantity : quantity + " " + series.partition;
      const row = this.section.querySelector('[data-series="' + key + '"]')?.closest("tr");
      for (const cell of row?.querySelectorAll("[data-figure]") ?? []) {
        cell.textContent = series[cell.dataset.figure] + "\u00a0" + unit;
      }
    }

    redraw() {
      for (const { plot } of this.charts.values()) plot.redraw();
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const section = document.querySelector("[data-history]");
    if (!section) return;
    const history = new History(section);
    // A host that does not answer now may later; the table says what was known.
    const load = () => { if (!document.hidden) history.load().catch(() => {}); };
    load();
    setInterval(load, EVERY_MS);
    document.addEventListener("visibilitychange", load);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => history.redraw());
    new MutationObserver(() => history.redraw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
