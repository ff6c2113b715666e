// The strength sweep: asked for, drawn row by row as it comes, stopped.

import { debounced, tell } from "/static/common.js";
import { drawStrip, drawTable } from "/static/playground_strip.js";
import { events } from "/static/stream.js";

const at = (id) => document.getElementById(id);

export class Sweep {
  // features: the list of features. request: gives the body without features and strengths.
  // finished: called when it has ended, however.
  constructor(features, request, finished) {
    this.features = features;
    this.request = request;
    this.finished = finished;
    this.strengths = [];
    this.rows = [];
    at("sweep").addEventListener("click", () => this.run());
    addEventListener("resize", debounced(150, () => this.draw()));
    at("sweep-stop").addEventListener("click", () => this.running?.abort());
  }

  draw() {
    const rows = [...this.rows].sort((a, b) => a.strength - b.strength);
    const choose = (strength) => {
      this.features.scaleTo(strength);
      tell(`strength set to ${strength}`);
    };
    drawStrip(at("strip"), rows, this.features.largest, choose);
    drawTable(at("sweep-table"), rows, choose);
  }

  // The features so that the strongest has strength 1, and the others their proportion to it.
  scaled() {
    const { largest, steering } = this.features;
    return steering.map((each) => ({ ...each, strength: largest ? each.strength / largest : 1 }));
  }

  async run() {
    if (!this.features.numbers.length) return tell("add a feature first", { error: true });
    this.rows = [];
    this.running = new AbortController();
    at("sweep").disabled = true;
    at("sweep-stop").disabled = false;
    const say = (words) => (at("sweep-state").textContent = words);
    try {
      const asked = this.request();
      const body = { ...asked, steering: { ...asked.steering, features: this.scaled() }, strengths: this.strengths };
      say("writing the unsteered text\u2026");
      for await (const { row } of events("/api/sweep", body, { signal: this.running.signal })) {
        this.rows.push(row);
        say(`${this.rows.length} of ${this.strengths.length} strengths`);
        this.draw();
      }
      const broken = this.rows.filter((row) => row.likely_incoherent).length;
      say(`done: ${broken} of ${this.rows.length} strengths are likely incoherent`);
    } catch (error) {
      say(error.name === "AbortError" ? "stopped" : "");
      if (error.name !== "AbortError") tell(error.message, { error: true });
    } finally {
      this.running = null;
      at("sweep").disabled = false;
      at("sweep-stop").disabled = true;
      this.finished();
    }
  }
}
