// Stars: a press is saved at once.

import { api, tell } from "./common.js";
import { watchPicks } from "./watch_picks.js";

let pressedAt = 0; // what was asked for before is older than the last press
let pressing = 0; // presses that are not saved yet

// Show every star of a feature as pressed or not.
export function showStar(feature, starred) {
  for (const button of document.querySelectorAll(`button[data-star="${feature}"]`)) {
    button.setAttribute("aria-pressed", String(starred));
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-star]");
  if (!button) return;
  const { star } = button.dataset;
  const starred = button.getAttribute("aria-pressed") !== "true";
  showStar(star, starred);
  pressing += 1;
  try {
    const { pick } = await api(`/api/picks/${star}`, { starred });
    document.dispatchEvent(new CustomEvent("picked", { detail: pick }));
    showStar(star, Boolean(pick?.starred));
  } catch (error) {
    showStar(star, !starred);
    tell(error.message, { error: true });
  } finally {
    pressing -= 1;
    pressedAt = performance.now();
  }
});

watchPicks(({ picks }, sent) => {
  if (pressing || sent < pressedAt) return false;
  const starred = new Set(picks.filter((pick) => pick.starred).map((pick) => String(pick.feature)));
  for (const button of document.querySelectorAll("button[data-star]")) {
    button.setAttribute("aria-pressed", String(starred.has(button.dataset.star)));
  }
});
