// "Try a text": where the feature of the page fires in what is typed, asked for as one types.

import { api, debounced, element, modelSettled } from "./common.js";

const box = document.getElementById("try-text");
const state = document.getElementById("try-state");
const shown = document.getElementById("try-tokens");
const values = document.getElementById("try-values");
let asked; // the request that the last keystroke made

function figures(number) {
  return number === 0 ? "0" : number.toPrecision(3);
}

function tokenOf(token, peak) {
  if (!token.level) return token.text;
  const classes = token === peak ? `h${token.level} peak` : `h${token.level}`;
  return element("i", { class: classes, title: figures(token.activation) }, token.text);
}

function show({ tokens, truncated, max_activation: largest }) {
  const active = tokens.filter((token) => token.activation > 0);
  const peak = active.reduce((best, one) => (!best || one.activation > best.activation ? one : best), null);
  shown.replaceChildren(...tokens.map((token) => tokenOf(token, peak)));
  const cut = truncated ? " Only the beginning was read." : "";
  if (!active.length) {
    state.textContent = `It fires on none of ${tokens.length} tokens.${cut}`;
    values.replaceChildren();
    return;
  }
  const share = largest > 0 ? `, ${Math.round((100 * peak.activation) / largest)}% of its largest` : "";
  state.textContent = `It fires on ${active.length} of ${tokens.length} tokens, most at ${figures(peak.activation)}${share}.${cut}`;
  const rows = active.map((token) => element("tr", {},
    element("td", {}, element("bdi", { class: "token" }, token.text)),
    element("td", { class: "number" }, figures(token.activation))));
  const head = element("tr", {}, element("th", { scope: "col" }, "Token"), element("th", { scope: "col", class: "number" }, "Activation"));
  const open = values.querySelector("details")?.open ?? false;
  values.replaceChildren(element("details", { open }, element("summary", {}, "Activations"),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
}

async function ask() {
  asked?.abort();
  const text = box.value;
  if (!text.trim()) {
    state.textContent = "";
    shown.replaceChildren();
    values.replaceChildren();
    return;
  }
  const mine = new AbortController();
  asked = mine;
  try {
    if (document.documentElement.dataset.model === "loading") state.textContent = "the language model is still being read\u2026";
    await modelSettled;
    mine.signal.throwIfAborted();
    show(await api("/api/activations", { text, feature: Number(box.dataset.feature) }, { signal: mine.signal }));
  } catch (error) {
    if (error.name !== "AbortError") state.textContent = error.message;
  }
}

box.addEventListener("input", debounced(200, ask));
if (box.value) ask(); // a browser keeps what was typed when one comes back
