// The page of shared features: a list with search, and a feature by its number in the address.
// Features come in chunks, by script elements, since a page from disk may not fetch. Their HTML was
// made, with every text escaped, where they were exported; here only text nodes are added.
"use strict";
(() => {
  const { rows, size, chunks } = window.sparsteerList;
  const nonce = document.currentScript.nonce;
  const place = new Map(rows.map((row, at) => [row.number, at]));
  const words = rows.map((row) => [row.label, row.note, ...row.tokens].join("\n").toLowerCase());
  const byId = (id) => document.getElementById(id);
  const list = byId("list"), search = byId("search"), article = byId("feature");
  const pageSize = 200;
  let found = rows.map((_, at) => at);
  let listed = 0;

  // Chunks that were read, by their number, and who waits for one.
  const read = new Map();
  const waiting = new Map();
  window.sparsteerChunk = (number, features) => {
    read.set(number, features);
    waiting.get(number)?.();
  };

  function chunk(number) {
    if (read.has(number)) return Promise.resolve(read.get(number));
    return new Promise((done, failed) => {
      waiting.set(number, () => done(read.get(number)));
      const script = document.createElement("script");
      script.nonce = nonce;
      script.src = chunks[number];
      script.onerror = () => failed(new Error(`${chunks[number]} is missing beside this page`));
      document.head.append(script);
    });
  }

  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  function item(row) {
    const link = element("a", "", String(row.number));
    link.href = `#${row.number}`;
    const what = element("div");
    if (row.label) {
      if (row.machine) what.append(element("span", "badge machine", `machine${row.score ? ` ${row.score}` : ""}`), " ");
      what.append(element("bdi", "", row.label), " ");
    }
    for (const token of row.peaks) what.append(element("bdi", "token", token), " ");
    if (row.note) what.append(element("div", "note", row.note));
    return element("li", "", link, what, element("span", "numbers", row.numbers));
  }

  function more() {
    const next = found.slice(listed, listed + pageSize);
    list.append(...next.map((at) => item(rows[at])));
    listed += next.length;
    byId("more").hidden = listed >= found.length;
  }

  function filter() {
    const sought = search.value.trim().toLowerCase();
    const exact = rows.findIndex((row) => String(row.number) === sought);
    found = [];
    for (let at = 0; at < rows.length; at++) {
      if (at !== exact && (!sought || words[at].includes(sought))) found.push(at);
    }
    if (exact >= 0) found.unshift(exact);
    listed = 0;
    list.replaceChildren();
    more();
    const [match, all] = [found, rows].map((some) => some.length.toLocaleString("en"));
    byId("found").textContent = sought ? `${match} of ${all} features match` : "";
  }

  async function show() {
    const number = /^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : null;
    byId("overview").hidden = number !== null;
    byId("shown").hidden = number === null;
    if (number === null) return;
    const at = place.get(number);
    for (const [id, step] of [["previous", -1], ["next", 1]]) {
      const other = at === undefined ? undefined : rows[at + step];
      byId(id).hidden = !other;
      if (other) byId(id).href = `#${other.number}`;
    }
    document.title = `Feature ${number}`;
    if (at === undefined) {
      article.replaceChildren(element("h1", "", `Feature ${number}`), element("p", "", "It is not among the features that were shared."));
      return;
    }
    try {
      const features = await chunk(Math.floor(at / size));
      if (location.hash !== `#${number}`) return;
      article.innerHTML = features[at % size];
      for (const link of article.querySelectorAll("a[href^='#']")) {
        if (!place.has(Number(link.hash.slice(1)))) link.replaceWith(link.textContent);
      }
    } catch (error) {
      article.replaceChildren(element("p", "warning", error.message));
    }
    article.focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  // Where the browser keeps nothing for pages from disk, the choice lasts as long as the page.
  function remembered(key, value) {
    try {
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch { /* not kept */ }
    return null;
  }

  const root = document.documentElement, theme = byId("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = remembered("sparsteer-theme");
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  theme.setAttribute("aria-pressed", String(dark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remembered("sparsteer-theme", root.dataset.theme);
    theme.setAttribute("aria-pressed", String(dark()));
  });

  for (const [id, name] of [["show-breaks", "breaks"], ["short-context", "short"]]) {
    byId(id).addEventListener("change", (event) => article.classList.toggle(name, event.target.checked));
  }
  byId("more").addEventListener("click", more);
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    filter();
    if (found.length) location.hash = `#${rows[found[0]].number}`;
  });
  search.addEventListener("input", () => {
    if (location.hash.length > 1) location.hash = "#";
    filter();
  });
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    if (event.key === "j" && !byId("shown").hidden && !byId("next").hidden) byId("next").click();
    if (event.key === "k" && !byId("shown").hidden && !byId("previous").hidden) byId("previous").click();
  });
  filter();
  show();
})();
