"use strict";
// Keeps a person's choices about suspect labels in the browser, and saves them as a table for `captcha-pipeline data correct`.

const RULES = JSON.parse(document.getElementById("rules").textContent);
const STORE = `captcha-pipeline audit ${RULES.audit}`;
const CARDS = [...document.querySelectorAll("article")];
const CHOICES = { k: "keep", c: "correct", Enter: "correct", r: "remove", u: "" };
const summary = document.getElementById("summary");
const download = document.getElementById("download");
let choices = load(); // { choice, text } by the key of the picture; the choice is "" for undecided

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE));
    return stored && typeof stored === "object" ? stored : {};
  } catch {
    return {};
  }
}

function save() {
  try {
    localStorage.setItem(STORE, JSON.stringify(choices));
    return true;
  } catch {
    return false;
  }
}

const field = (card) => card.querySelector('input[type="text"]');
const fold = (text) => (RULES.case_sensitive ? text : text.toLowerCase());
const charset = new Set(fold(RULES.characters));

function isLabel(text) {
  const characters = [...fold(text.normalize("NFC"))];
  return characters.length >= RULES.min_length && characters.length <= RULES.max_length && characters.every((it) => charset.has(it));
}

function show(card) {
  const { choice = "", text } = choices[card.dataset.key] ?? {};
  const input = field(card);
  if (text !== undefined && input.value !== text) input.value = text;
  input.setAttribute("aria-invalid", String(!isLabel(input.value)));
  card.dataset.choice = choice;
  for (const radio of card.querySelectorAll('input[type="radio"]')) radio.checked = radio.value === choice;
}

function count(stored) {
  const of = (wanted) => CARDS.filter((card) => card.dataset.choice === wanted).length;
  const open = of("");
  summary.textContent =
    `${of("correct")} to correct, ${of("remove")} to remove, ${of("keep")} to keep, ${open} undecided` +
    (stored ? "" : ". This browser cannot keep the choices: download them before you close the page");
  download.disabled = of("correct") + of("remove") === 0;
}

// Stores a choice about a picture. Returns false, and stores nothing, if the label would be corrected to a text that is not a valid label.
function choose(card, choice) {
  const text = field(card).value;
  const taken = choice !== "correct" || isLabel(text);
  if (taken) choices[card.dataset.key] = { choice, text };
  const stored = save();
  show(card);
  count(stored);
  return taken;
}

function go(card, steps) {
  const next = CARDS[CARDS.indexOf(card) + steps];
  if (next) next.focus();
}

for (const card of CARDS) {
  show(card);
  card.addEventListener("change", (event) => {
    if (event.target.type === "radio" && !choose(card, event.target.value)) field(card).focus();
  });
  field(card).addEventListener("input", () => {
    const { choice = "" } = choices[card.dataset.key] ?? {};
    const text = field(card).value;
    // Typing a valid label chooses it. A text that is not a valid label yet is kept, but not chosen.
    choices[card.dataset.key] = { choice: isLabel(text) ? "correct" : choice === "correct" ? "" : choice, text };
    const stored = save();
    show(card);
    count(stored);
  });
  card.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const inField = event.target === field(card);
    if (inField && event.key === "Escape") card.focus();
    else if (inField && event.key !== "Enter") return;
    else if (event.key in CHOICES) {
      if (choose(card, CHOICES[event.key])) {
        card.focus();
        if (CHOICES[event.key]) go(card, 1);
      } else field(card).focus();
    } else if (event.key === "e") field(card).select();
    else if (event.target !== card) return; // the arrows choose among the radio buttons
    else if (event.key === "ArrowDown") go(card, 1);
    else if (event.key === "ArrowUp") go(card, -1);
    else return;
    event.preventDefault();
  });
}

function table() {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const rows = CARDS.filter((card) => ["correct", "remove"].includes(card.dataset.choice)).map((card) => {
    const { choice, text } = choices[card.dataset.key];
    return `${card.dataset.key},${choice === "remove" ? "" : quoted(text)}`;
  });
  return `key,label\n${rows.join("\n")}\n`;
}

download.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

count(save());
if (CARDS.length) CARDS[0].focus();
