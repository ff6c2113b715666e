// The steered features: one block for each, with its slider, its number and a button to remove it.

import { api, element } from "/static/common.js";

const RANGE = 6;

export class FeatureList {
  // place: where the blocks go. changed: called when a feature or strength is another.
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    this.features = [];
  }

  get numbers() {
    return this.features.map((each) => each.feature);
  }

  // What the endpoint takes.
  get steering() {
    return this.features.map(({ feature, strength }) => ({ index: feature, strength }));
  }

  // A feature of which the server is asked for label and unit, unless they are given.
  async add(number, strength, known) {
    if (this.numbers.includes(number)) throw new Error(`feature ${number} is there already`);
    const found = known ?? (await api(`/api/playground/feature/${number}`));
    if (this.numbers.includes(number)) return;
    this.features.push({ ...found, strength: strength ?? found.strength });
    this.draw();
    this.changed();
  }

  remove(number) {
    this.features = this.features.filter((each) => each.feature !== number);
    this.draw();
    this.changed();
    document.getElementById("add-number").focus();
  }

  clear() {
    this.features = [];
    this.draw();
  }

  // The strongest gets this strength, and the others keep their proportion to it.
  scaleTo(strength) {
    const largest = this.largest || 1;
    for (const each of this.features) {
      each.strength = round(((this.largest ? each.strength : 1) / largest) * strength);
    }
    this.draw();
    this.changed();
  }

  get largest() {
    const strengths = this.features.map((each) => each.strength);
    return strengths.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
  }

  draw() {
    this.place.replaceChildren(...this.features.map((each) => this.block(each)));
    document.getElementById("no-features").hidden = this.features.length > 0;
  }

  block(each) {
    const id = `strength-${each.feature}`;
    const change = (value, other) => {
      const strength = Number(value);
      if (value === "" || !Number.isFinite(strength)) return;
      each.strength = strength;
      other.value = value;
      this.changed();
    };
    const slider = element("input", {
      type: "range", id, min: -RANGE, max: RANGE, step: 0.1, value: each.strength,
      "aria-describedby": `${id}-fraction`, oninput: () => change(slider.value, number),
    });
    const number = element("input", {
      type: "number", step: 0.1, value: each.strength, "aria-label": `Strength of feature ${each.feature}, as a number`,
      oninput: () => change(number.value, slider),
    });
    const label = each.label ? element("bdi", {}, each.label) : fires(each.fires_on);
    return element("div", { class: "steered-feature" },
      element("div", { class: "row" },
        element("label", { for: id }, element("span", { class: "unseen" }, "Strength of feature "), `${each.feature} `, label),
        element("a", { href: `/features/${each.feature}`, "aria-label": `Page of feature ${each.feature}` }, "page"),
        element("button", { type: "button", "aria-label": `Remove feature ${each.feature}`, onclick: () => this.remove(each.feature) }, "\u00d7")),
      element("div", { class: "slider" }, slider, number),
      element("p", { class: "soft", id: `${id}-fraction`, "data-fraction": each.feature }));
  }

  // How large each push is beside the residual, from fractions at strength 1.
  showFractions(fractions) {
    for (const each of this.features) {
      const line = this.place.querySelector(`[data-fraction="${each.feature}"]`);
      const fraction = fractions[each.feature];
      if (!line || fraction === undefined) continue;
      const percent = (100 * Math.abs(each.strength) * fraction).toPrecision(2);
      line.textContent = `${round(each.strength)} \u00d7 its largest activation = ${Number(percent)} % of the residual's norm`;
    }
  }
}

export function round(number) {
  return Math.round(number * 1000) / 1000;
}

function fires(texts) {
  return element("span", { class: "soft" }, texts.length ? "fires on " : "", ...texts.flatMap((text) => [element("bdi", { class: "token" }, text), " "]));
}
