// The panel that picks the feature of the page: every change is saved at once.

import { api, debounced, tell } from "./common.js";
import { showStar } from "./stars.js";
import { watchPicks } from "./watch_picks.js";

const panel = document.getElementById("pick");
const feature = Number(panel.dataset.feature);
const state = document.getElementById("pick-state");
const unpick = document.getElementById("unpick");
const fields = [...panel.querySelectorAll("[data-field]")];
const unsaved = new Map(); // what was typed and is not sent yet
let saving = 0; // changes without an answer yet
let answeredAt = 0;
let known; // the pick that is shown, as JSON

// Show a pick as the server has it; null for a feature that is not picked. A field that someone is
// typing in keeps what is typed.
function show(pick) {
  known = JSON.stringify(pick ?? null);
  for (const field of fields) {
    if (unsaved.has(field.dataset.field)) continue;
    field.value = pick?.[field.dataset.field] ?? (field.dataset.field === "strength" ? 1 : "");
  }
  showStar(feature, Boolean(pick?.starred));
  for (const button of panel.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(pick?.verdict === button.dataset.verdict));
  }
  for (const button of panel.querySelectorAll("[data-confidence]")) {
    button.setAttribute("aria-pressed", String(pick?.confidence === Number(button.dataset.confidence)));
  }
  unpick.hidden = !pick;
}

async function change(address, values, done) {
  state.textContent = "saving\u2026";
  saving += 1;
  try {
    const { pick } = await api(address, values, { keepalive: true }); // also while the page is left
    state.textContent = done;
    show(pick);
  } catch (error) {
    state.textContent = `not saved: ${error.message}`;
    tell(error.message, { error: true });
  } finally {
    saving -= 1;
    answeredAt = performance.now();
  }
}

const save = (values) => change(`/api/picks/${feature}`, values, "saved");

async function saveTyped() {
  const values = Object.fromEntries(unsaved);
  unsaved.clear();
  if (Object.keys(values).length) await save(values);
}
const saveSoon = debounced(500, saveTyped);

for (const field of fields) {
  field.addEventListener("input", () => {
    const number = field.type === "number";
    if (number && !Number.isFinite(field.valueAsNumber)) return;
    unsaved.set(field.dataset.field, number ? field.valueAsNumber : field.value);
    state.textContent = "typing\u2026";
    saveSoon();
  });
  field.addEventListener("change", saveTyped);
}
addEventListener("pagehide", saveTyped);

panel.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const pressed = button.getAttribute("aria-pressed") === "true";
  if (button.dataset.verdict) save({ verdict: pressed ? "" : button.dataset.verdict });
  else if (button.dataset.confidence) save({ confidence: pressed ? null : Number(button.dataset.confidence) });
  else if (button.id === "take-label") save({ label: button.dataset.label });
});

unpick.addEventListener("click", () => change(`/api/picks/${feature}/remove`, {}, "removed; undo brings it back"));
document.getElementById("undo").addEventListener("click", async () => {
  await saveTyped();
  try {
    const { features, picks } = await api("/api/picks/undo", {});
    answeredAt = performance.now();
    const others = features.filter((number) => number !== feature);
    state.textContent = others.length ? `undone: the pick of feature ${others.join(", ")}` : "undone";
    if (features.includes(feature)) show(picks[feature]);
  } catch (error) {
    state.textContent = error.message;
  }
});

document.addEventListener("picked", ({ detail: pick }) => {
  if (pick?.feature !== feature) return;
  state.textContent = "saved";
  answeredAt = performance.now();
  show(pick);
});

// What another tab or a command changed is shown, too, unless someone is typing here.
watchPicks(({ picks }, sent) => {
  if (saving || unsaved.size || sent < answeredAt || fields.includes(document.activeElement)) return false;
  const pick = picks.find((one) => one.feature === feature) ?? null;
  if (JSON.stringify(pick) === known) return true;
  if (known !== undefined) state.textContent = pick ? "changed elsewhere" : "removed elsewhere";
  show(pick);
  return true;
});
