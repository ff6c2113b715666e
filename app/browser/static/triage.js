// Triage by keyboard: a queue of features that nobody has reviewed, each key saved at once.

import { api, element, tell } from "./common.js";
import { watchPicks } from "./watch_picks.js";

const card = document.getElementById("card");
const said = document.getElementById("said");
const bar = document.getElementById("bar");
const progressText = document.getElementById("progress");
const label = document.getElementById("label");
const keysHelp = document.getElementById("keys");
const NEAR_THE_END = 10;

let queue = []; // numbers, in the order in which they are looked at
let at = -1;
let fired = 0;
let pick = null; // of the feature that is shown
let picks = new Map(); // as last heard of, those of other tabs and commands included
const seen = new Set(); // looked at in this sitting, so that going back shows them again
let work = Promise.resolve(); // one change after the other, in the order of the keys

const feature = () => queue[at];

function isReviewed(one) {
  return Boolean(one && (one.starred || one.verdict || one.confidence || (one.label && one.label_source === "person")));
}

function say(sentence) {
  said.textContent = sentence;
}

function showProgress(progress) {
  bar.max = fired || progress.features;
  bar.value = progress.reviewed;
  progressText.textContent = `${progress.reviewed.toLocaleString("en")} of ${(fired || progress.features).toLocaleString("en")} that fire are reviewed: ${progress.starred} starred, ${progress.kept} kept, ${progress.rejected} rejected`;
}

function showPick() {
  for (const button of document.querySelectorAll("[data-shows]")) {
    const what = button.dataset.shows;
    const on = what === "starred" ? Boolean(pick?.starred)
      : /^\d$/.test(what) ? pick?.confidence === Number(what) : pick?.verdict === what;
    button.setAttribute("aria-pressed", String(on));
  }
  if (document.activeElement !== label) label.value = pick?.label ?? "";
}

async function show(number) {
  const [answer, now] = await Promise.all([
    fetch(`/triage/${number}`),
    api(`/api/picks/${number}`),
  ]);
  if (!answer.ok) throw new Error(`feature ${number} cannot be shown`);
  pick = now.pick;
  card.innerHTML = await answer.text(); // the server has escaped every text in it
  card.dataset.feature = number;
  seen.add(number);
  showPick();
  scrollTo({ top: 0 });
  const peaks = [...card.querySelectorAll(".peaks .token")].map((token) => token.textContent).slice(0, 4);
  say(`Feature ${number}${pick?.label ? `, ${pick.label}` : ""}, fires most on ${peaks.join(", ")}`);
}

async function fill() {
  const answer = await api("/api/triage/queue");
  fired = answer.fired;
  const known = new Set(queue);
  queue.push(...answer.features.filter((number) => !known.has(number)));
  showProgress(answer.progress);
}

async function move(step) {
  let next = at + step;
  // What another tab has reviewed meanwhile is passed over; what was seen here is not.
  while (step > 0 && next < queue.length && !seen.has(queue[next]) && isReviewed(picks.get(queue[next]))) next += 1;
  if (next >= queue.length - NEAR_THE_END && step > 0) await fill();
  if (next < 0) return say("This is the first feature.");
  if (next >= queue.length) {
    at = queue.length;
    pick = null;
    card.replaceChildren(element("h2", { id: "card-title", tabindex: "-1" }, "Nothing is left"),
      element("p", {}, "Every feature that fires has been reviewed."));
    return say("Nothing is left: every feature that fires has been reviewed.");
  }
  at = next;
  await show(queue[at]);
}

async function change(values, done) {
  const number = feature();
  if (number === undefined) return;
  const answer = await api(`/api/picks/${number}`, values);
  pick = answer.pick;
  showPick();
  showProgress(answer.progress);
  say(`Feature ${number} ${done}`);
}

async function undo() {
  const answer = await api("/api/picks/undo", {});
  const number = answer.features[0];
  showProgress(answer.progress);
  if (number !== feature()) {
    const place = queue.indexOf(number);
    if (place >= 0) at = place;
    else queue.splice(Math.max(at, 0), 0, number);
  }
  await show(queue[at]);
  tell(`undone: feature ${number}`);
}

function toggleKeys() {
  keysHelp.hidden = !keysHelp.hidden;
  document.querySelector('[data-key="?"]').setAttribute("aria-expanded", String(!keysHelp.hidden));
  if (!keysHelp.hidden) say(keysHelp.textContent);
}

async function judge(verdict, done) {
  const taken = pick?.verdict === verdict;
  await change({ verdict: taken ? "" : verdict }, taken ? "has no verdict any more" : done);
  if (!taken) await move(1);
}

const actions = {
  j: () => move(1),
  k: () => move(-1),
  s: () => change({ starred: !pick?.starred }, pick?.starred ? "is not starred any more" : "is starred"),
  a: () => judge("keep", "is kept"),
  x: () => judge("reject", "is rejected"),
  u: undo,
};
for (const value of [1, 2, 3, 4, 5]) {
  actions[value] = () => change({ confidence: pick?.confidence === value ? null : value },
    pick?.confidence === value ? "has no confidence any more" : `has confidence ${value}`);
}
const atOnce = {
  "?": toggleKeys,
  "/": () => { location.href = "/search"; },
  l: () => { label.focus(); label.select(); },
};

function act(key) {
  if (atOnce[key]) return atOnce[key]();
  work = work.then(actions[key]).catch((error) => {
    say(error.message);
    tell(error.message, { error: true });
  });
  return work;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return; // someone types
  if (!(event.key in actions) && !(event.key in atOnce)) return;
  event.preventDefault();
  act(event.key);
});

document.querySelector(".triage-keys").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-key]");
  if (button) act(button.dataset.key);
});

document.getElementById("label-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = label.value.trim();
  label.blur();
  work = work.then(() => change({ label: text }, text ? `is labeled ${text}` : "has no label any more"))
    .catch((error) => tell(error.message, { error: true }))
    .then(() => document.getElementById("card-title")?.focus());
});
label.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  label.blur();
  showPick();
  document.getElementById("card-title")?.focus();
});

watchPicks((answer) => {
  picks = new Map(answer.picks.map((one) => [one.feature, one]));
  showProgress(answer.progress);
  const mine = picks.get(feature()) ?? null;
  if (feature() !== undefined && JSON.stringify(mine) !== JSON.stringify(pick)) {
    pick = mine;
    showPick();
  }
});

act("j");
