// Saved searches: kept by the server, run again, deleted.

import { api, element, tell } from "./common.js";

const KINDS = { text: "text", token: "token", logit: "promotes", label: "label", near: "neighbors", contrast: "two sets" };

// Fill the list, and save what `now` gives when the form is sent; `run` runs one again.
export async function savedSearches({ form, name, list, now, run }) {
  function item(saved) {
    return element("li", { class: "row" },
      element("button", { type: "button", onclick: () => run(saved.query) }, saved.name),
      element("span", { class: "badge" }, KINDS[saved.query.by] ?? saved.query.by),
      element("button", {
        type: "button", class: "quiet", "aria-label": `Delete the search ${saved.name}`,
        onclick: () => change(`/api/searches/${saved.number}/delete`, {}, "deleted"),
      }, "Delete"));
  }
  async function reload() {
    const { searches } = await api("/api/searches");
    list.replaceChildren(...searches.map(item));
    if (!searches.length) list.append(element("li", { class: "soft" }, "None yet."));
  }
  async function change(path, body, done) {
    try {
      await api(path, body);
      await reload();
      tell(done);
    } catch (error) {
      tell(error.message, { error: true });
    }
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { by, query } = now();
    change("/api/searches", { name: name.value.trim(), by, query }, "saved");
  });
  await reload();
}
