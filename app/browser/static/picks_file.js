// Take the picks of a picks.json in, beside those that are there.

import { api, element } from "./common.js";

const chooser = document.getElementById("picks-file");
const state = document.getElementById("picks-state");

chooser.addEventListener("change", async () => {
  const [chosen] = chooser.files;
  if (!chosen) return;
  state.textContent = "reading\u2026";
  try {
    const file = await chosen.text(); // sent as it is, since its checksum is of 1.0 and not of 1
    try {
      JSON.parse(file);
    } catch {
      throw new Error(`${chosen.name} is no JSON; choose a picks.json`);
    }
    const { progress, step } = await api("/api/picks/import", { file, mode: "merge" });
    state.replaceChildren(step ? `taken in: ${progress.picked.toLocaleString("en")} features are picked now. ` : "nothing in it is new. ",
      element("a", { href: "/?show=picked" }, "List them"));
  } catch (error) {
    state.textContent = error.message;
  } finally {
    chooser.value = ""; // the same file may be chosen again
  }
});
