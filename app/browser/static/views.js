// The switches above examples are remembered; the style sheet does what they say.

for (const box of document.querySelectorAll("input[data-view]")) {
  const name = `sparsteer-view-${box.dataset.view}`;
  box.checked = localStorage.getItem(name) === "1";
  box.addEventListener("change", () => localStorage.setItem(name, box.checked ? "1" : "0"));
}
