// The settings of the playground: read from the form, put into it, kept when the page is reloaded.

const FIELDS = ["prompt", "instruction", "temperature", "top_p", "seed", "max_tokens", "tier", "threshold", "edit", "direction"];
const KEY = "sparsteer-playground";

const field = (id) => document.getElementById(id);

export function isChat() {
  return document.querySelector('input[name="kind"]:checked').value === "chat";
}

export function setChat(chat) {
  document.querySelector(`input[name="kind"][value="${chat ? "chat" : "plain"}"]`).checked = true;
  showKind();
}

// What changes with the kind of text.
export function showKind() {
  field("prompt-label").textContent = isChat() ? "Message" : "Beginning of the text";
  field("start-over").hidden = !isChat();
}

function number(id, name) {
  const value = field(id).value.trim();
  if (value === "" || !Number.isFinite(Number(value))) throw new Error(`${name} is ${value === "" ? "empty" : value}; give a number`);
  return Number(value);
}

export function chosen() {
  return {
    temperature: number("temperature", "temperature"),
    top_p: number("top_p", "top_p"),
    seed: number("seed", "seed"),
    max_tokens: number("max_tokens", "the number of tokens"),
  };
}

// What the endpoint takes as `steering`; none without features.
export function steeringOf(features) {
  if (!features.length) return undefined;
  return { features, tier: field("tier").value, threshold: number("threshold", "the threshold"), edit: field("edit").value, direction: field("direction").value, seed: field("direction").value === "decoder" ? 0 : number("seed", "seed") };
}

export function formValues() {
  return { chat: isChat(), ...Object.fromEntries(FIELDS.map((id) => [id, field(id).value])) };
}

export function setForm(values) {
  for (const id of FIELDS) if (values[id] !== undefined && values[id] !== null) field(id).value = values[id];
  if (values.chat !== undefined) setChat(values.chat);
}

export function keep(state) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    // Storage is full or not allowed: then a reload starts anew.
  }
}

export function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}
