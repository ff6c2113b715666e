// What every page has: asking the server, messages, the model's status, the theme.

// This tab's own name, so that undo takes back what was done in this tab.
const tab = sessionStorage.getItem("sparsteer-tab") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
sessionStorage.setItem("sparsteer-tab", tab);

// Ask the server; body, if given, is sent as JSON. Throws an Error with the server's sentence.
export async function api(path, body, { signal, keepalive = false } = {}) {
  const options = { signal, keepalive, headers: { Accept: "application/json", "X-Sparsteer-Tab": tab } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const values = await answer.json().catch((error) => {
    if (signal?.aborted) throw error; // not an empty answer: nobody waits for it any more
    return {};
  });
  if (!answer.ok) throw new Error(values.error?.message ?? `the server answered ${answer.status}`);
  return values;
}

// Show a sentence at the bottom of the window for a while, and to screen readers.
export function tell(sentence, { error = false } = {}) {
  const line = document.createElement("p");
  line.textContent = sentence;
  line.classList.toggle("error", error);
  document.getElementById("messages").append(line);
  setTimeout(() => line.remove(), error ? 12000 : 5000);
}

// An element with attributes, and children that are elements or text (never HTML).
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Call the function once nothing has called it for so many milliseconds.
export function debounced(milliseconds, call) {
  let timer;
  return (...words) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...words), milliseconds);
  };
}

// The token is in a cookie now; it need not stand in the address, where a bookmark would keep it.
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

const root = document.documentElement;
const themeButton = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function showTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark"; // what a press changes to
}

const chosen = localStorage.getItem("sparsteer-theme");
if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
showTheme();
systemDark.addEventListener("change", showTheme);
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("sparsteer-theme", root.dataset.theme);
  showTheme();
});

// Kept once the language model is read, or cannot be: a request that needs it then has its answer.
let settle;
export const modelSettled = new Promise((kept) => {
  settle = kept;
});

const statusLine = document.getElementById("model-status");

async function watchModel() {
  try {
    const { model, model_status: state } = await api("/api/status");
    statusLine.textContent = `${model}: ${state}`;
    root.dataset.model = state;
    if (state === "loading" || state === "waiting") setTimeout(watchModel, 1000);
    else settle();
  } catch (error) {
    statusLine.textContent = "the server does not answer";
    setTimeout(watchModel, 5000);
  }
}
watchModel();

// Only one explanation is open at a time, and Escape closes it.
document.addEventListener("toggle", (event) => {
  if (!event.target.matches?.("details.why") || !event.target.open) return;
  for (const other of document.querySelectorAll("details.why[open]")) {
    if (other !== event.target) other.open = false;
  }
}, true);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll("details.why[open]")) open.open = false;
});
