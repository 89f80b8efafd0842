"use strict";
// Line charts: uPlot with the page's colours, texts and width. Drag to zoom in, double-click to zoom out.

const LINE_COLOURS = 8; // --line-0 to --line-7 of the style sheet

class Chart {
  /**
   * options: {title, note, x, y: names of the axes, xRange, yRange: [min, max] if fixed, xDigits, digits: of numbers in
   * the legend, mark: (plot) => ... draws on top, click: (x) => ... for a click at this place}.
   */
  constructor(options) {
    this.options = options;
    this.note = make("p", { class: "note" }, options.note ?? "");
    this.box = make("div", { class: "plot" });
    this.element = make("div", { class: "chart" }, make("h3", {}, options.title), this.note, this.box);
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.content));
  }

  /** content: {xs, series: [{label, values, colour (index), dash, bars, hidden}]}; an empty one: a word instead. */
  show(content) {
    this.content = content;
    this.plot?.destroy();
    this.plot = null;
    if (!content) return;
    const width = this.box.clientWidth;
    if (content.xs.length === 0 || content.series.length === 0) {
      this.box.replaceChildren(make("p", { class: "note" }, "There are no values."));
    } else if (width > 0) {
      this.box.replaceChildren();
      this.plot = new uPlot(
        this.settings(content, width),
        [content.xs, ...content.series.map((one) => one.values)],
        this.box,
      );
    }
  }

  resize() {
    const width = this.box.clientWidth;
    if (!this.plot) this.show(this.content);
    else if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
  }

  /** Draws what `mark` draws anew. */
  redraw() {
    this.plot?.redraw(false);
  }

  settings({ series }, width) {
    const { x, y, xRange, yRange, mark, click, digits = 3, xDigits = 2 } = this.options;
    const few = series.every((one) => one.values.length <= 40);
    return {
      width,
      height: 280,
      scales: { x: { time: false, ...(xRange && { range: xRange }) }, y: yRange ? { range: yRange } : {} },
      legend: { live: true },
      cursor: { y: false, drag: { x: true, y: false } },
      axes: [axisOf(x), { ...axisOf(y), size: widthOf }],
      series: [
        { label: x, value: (_, v) => fixed(v, xDigits) },
        ...series.map((one, i) => lineOf(one, i, few, digits)),
      ],
      hooks: { draw: mark ? [mark] : [], ready: click ? [(plot) => listenToClicks(plot, click)] : [] },
    };
  }
}

function axisOf(label) {
  const font = "12px system-ui, sans-serif";
  const grid = { stroke: cssColour("line"), width: 1 };
  const values = (_, splits) => splits.map((value) => tickText(value, Math.max(...splits.map(Math.abs))));
  return {
    label,
    stroke: cssColour("muted"),
    grid,
    ticks: grid,
    font,
    labelFont: font,
    labelSize: 18,
    size: 34,
    values,
  };
}

/** Of a vertical axis: its ticks beside its name. */
function widthOf(_, texts) {
  return 26 + 7 * Math.max(4, ...(texts ?? []).map((text) => text.length));
}

/** As short as it can be: 0.0005, 12,000; a tick of very small numbers as 5e-7. */
function tickText(value, largest) {
  if (!exists(value)) return "";
  if (value !== 0 && largest < 1e-4) return value.toExponential().replace(/(\.\d\d)\d*/, "$1");
  return value.toLocaleString("en-GB", { maximumFractionDigits: 7, maximumSignificantDigits: 8 });
}

function lineOf(one, i, few, digits) {
  const colour = cssColour(`line-${(one.colour ?? i) % LINE_COLOURS}`);
  return {
    label: one.label,
    stroke: colour,
    width: one.bars ? 1 : 1.6,
    dash: one.dash,
    show: !one.hidden,
    spanGaps: true,
    points: { show: few && !one.bars && !one.plain, size: 5 },
    value: (_, v) => numberText(v, digits),
    ...(one.bars && { paths: uPlot.paths.bars({ size: [0.85] }), fill: `${colour}33` }),
  };
}

/** Small values keep their digits: 0.0000251 -> "2.51e-5". */
const numberText = (
  value,
  digits,
) => (exists(value) && value !== 0 && Math.abs(value) < 10 ** -digits ? value.toExponential(2) : fixed(value, digits));

/** uPlot keeps to itself the click that ends a drag. */
function listenToClicks(plot, click) {
  plot.over.addEventListener("click", (event) => click(plot.posToVal(event.offsetX, "x")));
}

/** A vertical line at x. */
function drawVertical(plot, x) {
  const { ctx, bbox } = plot;
  const left = plot.valToPos(x, "x", true);
  ctx.save();
  ctx.setLineDash([]);
  ctx.strokeStyle = cssColour("ink");
  ctx.lineWidth = window.devicePixelRatio || 1;
  ctx.beginPath();
  ctx.moveTo(left, bbox.top);
  ctx.lineTo(left, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

/** A ring at (x, y). */
function drawRing(plot, x, y) {
  const { ctx } = plot;
  const ratio = window.devicePixelRatio || 1;
  ctx.save();
  ctx.setLineDash([]);
  ctx.beginPath();
  ctx.arc(plot.valToPos(x, "x", true), plot.valToPos(y, "y", true), 5 * ratio, 0, 2 * Math.PI);
  ctx.fillStyle = cssColour("paper");
  ctx.strokeStyle = cssColour("ink");
  ctx.lineWidth = 2 * ratio;
  ctx.fill();
  ctx.stroke();
  ctx.restore();
}
