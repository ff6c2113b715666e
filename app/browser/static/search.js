// Search: asked for as one types, with the search in the address so that it can be linked.

import { api, debounced, element, modelSettled, tell } from "./common.js";
import { showContrast, showFound } from "./found.js";
import { savedSearches } from "./saved_searches.js";

const byId = (id) => document.getElementById(id);
const form = byId("search");
const state = byId("state");
const found = byId("found");
const caution = byId("caution");
const tokens = byId("tokens");
const WORDS = { token: "Token", logit: "Token", label: "Words of the label or note", near: "Number of a feature" };
const chosen = new Set(); // tokens of the text that are looked at alone
let asked = null; // the request of the last keystroke

const kind = () => form.elements.by.value;
const lines = (id) => byId(id).value.split("\n").filter((line) => line.trim());

// What is searched for, as it is saved, put into the address and sent.
function current() {
  switch (kind()) {
    case "text": return { query: byId("text").value, density: byId("density").value };
    case "contrast":
      return { positive: lines("positive"), negative: lines("negative"), rank_by: byId("rank-by").value };
    default: return { query: byId("words").value };
  }
}

function fill(by, query) {
  form.elements.by.value = by;
  if (by === "text") {
    byId("text").value = query.query ?? "";
    if (query.density !== undefined) byId("density").value = query.density;
  } else if (by === "contrast") {
    byId("positive").value = (query.positive ?? []).join("\n");
    byId("negative").value = (query.negative ?? []).join("\n");
    byId("rank-by").value = query.rank_by ?? "auroc_mean";
  } else byId("words").value = query.query ?? "";
  showKind();
}

function showKind() {
  const by = kind();
  for (const part of form.querySelectorAll("[data-by]")) part.hidden = !part.dataset.by.split(" ").includes(by);
  byId("words-label").textContent = WORDS[by] ?? "";
  byId("words").inputMode = by === "near" ? "numeric" : "text";
}

function clear(sentence = "") {
  state.textContent = sentence;
  found.replaceChildren();
  caution.replaceChildren();
  tokens.hidden = true;
}

function showTokens(answer) {
  const buttons = answer.tokens.map((text, place) => element("button", {
    type: "button", class: "token", disabled: !answer.counts[place], "aria-pressed": String(chosen.has(place)),
    onclick: () => {
      if (!chosen.delete(place)) chosen.add(place);
      search();
    },
  }, text || "\u00b7"));
  const all = element("button", { type: "button", hidden: !chosen.size, onclick: () => { chosen.clear(); search(); } }, "All tokens");
  byId("token-buttons").replaceChildren(...buttons, all);
  tokens.hidden = false;
}

function textState(answer) {
  const parts = [`${answer.firing.toLocaleString("en")} features fire in the text`];
  if (answer.too_dense) parts.push(`${answer.too_dense} left out as too dense`);
  if (answer.unknown) parts.push(`${answer.unknown} left out that never fired in the index`);
  if (answer.truncated) parts.push("only the beginning was read");
  return `${parts.join("; ")}. Ranked by share of their own largest activation times rarity.`;
}

async function ask(by, wanted, signal) {
  if (by === "contrast") {
    state.textContent = "comparing\u2026";
    const answer = await api("/api/contrast", wanted, { signal });
    state.textContent = `${answer.considered.toLocaleString("en")} features fire in enough of the first texts to be ranked.`;
    showContrast(answer, found, caution);
    return;
  }
  const body = { by, query: wanted.query };
  if (by === "text") {
    body.max_density = Math.min(1, Math.max(0, Number(wanted.density) / 100));
    if (chosen.size) body.at = [...chosen];
  }
  const answer = await api("/api/search", body, { signal });
  caution.replaceChildren();
  if (by === "text") showTokens(answer);
  else tokens.hidden = true;
  state.textContent = by === "text" ? textState(answer)
    : answer.features.length ? `${answer.features.length} features, best first.` : "No feature is like that.";
  showFound(answer, found);
}

async function search() {
  asked?.abort();
  const by = kind();
  const wanted = current();
  remember(by, wanted);
  const empty = by === "contrast" ? !(wanted.positive.length && wanted.negative.length) : !wanted.query.trim();
  if (empty) return clear();
  const mine = new AbortController();
  asked = mine;
  try {
    if (by === "text" || by === "contrast") {
      if (document.documentElement.dataset.model === "loading") clear("the language model is still being read\u2026");
      await modelSettled;
      mine.signal.throwIfAborted();
    }
    await ask(by, wanted, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") clear(error.message);
  }
}

function remember(by, wanted) {
  const address = new URL(location.href);
  address.search = "";
  address.searchParams.set("by", by);
  if (by !== "contrast" && wanted.query && wanted.query.length < 1500) address.searchParams.set("q", wanted.query);
  history.replaceState(null, "", address);
}

const soon = debounced(300, search);
form.addEventListener("input", (event) => {
  if (event.target.name === "by") {
    asked?.abort(); // what comes of another kind is not shown under this one
    showKind();
    clear();
  }
  if (event.target.id === "text") chosen.clear();
  if (kind() === "contrast") remember(kind(), current());
  else soon();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  (form.querySelector("[data-by]:not([hidden]) textarea, [data-by]:not([hidden]) input") ?? byId("text")).focus();
});

savedSearches({
  form: byId("save"), name: byId("name"), list: byId("saved"),
  now: () => ({ by: kind(), query: current() }),
  run: ({ by, ...query }) => { chosen.clear(); fill(by, query); search(); },
}).catch((error) => tell(error.message, { error: true }));

const given = new URLSearchParams(location.search);
const by = given.get("by") ?? "text";
fill([...form.elements.by].some((one) => one.value === by) ? by : "text", { query: given.get("q") ?? "" });
if (given.get("q")) search();
