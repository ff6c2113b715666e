// The list of saved results.

import { api, element, tell } from "/static/common.js";

// Shows the list; opened is the id of the one that is open.
export async function showResults(opened) {
  const place = document.getElementById("results");
  let results;
  try {
    ({ results } = await api("/api/playground/results"));
  } catch (error) {
    return tell(error.message, { error: true });
  }
  document.getElementById("no-results").hidden = results.length > 0;
  place.replaceChildren(...results.map((one) => one.problem
    ? element("li", {}, element("span", { class: "warning" }, one.problem))
    : element("li", {},
      element("a", { href: `/playground?result=${one.id}`, "aria-current": one.id === opened ? "true" : false }, element("bdi", {}, one.title || one.id)),
      element("time", { class: "soft", datetime: one.created }, new Date(one.created).toLocaleString()),
      element("a", { href: `/api/playground/results/${one.id}/intervention`, download: "" }, "intervention"))));
}
