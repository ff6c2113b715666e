// Stars: a press is saved at once.

import { api, tell } from "./common.js";

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
  try {
    const { pick } = await api(`/api/picks/${star}`, { starred });
    document.dispatchEvent(new CustomEvent("picked", { detail: pick }));
    showStar(star, Boolean(pick?.starred));
  } catch (error) {
    showStar(star, !starred);
    tell(error.message, { error: true });
  }
});
