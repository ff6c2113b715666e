// What a search found, as a table.

import { element } from "./common.js";

const percent = (share) => `${(100 * share).toPrecision(share >= 0.9995 ? 4 : 3)}%`;
const signed = (number) => `${number > 0 ? "+" : ""}${number.toFixed(2)}`;
const figures = (number) => (number === 0 ? "0" : number.toPrecision(3));

// For each kind the columns beside the feature: a title, and a cell of a match.
const COLUMNS = {
  text: [
    ["Score", (match) => match.score.toFixed(3)],
    ["Share of own largest", (match) => percent(match.share)],
    ["Fires here on", (match) => chips(match.firings.slice(0, 6).map((firing) => firing.text))],
  ],
  token: [
    ["Top examples on it", (match) => `${match.examples} of ${match.of}`],
    ["Share of own largest", (match) => percent(match.share)],
    ["Tokens", (match) => chips(match.tokens)],
  ],
  logit: [
    ["Place", (match) => String(match.place)],
    ["Logit", (match) => match.logit.toFixed(2)],
    ["Token", (match) => chips([match.token])],
  ],
  label: [["Note", (match) => match.note]],
  near: [["Cosine", (match) => match.cosine.toFixed(3)]],
  contrast: [
    ["AUROC mean", (match) => match.auroc_mean.toFixed(3)],
    ["AUROC largest", (match) => match.auroc_max.toFixed(3)],
    ["Difference", (match) => figures(match.difference)],
    ["Fires in first", (match) => percent(match.firing_positive)],
    ["Fires in second", (match) => percent(match.firing_negative)],
  ],
};
// Behind those of a contrast, where outputs were measured.
const OUTPUT = [
  ["Output score", (match) => (match.output ? match.output.score.toFixed(3) : "")],
  ["Confidence", (match) => (match.output ? signed(match.output.confidence_change) : "")],
  ["Own tokens", (match) => chips(match.output ? match.output.own_tokens.slice(0, 4) : [])],
];
const NUMBERS = new Set(["Score", "Share of own largest", "Top examples on it", "Place", "Logit", "Cosine",
  "AUROC mean", "AUROC largest", "Difference", "Fires in first", "Fires in second",
  "Output score", "Confidence"]);

function chips(texts) {
  const line = element("span", { class: "peaks" });
  for (const text of texts) line.append(element("bdi", { class: "token" }, text), " ");
  return line;
}

function nameOf(match) {
  const parts = [element("a", { href: `/features/${match.feature}` }, String(match.feature)), " "];
  if (match.label_source === "machine") parts.push(element("span", { class: "badge machine" }, "machine"), " ");
  if (match.label) parts.push(element("bdi", {}, match.label), " ");
  if (match.verdict) parts.push(element("span", { class: "badge" }, match.verdict));
  return parts;
}

function row(match, columns, withPeaks) {
  const star = element("button", {
    type: "button", class: "star", "data-star": match.feature,
    "aria-pressed": String(match.starred), "aria-label": `Star feature ${match.feature}`,
  });
  const cells = columns.map(([title, cell]) => element("td", { class: NUMBERS.has(title) ? "number" : "", "data-title": title }, cell(match)));
  if (withPeaks) cells.push(element("td", { "data-title": "Fires most on" }, chips(match.peaks)));
  cells.push(element("td", { class: "number", "data-title": "Density" }, percent(match.density)));
  return element("tr", {}, element("td", {}, star), element("th", { scope: "row" }, ...nameOf(match)), ...cells);
}

// Show the features of an answer of /api/search.
export function showFound({ by, features }, place) {
  if (!features.length) return place.replaceChildren();
  const columns = features[0].output ? [...COLUMNS[by], ...OUTPUT] : COLUMNS[by];
  const withPeaks = by !== "token";
  const titles = [...columns.map(([title]) => title), ...(withPeaks ? ["Fires most on"] : []), "Density"];
  const head = element("tr", {},
    element("th", { scope: "col" }, element("span", { class: "unseen" }, "Star")),
    element("th", { scope: "col" }, "Feature"),
    ...titles.map((title) => element("th", { scope: "col", class: NUMBERS.has(title) || title === "Density" ? "number" : "" }, title)));
  place.replaceChildren(element("table", { class: "found" }, element("thead", {}, head),
    element("tbody", {}, ...features.map((match) => row(match, columns, withPeaks)))));
}

// Show the features of an answer of /api/contrast, and what to hold them against.
export function showContrast(answer, place, caution) {
  const { positive, negative, length_auroc: length, chance, candidates_by: rank } = answer;
  const lines = [
    `${positive.texts} texts of ${positive.mean_length.toFixed(1)} tokens against ${negative.texts} of ${negative.mean_length.toFixed(1)} on average.`,
    `Length alone: AUROC ${length.toFixed(3)}. 0.5 tells nothing; far from it, the sets differ in length, and features may be found for that.`,
    `Chance alone: the best ${rank === "difference" ? "difference" : "AUROC"} with the labels shuffled is ${rank === "difference" ? figures(chance) : chance.toFixed(3)}. A feature near it may be luck.`,
  ];
  if (answer.outputs_measured) {
    lines.push("Output score: 1 if the model surely says one of the feature's own tokens when it is amplified. Confidence: above 0 the model is less sure of the next token, in nats.");
  }
  for (const [name, side] of [["first", positive], ["second", negative]]) {
    if (side.truncated) lines.push(`Of ${side.truncated} of the ${name} texts only the beginning was read.`);
    if (side.without_content) lines.push(`${side.without_content} of the ${name} texts were left out: no token of theirs counts.`);
  }
  caution.replaceChildren(element("div", { class: "warning" }, ...lines.map((line) => element("p", {}, line))));
  showFound({ by: "contrast", features: answer.features }, place);
}
