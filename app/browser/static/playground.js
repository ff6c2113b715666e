// The playground: base, steered and instructed texts side by side, from the endpoint.

import { api, debounced, element, modelSettled, tell } from "/static/common.js";
import { Column } from "/static/playground_column.js";
import { sameWords } from "/static/playground_differences.js";
import { FeatureList } from "/static/playground_features.js";
import { showResults } from "/static/playground_results.js";
import { chosen, formValues, isChat, keep, kept, setChat, setForm, showKind, steeringOf } from "/static/playground_settings.js";
import { Sweep } from "/static/playground_sweep.js";
import { events } from "/static/stream.js";

const at = (id) => document.getElementById(id);
const units = {};
const KEEP_EVERY = 1000; // milliseconds, while texts are written
const features = new FeatureList(at("features"), () => changed());
const columns = ["base", "steered", "prompted"].map((name) => new Column(name, (feature) => units[feature]));
const [base, steered, prompted] = columns;
let choices, running = null, result = null, written = null;
let saved = null; // of the result that is open: its id, its command, and the settings that both are of
let started = false; // before that nothing is kept, since it would replace what is to be restored
let keptAt = 0;

const sweep = new Sweep(features, sweepRequest, () => remember());

const failed = (error) => error.name !== "AbortError" && tell(error.message, { error: true });

function steering() {
  return steeringOf(features.steering);
}

// --- Texts

// The messages of a chat after so many turns of a column, with the next one.
function messagesOf(column, n, said) {
  const texts = column.texts;
  const past = column.turns.slice(0, n).flatMap((turn, i) => [{ role: "user", content: turn.said }, { role: "assistant", content: texts[i] }]);
  return [...past, { role: "user", content: said }];
}

// What a column continues; its turn has begun.
function beginningOf(column, settings) {
  if (settings.chat) {
    const system = column === prompted && settings.instruction ? [{ role: "system", content: settings.instruction }] : [];
    return { messages: [...system, ...messagesOf(column, column.turns.length - 1, settings.said)] };
  }
  return { prompt: column === prompted && settings.instruction ? `${settings.instruction}\n\n${settings.said}` : settings.said };
}

// A sweep tries what would be written next, or in a chat without a next message the last again.
function sweepRequest() {
  const said = at("prompt").value;
  if (!isChat()) return { beginning: { prompt: said }, steering: steering(), chosen: chosen() };
  const again = !said && steered.turns.length > 0;
  const n = again ? steered.turns.length - 1 : steered.turns.length;
  const messages = messagesOf(steered, n, again ? steered.turns[n].said : said);
  return { beginning: { messages }, steering: steering(), chosen: chosen() };
}

async function writeColumn(column, settings, signal) {
  const beginning = beginningOf(column, settings);
  const path = settings.chat ? "/v1/chat/completions" : "/v1/completions";
  const body = { ...beginning, ...settings.chosen, stream: true, watch: features.numbers };
  if (column === steered && settings.steering) body.steering = settings.steering;
  try {
    for await (const chunk of events(path, body, { signal })) {
      signal.throwIfAborted(); // the earlier texts may be back
      const choice = chunk.choices?.[0];
      const text = choice?.text ?? choice?.delta?.content ?? "";
      if (text || choice?.sparsteer) column.push({ text, ...choice.sparsteer });
      if (performance.now() - keptAt > KEEP_EVERY) remember();
    }
    signal.throwIfAborted();
  } finally {
    column.end();
  }
  const tokens = column.turns.at(-1).tokens.flatMap((each) => each.token ?? []);
  return { beginning, text: column.text, tokens };
}

async function measure(column, { beginning, text, tokens }) {
  if (text) column.measures = await api("/api/playground/read", { beginning, text, tokens, features: features.numbers });
}

// Gives what puts the texts back that are there now.
function snapshot() {
  const there = columns.map((column) => ({ turns: [...column.turns], measures: column.measures, hidden: column.root.hidden }));
  const had = written;
  return () => {
    written = had;
    columns.forEach((column, n) => {
      column.turns = there[n].turns;
      column.measures = there[n].measures;
      column.root.hidden = there[n].hidden;
    });
    for (const column of columns) column.show(column.measures, base.measures?.perplexity);
  };
}

// Writes one turn in every column, and measures it; true if nothing stopped it.
async function write(said) {
  if (running) return false;
  const settings = { said, chat: isChat(), chosen: chosen(), steering: steering(), instruction: at("instruction").value.trim() };
  const used = settings.instruction ? columns : [base, steered];
  const putBack = snapshot();
  for (const column of columns) if (!settings.chat || !used.includes(column)) column.clear();
  prompted.root.hidden = !settings.instruction;
  for (const column of used) column.begin(settings.chat ? said : null);
  running = new AbortController();
  busy(true, "writing\u2026");
  written = { ...settings, saids: settings.chat ? base.turns.map((turn) => turn.said) : [said] };
  let [done, whole] = [false, false];
  try {
    const texts = await Promise.all(used.map((column) => writeColumn(column, settings, running.signal)));
    whole = true;
    await Promise.all(used.map((column, n) => measure(column, texts[n])));
    for (const column of used) column.show(column.measures, base.measures?.perplexity);
    at("state").textContent = outcome();
    done = true;
  } catch (error) {
    at("state").textContent = error.name === "AbortError" ? "stopped" : "not written";
    running?.abort();
    failed(error);
    const nothing = used.every((column) => !column.text);
    if (!whole && (nothing || error.name !== "AbortError")) putBack();
  } finally {
    running = null;
    busy(false);
    redraw();
  }
  return done;
}

function outcome() {
  if (!features.numbers.length) return "done; add a feature to steer with";
  if (base.text === steered.text) return "done: base and steered text are the same; the push is too weak to change a token";
  const n = sameWords(base.text, steered.text);
  if (!n) return "done: the texts differ from the first word on";
  return `done: the texts part after ${n} word${n === 1 ? "" : "s"}`;
}

function busy(on, words) {
  at("write").disabled = on;
  at("stop").disabled = !on;
  at("save").disabled = on || !base.turns.length;
  if (words) at("state").textContent = words;
}

async function submit(event) {
  event.preventDefault();
  const said = at("prompt").value;
  try {
    if (await write(said) && isChat()) at("prompt").value = "";
  } catch (error) {
    failed(error);
  }
  remember();
}

// --- What is shown of them

function redraw() {
  const marks = at("mark").checked;
  base.comparedWith = marks ? steered : null;
  steered.comparedWith = prompted.comparedWith = marks ? base : null;
  for (const column of columns) {
    column.heatOf = at("heat-of").value || null;
    column.draw();
  }
}

function showHeatChoices() {
  const before = at("heat-of").value;
  at("heat-of").replaceChildren(...features.features.map((each) => element("option", { value: each.feature }, `${each.feature} ${each.label}`)));
  if (features.numbers.map(String).includes(before)) at("heat-of").value = before;
}

// --- Settings

function changed() {
  for (const each of features.features) units[each.feature] = each.max_activation;
  showHeatChoices();
  redraw();
  sweep.draw();
  remember();
  describe();
}

// What the command and the intervention are of.
function settingsNow() {
  return { steering: steering(), prompt: at("prompt").value, chat: isChat(), chosen: chosen() };
}

// The open result, while the settings are still its own.
function unchanged() {
  return saved && saved.settings === JSON.stringify(settingsNow()) ? saved : null;
}

let described = 0; // how often it was asked what the settings mean; only the last answer counts

const describe = debounced(250, async () => {
  const mine = ++described;
  at("together").textContent = "";
  for (const kind of ["tier", "edit", "direction"]) {
    const found = choices[`${kind}s`].find((one) => one.name === at(kind).value);
    at(`${kind}-meaning`).textContent = found?.meaning ?? "";
  }
  if (!features.numbers.length) return void (at("command").textContent = "");
  try {
    await modelSettled;
    if (mine !== described) return;
    const found = await api("/api/playground/intervention", settingsNow());
    if (mine !== described) return;
    at("command").textContent = unchanged()?.command ?? found.command;
    features.showFractions(found.fractions);
    if (features.numbers.length > 1) at("together").textContent = `All together: ${Number((100 * found.together).toPrecision(2))} % of the residual's norm`;
  } catch (error) {
    if (mine !== described) return;
    at("together").textContent = error.message;
  }
});

function remember() {
  if (!started) return;
  keptAt = performance.now();
  keep({
    run: choices?.run, result, saved, form: formValues(), written, sweep: sweep.rows,
    features: features.features,
    columns: columns.map((column) => ({ turns: column.turns, measures: column.measures ?? null })),
  });
}

function restore(state) {
  setForm(state.form);
  result = state.result;
  saved = state.saved ?? null;
  written = state.written;
  sweep.rows = state.sweep ?? [];
  for (const each of state.features) {
    units[each.feature] = each.max_activation;
    features.features.push(each);
  }
  columns.forEach((column, n) => {
    column.turns = state.columns[n].turns;
    column.measures = state.columns[n].measures;
  });
  for (const column of columns) column.show(column.measures, base.measures?.perplexity);
}

// --- Results

async function save() {
  try {
    const body = {
      chat: written.chat, turns: written.saids, instruction: written.instruction, chosen: written.chosen, steering: written.steering,
      texts: Object.fromEntries(columns.map((column) => [column.name, column.texts])),
      measures: Object.fromEntries(columns.filter((column) => column.measures).map((column) => [column.name, column.measures])),
      sweep: sweep.rows,
    };
    if (!body.steering) throw new Error("this text was written without a feature; add one and write again: a result is that of steering");
    const { id, address } = await api("/api/playground/results", body);
    result = id;
    history.pushState(null, "", address);
    tell("saved; the address of this page opens it again");
    const { command } = await api(`/api/playground/results/${id}`);
    const { steering: pushed, chosen: sampled, chat } = body;
    const prompt = chat ? at("prompt").value : body.turns[0];
    saved = { id, command, settings: JSON.stringify({ steering: pushed, prompt, chat, chosen: sampled }) };
    remember();
    describe();
    await showResults(result);
  } catch (error) {
    failed(error);
  }
}

async function open(id) {
  const found = await api(`/api/playground/results/${id}`);
  at("warning").hidden = !found.warning;
  at("warning").textContent = found.warning;
  features.clear();
  for (const one of found.intervention.features) {
    const known = await api(`/api/playground/feature/${one.index}`);
    await features.add(one.index, one.sign * one.strength, { ...known, max_activation: one.max_activation });
  }
  const { tier, threshold, edit = "add", direction = "decoder" } = found.intervention;
  setForm({ ...found.chosen, tier, threshold, edit, direction, instruction: found.instruction, chat: found.chat, prompt: found.chat ? "" : found.turns[0] });
  written = { chat: found.chat, saids: found.turns, said: found.turns.at(-1), instruction: found.instruction, chosen: found.chosen, steering: steering() };
  sweep.rows = found.sweep;
  for (const column of columns) {
    column.restore(found.chat ? found.turns : [], found.texts[column.name]);
    column.show(found.measures[column.name] ?? null, found.measures.base?.perplexity);
  }
  prompted.root.hidden = !found.texts.prompted.length;
  at("write").textContent = found.chat ? "Write" : "Run again";
  at("save").disabled = false;
  at("state").textContent = `saved ${new Date(found.created).toLocaleString()}, written by ${found.model}`;
  if (found.chat) at("run-chat-again").hidden = false;
  result = id;
  saved = { id, command: found.command, settings: JSON.stringify(settingsNow()) };
  changed();
}

// The turns of a saved chat again, one after the other.
async function runChatAgain() {
  const { saids } = written;
  const putBack = snapshot();
  for (const column of columns) column.clear();
  for (const said of saids) if (!(await write(said))) break;
  if (!base.turns.length) putBack();
  redraw();
  remember();
}

async function download() {
  try {
    const own = unchanged();
    if (own) return element("a", { href: `/api/playground/results/${own.id}/intervention`, download: "" }).click();
    const { intervention } = await api("/api/playground/intervention", { steering: steering(), chosen: chosen() });
    const file = new Blob([`${JSON.stringify(intervention, null, 2)}\n`], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(file), download: "intervention.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    failed(error);
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText(at("command").textContent);
    tell("copied");
  } catch {
    getSelection().selectAllChildren(at("command"));
    tell("press Ctrl-C to copy the marked command");
  }
}

async function addFeature() {
  const text = at("add-number").value.trim();
  if (!/^\d+$/.test(text)) return tell("give the number of a feature", { error: true });
  try {
    await features.add(Number(text));
    at("add-number").value = "";
  } catch (error) {
    failed(error);
  }
}

async function addPicks() {
  for (const pick of choices.picks) {
    if (!features.numbers.includes(pick.feature)) await features.add(pick.feature, pick.strength, pick);
  }
}

// --- Beginning

async function askModel() {
  await modelSettled;
  const found = await api("/api/playground/model");
  document.querySelector('input[name="kind"][value="chat"]').disabled = !found.chat;
  at("no-chat").hidden = found.chat;
  if (!found.chat && isChat()) setChat(false);
}

// What the first feature is about, for the instruction that competes with it.
function topic() {
  const first = features.features[0];
  const texts = first?.label ? [first.label] : (first?.fires_on ?? []).map((text) => text.trim()).filter(Boolean);
  return texts.map((text) => `"${text}"`).join(", ") || "a topic of your choice";
}

async function start() {
  choices = await api("/api/playground");
  sweep.strengths = choices.strengths;
  for (const kind of ["tier", "edit", "direction"]) {
    at(kind).replaceChildren(...choices[`${kind}s`].map((one) => element("option", { value: one.name }, one.name)));
  }
  at("add-picks").hidden = !choices.picks.length;
  const address = new URL(location.href);
  const asked = address.searchParams.get("feature");
  const opened = address.searchParams.get("result");
  const state = kept();
  const own = state && state.run === choices.run && !(opened && state.result !== opened);
  if (own) restore(state);
  else if (opened) await open(opened);
  if (asked !== null) {
    if (!features.numbers.includes(Number(asked))) await features.add(Number(asked), Number(address.searchParams.get("strength")) || undefined);
    history.replaceState(null, "", "/playground");
  } else if (!own && !opened) await addPicks();
  if (!own && !opened) at("instruction").value = `Write about ${topic()}.`;
  features.draw();
  started = true;
  changed();
  busy(false);
  prompted.root.hidden = !at("instruction").value.trim();
  askModel().catch(failed);
}

at("playground").addEventListener("submit", submit);
at("stop").addEventListener("click", () => running?.abort());
at("start-over").addEventListener("click", () => {
  for (const column of columns) column.clear();
  written = null;
  busy(false);
  remember();
});
at("add").addEventListener("click", addFeature);
at("add-number").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    addFeature();
  }
});
at("add-picks").addEventListener("click", () => addPicks().catch(failed));
at("save").addEventListener("click", save);
at("run-chat-again").addEventListener("click", () => runChatAgain().catch(failed));
at("download").addEventListener("click", download);
at("copy").addEventListener("click", copy);
for (const id of ["mark", "heat-of"]) at(id).addEventListener("change", redraw);
at("playground").addEventListener("input", () => {
  remember();
  describe();
});
for (const kind of document.querySelectorAll('input[name="kind"]')) kind.addEventListener("change", showKind);
addEventListener("popstate", () => location.reload());
showKind();
addEventListener("pagehide", () => {
  remember();
  started = false; // what ends because the page is left is no result
});
addEventListener("pageshow", (event) => event.persisted && (started = choices !== undefined));
start().catch(failed).finally(() => (started = choices !== undefined));
showResults(new URL(location.href).searchParams.get("result"));
