// The strip of a strength sweep: three small plots over one axis, and the same as a table.

import { element } from "/static/common.js";
import { visible } from "/static/playground_column.js";

const [LEFT, RIGHT, HEIGHT, GAP, TOP] = [62, 12, 78, 30, 20];
const [NARROWEST, WIDEST] = [300, 960];
let WIDTH = WIDEST; // of the place, so that letters keep their size

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Where the incoherent ends begin: of the rows, sorted by strength, the last of those before 0 that
// are incoherent from the lowest on, and the first of those after 0 up to the highest; null for an
// end that is coherent.
export function incoherentEnds(rows) {
  const end = (outwards) => {
    let found = null;
    for (const row of outwards) {
      if (!row.likely_incoherent) break;
      found = row.strength;
    }
    return found;
  };
  return [end(rows.filter((row) => row.strength < 0)), end(rows.filter((row) => row.strength > 0).reverse())];
}

// Draws rows (sorted by strength) into place; choose(strength) is called where one is clicked.
export function drawStrip(place, rows, chosen, choose) {
  if (!rows.length) return place.replaceChildren();
  WIDTH = Math.min(WIDEST, Math.max(NARROWEST, place.clientWidth));
  const strengths = rows.map((row) => row.strength);
  const [low, high] = [Math.min(...strengths, 0), Math.max(...strengths, 0)];
  const span = high - low || 1;
  const x = (strength) => LEFT + ((strength - low) / span) * (WIDTH - LEFT - RIGHT);
  const plots = [
    { title: "perplexity", log: true, series: [rows.map((row) => row.perplexity)] },
    { title: "repeats itself, %", most: 100, series: [rows.map((row) => (row.problem ? null : 100 * row.repetition))] },
    { title: "activation", series: Object.keys(rows[0].activations).map((feature) => rows.map((row) => (row.problem ? null : row.activations[feature]))) },
  ];
  const bottom = TOP + plots.length * (HEIGHT + GAP) - GAP;
  const picture = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${bottom + 40}`, role: "img", "aria-label": "Perplexity, repetition and activation by strength; the table below has the numbers" });
  const [below, above] = incoherentEnds(rows);
  if (below !== null) band(picture, LEFT, x(between(strengths, below, 1)), bottom);
  if (above !== null) band(picture, x(between(strengths, above, -1)), WIDTH - RIGHT, bottom);
  const broken = rows.map((row) => row.likely_incoherent);
  plots.forEach((plot, number) => drawPlot(picture, plot, TOP + number * (HEIGHT + GAP), strengths, x, broken));
  for (const strength of ticks(strengths)) {
    picture.append(svg("text", { x: x(strength), y: bottom + 15, "text-anchor": "middle" }, String(strength)));
  }
  picture.append(svg("text", { class: "title", x: (LEFT + WIDTH - RIGHT) / 2, y: bottom + 33, "text-anchor": "middle" }, "strength (\u00d7: likely incoherent)"));
  if (chosen >= low && chosen <= high) {
    picture.append(svg("line", { class: "chosen", x1: x(chosen), x2: x(chosen), y1: TOP - 4, y2: bottom }));
  }
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    choose(strengths.reduce((a, b) => (Math.abs(x(b) - at) < Math.abs(x(a) - at) ? b : a)));
  });
  place.replaceChildren(picture);
}

// Half way from a strength to the next one towards 0.
function between(strengths, strength, step) {
  const order = [...new Set([...strengths, 0])].sort((a, b) => a - b);
  return (strength + (order[order.indexOf(strength) + step] ?? strength)) / 2;
}

// Strengths whose numbers have room under the axis.
function ticks(strengths) {
  const order = [...strengths].sort((a, b) => a - b);
  const least = (((order.at(-1) - order[0]) || 1) * 34) / (WIDTH - LEFT - RIGHT);
  let last = 0; // is always shown
  const shown = (all) => all.filter((one) => Math.abs(one - last) >= least && ((last = one), true));
  const above = shown(order.filter((one) => one > 0));
  last = 0;
  return [...shown(order.filter((one) => one < 0).reverse()), ...order.filter((one) => one === 0), ...above];
}

function band(picture, from, to, bottom) {
  picture.append(svg("rect", { class: "band", x: from, y: TOP - 6, width: Math.max(0, to - from), height: bottom - TOP + 6 }));
  const edge = from === LEFT ? to : from;
  picture.append(svg("line", { class: "band-edge", x1: edge, x2: edge, y1: TOP - 6, y2: bottom }));
  const end = from === LEFT ? "start" : "end";
  picture.append(svg("text", { class: "band-word", x: from === LEFT ? from + 4 : to - 4, y: TOP - 8, "text-anchor": end }, "likely incoherent"));
}

function drawPlot(picture, plot, top, strengths, x, broken) {
  const values = plot.series.flat().filter((value) => value !== null);
  const scale = plot.log ? Math.log10 : (value) => value;
  let [least, most] = plot.log ? [Math.floor(scale(Math.min(...values, 10))), Math.ceil(scale(Math.max(...values, 10)))] : [0, plot.most ?? Math.max(...values, 0.01)];
  if (most === least) most += 1;
  const y = (value) => top + HEIGHT - ((scale(value) - least) / (most - least)) * HEIGHT;
  picture.append(svg("path", { class: "axis", d: `M${LEFT} ${top}V${top + HEIGHT}H${WIDTH - RIGHT}` }));
  const ends = plot.log ? [10 ** least, 10 ** most] : [0, most];
  for (const end of ends) {
    picture.append(svg("text", { x: LEFT - 5, y: y(end) + 4, "text-anchor": "end" }, String(Number(end.toPrecision(2)))));
  }
  const middle = top + HEIGHT / 2;
  picture.append(svg("text", { class: "title", x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, plot.title));
  plot.series.forEach((series, number) => {
    const kind = number % 2 ? " second" : "";
    const points = series.map((value, n) => [strengths[n], value, broken[n]]).filter(([, value]) => value !== null);
    points.sort((a, b) => a[0] - b[0]);
    picture.append(svg("path", { class: `line${kind}`, d: points.map(([strength, value], n) => `${n ? "L" : "M"}${x(strength)} ${y(value)}`).join("") }));
    for (const [strength, value, cross] of points) {
      const [cx, cy] = [x(strength), y(value)];
      picture.append(cross
        ? svg("path", { class: "broken", d: `M${cx - 4} ${cy - 4}l8 8m0 -8l-8 8` })
        : svg("circle", { class: kind.trim(), cx, cy, r: 3 }));
    }
  });
}

// The rows as a table with a button for each strength.
export function drawTable(place, rows, choose) {
  if (!rows.length) return place.replaceChildren();
  const features = Object.keys(rows[0].activations);
  const head = ["Strength", "Perplexity", "Repeats", ...features.map((feature) => `Feature ${feature}`), "Text"];
  const body = rows.map((row) => element("tr", { class: row.likely_incoherent ? "broken" : false },
    element("th", { scope: "row" }, element("button", { type: "button", "aria-label": `Use strength ${row.strength}`, onclick: () => choose(row.strength) }, String(row.strength))),
    element("td", { class: "number", "data-title": "Perplexity" }, row.perplexity === null ? "\u2013" : row.perplexity.toPrecision(3)),
    element("td", { class: "number", "data-title": "Repeats" }, row.problem ? "\u2013" : `${Math.round(100 * row.repetition)} %`),
    ...features.map((feature) => element("td", { class: "number", "data-title": `Feature ${feature}` }, row.activations[feature].toFixed(3))),
    element("td", { class: "text" }, row.likely_incoherent ? element("strong", {}, "likely incoherent: ") : "", row.problem || visible(row.texts[0] ?? ""))));
  place.replaceChildren(element("table", {},
    element("caption", { class: "unseen" }, "What each strength did"),
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...body)));
}
