// The cut follows the slider: the part of the page about it is asked for anew. Without scripts the
// form does the same.

import { debounced, tell } from "/static/common.js";

function listen() {
  const [slider, field] = [document.getElementById("ratio-slider"), document.getElementById("ratio")];
  slider.addEventListener("input", () => {
    field.value = slider.value;
    show(slider.value);
  });
  field.addEventListener("change", () => {
    slider.value = field.value;
    show(field.value);
  });
}

const show = debounced(120, async (ratio) => {
  const address = `${location.pathname}?ratio=${encodeURIComponent(ratio)}`;
  try {
    const answer = await fetch(address, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok) throw new Error(page.querySelector("main p")?.textContent ?? `the server answered ${answer.status}`);
    const [fresh, old] = [page.getElementById("cut"), document.getElementById("cut")];
    // The form stays, so that the slider keeps the focus.
    for (const part of ["p", ".plots"]) old.querySelector(part).replaceWith(document.adoptNode(fresh.querySelector(part)));
    history.replaceState(null, "", address);
  } catch (error) {
    tell(error.message, { error: true });
  }
});

document.getElementById("go-to-row").addEventListener("submit", (event) => {
  event.preventDefault();
  const { number, rows } = event.target.dataset;
  const row = Number(document.getElementById("row-number").value);
  if (row < 1 || row > Number(rows)) return tell(`there are rows 1 to ${rows}`, { error: true });
  location.href = `/selection/${number}/rows/${row}`;
});
listen();
