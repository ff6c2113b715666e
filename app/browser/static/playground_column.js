// One column of text: turns of tokens as they come, activations under them, what differs.

import { element } from "/static/common.js";
import { shared } from "/static/playground_differences.js";

const HEATS = 10;

// The text with control, direction and odd space characters written out; line breaks stay.
export function visible(text) {
  return text.replace(/[\p{C}\p{Z}]/gu, (one) => {
    if (one === " " || one === "\n") return one;
    if (one === "\t") return "\u21e5";
    const code = one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `\u27e8U+${code}\u27e9`;
  });
}

export class Column {
  // units: of a feature its largest activation.
  constructor(name, units) {
    this.name = name;
    this.units = units;
    this.root = document.getElementById(`column-${name}`);
    this.place = this.root.querySelector(".turns");
    this.line = this.root.querySelector(".token-line");
    this.warning = this.root.querySelector(".incoherent");
    this.measured = this.root.querySelector(".measures");
    // A text so many times as perplexing as the base one is likely incoherent.
    this.incoherent = Number(document.getElementById("columns").dataset.incoherentPerplexity);
    this.turns = [];
    this.heatOf = null;
    this.comparedWith = null;
    this.root.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.turns = [];
    this.measures = null;
    this.draw();
    this.show(null);
  }

  // A new turn; said is what the person wrote before it, in a chat.
  begin(said) {
    this.turns.push({ said, tokens: [] });
    this.root.classList.add("writing");
    this.show(null);
    this.draw();
  }

  push(token) {
    this.turns.at(-1).tokens.push(token);
    this.place.lastElementChild.append(this.shown(token, false));
  }

  end() {
    this.root.classList.remove("writing");
    this.draw();
  }

  get texts() {
    return this.turns.map((turn) => turn.tokens.map((token) => token.text).join(""));
  }

  get text() {
    return this.texts.at(-1) ?? "";
  }

  // Texts that were saved, of which the tokens are not known.
  restore(saids, texts) {
    this.turns = texts.map((text, n) => ({ said: saids[n], tokens: [{ text, activations: {} }] }));
    this.draw();
  }

  draw() {
    this.line.hidden = true;
    this.place.replaceChildren();
    this.turns.forEach((turn, number) => {
      if (turn.said !== null && turn.said !== undefined) this.place.append(element("p", { class: "said" }, visible(turn.said)));
      const written = element("p", { class: "written", dir: "auto" });
      const other = this.comparedWith?.texts[number];
      if (other !== undefined) written.append(...this.marked(turn, other));
      else written.append(...turn.tokens.map((token) => this.shown(token, true)));
      this.place.append(written);
    });
    this.place.querySelector('[role="button"]')?.setAttribute("tabindex", "0");
  }

  // The words of a turn, those that the other text lacks marked by a line and, unless this is the
  // base text, in bold.
  marked(turn, other) {
    const own = turn.tokens.map((token) => token.text).join("");
    const kind = this.name === "base" ? "span" : "ins";
    const look = this.name === "base" ? "lost" : "only";
    return shared(own, other)[0].map(({ text, same }) =>
      same || !text.trim() ? document.createTextNode(visible(text)) : element(kind, { class: look }, visible(text)));
  }

  // A token: a button with heat where the chosen feature is active, else plain text.
  shown(token, settled) {
    const value = (token.activations?.[this.heatOf] ?? 0) / (this.units(this.heatOf) || 1);
    const text = visible(token.text);
    if (!(value > 0) || !text) return document.createTextNode(text);
    const level = Math.max(1, Math.min(HEATS, Math.ceil(value * HEATS)));
    const made = element("span", {
      class: `h${level}`, role: "button", tabindex: "-1",
      "aria-label": `${text.trim() || "space"}: feature ${this.heatOf} at ${value.toFixed(2)}`,
    }, text);
    if (settled) made.addEventListener("focus", () => this.explain(token, made));
    if (settled) made.addEventListener("click", () => made.focus());
    return made;
  }

  explain(token, button) {
    for (const each of this.place.querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
    button.tabIndex = 0;
    const values = Object.entries(token.activations)
      .filter(([, value]) => value > 0)
      .map(([feature, value]) => `feature ${feature}: ${(value / (this.units(feature) || 1)).toFixed(2)}`);
    const steered = token.steered === undefined || token.steered === null ? "" : token.steered ? ", steered here" : ", not steered here";
    this.line.textContent = `\u201c${visible(token.text)}\u201d ${values.join(", ")} of its largest activation${steered}`;
    this.line.hidden = false;
  }

  // Arrow keys go from one active token to the next.
  move(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.target.getAttribute("role") !== "button") return;
    const all = [...this.place.querySelectorAll('[role="button"]')];
    const next = all[all.indexOf(event.target) + step];
    if (next) next.focus();
    event.preventDefault();
  }

  // What was measured of the last text, and a warning where it is likely broken.
  show(measures, basePerplexity) {
    this.measures = measures;
    this.warning.hidden = true;
    this.measured.textContent = "";
    if (!measures) return;
    const { perplexity, repetition, activations } = measures;
    const parts = [];
    if (perplexity !== null) parts.push(`perplexity ${perplexity.toPrecision(3)} to the unsteered model`);
    parts.push(`${Math.round(100 * repetition)} % repeats itself`);
    const active = Object.entries(activations).filter(([, value]) => value > 0).map(([feature, value]) => `${feature} at ${value.toFixed(3)}`);
    parts.push(active.length ? `active on average: ${active.join(", ")}` : "none of the features is active in it");
    this.measured.textContent = parts.join(" \u00b7 ");
    const unlikely = perplexity !== null && basePerplexity && perplexity > this.incoherent * basePerplexity;
    if (!measures.likely_incoherent && !unlikely) return;
    const why = measures.likely_incoherent ? `${Math.round(100 * repetition)} % of it repeats itself` : `it is ${Math.round(perplexity / basePerplexity)} times as perplexing as the base text`;
    this.warning.textContent = `Likely incoherent: ${why}.${this.name === "steered" ? " Try less strength." : ""}`;
    this.warning.hidden = false;
  }
}
