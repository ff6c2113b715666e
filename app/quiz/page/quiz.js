const place = `sparsteer-quiz-${given.quiz}`;
const byId = (id) => document.getElementById(id);
let number = 0;
let answers = {};

try {
  answers = JSON.parse(localStorage.getItem(place) || "{}");
} catch {
  answers = {}; // a browser that keeps nothing for files
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(answers));
  } catch {
    // the answers are lost when the page is closed, unless they are saved
  }
}

function ofQuestion() {
  const question = given.questions[number];
  answers[question.question] ??= question.pairs.map(() => null);
  return answers[question.question];
}

function textOf(text) {
  const line = document.createElement("span");
  text.tokens.forEach((token, index) => {
    const part = document.createElement("bdi");
    part.className = index === text.marked ? "token marked" : "token";
    part.textContent = token;
    const strength = text.strengths[index] || 0;
    if (strength > 0) part.style.backgroundColor = `rgb(230 120 0 / ${0.15 + 0.55 * Math.min(1, strength)})`;
    line.append(part);
  });
  return line;
}

function pairOf(pair, index) {
  const box = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = `Pair ${index + 1}`;
  box.append(legend);
  for (const side of ["A", "B"]) {
    const label = document.createElement("label");
    const button = document.createElement("input");
    button.type = "radio";
    button.name = `pair-${index}`;
    button.value = side;
    button.checked = ofQuestion()[index] === side;
    button.addEventListener("change", () => answer(index, side));
    const name = document.createElement("strong");
    name.textContent = side;
    label.append(button, name, textOf(pair[side]));
    box.append(label);
  }
  return box;
}

function answer(index, side) {
  ofQuestion()[index] = side;
  keep();
  tell();
}

function tell() {
  const done = Object.values(answers).filter((all) => all.every((one) => one !== null)).length;
  byId("progress").textContent = `${done} of ${given.questions.length} questions answered in full`;
}

function show(next) {
  number = Math.max(0, Math.min(given.questions.length - 1, next));
  const question = given.questions[number];
  byId("title").textContent = `Question ${question.question} of ${given.questions.length}: where the feature is active`;
  byId("shown").replaceChildren(...question.shown.map((text) => {
    const line = document.createElement("li");
    line.append(textOf(text));
    return line;
  }));
  byId("pairs").replaceChildren(...question.pairs.map(pairOf));
  byId("back").disabled = number === 0;
  byId("next").disabled = number === given.questions.length - 1;
  tell();
}

function step(by) {
  show(number + by);
  byId("title").focus();
  scrollTo(0, 0);
}

byId("back").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("save").addEventListener("click", () => {
  const answered = Object.fromEntries(Object.entries(answers).filter(([, all]) => all.some((one) => one !== null)));
  const content = JSON.stringify({ quiz: given.quiz, by: "a person", answers: answered }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = "answers.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
document.addEventListener("keydown", (event) => {
  const side = event.key.toUpperCase();
  if (event.ctrlKey || event.metaKey || event.altKey || !["A", "B"].includes(side)) return;
  const open = ofQuestion().indexOf(null);
  if (open < 0) return;
  answer(open, side);
  document.querySelector(`input[name="pair-${open}"][value="${side}"]`).checked = true;
});
show(given.questions.findIndex((one) => !(answers[one.question] || []).length));
