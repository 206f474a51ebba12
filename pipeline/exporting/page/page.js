"use strict";
// The page: takes pictures that are chosen, dropped or pasted, and shows what the model reads.

const MAX_FILE_BYTES = 64 * 2 ** 20; // a whole file is read before its header is checked
const MAX_SHOWN = 200; // readings; older ones are removed
const WARM_UP = 3; // readings of nothing, when the page opens
const UNSURE = 0.9; // a character with less confidence is marked
const DOUBTFUL = 0.5;

const MODEL = JSON.parse(document.getElementById("model").textContent);
const network = loadNetwork(MODEL);

async function loadNetwork({ program, weights }) {
  const packed = Uint8Array.from(atob(weights.data), (character) => character.charCodeAt(0));
  // All first bytes of the numbers, then all second ones, and so on: they pack better in this order.
  const planes = await inflate([packed], 4 * weights.count);
  const bytes = new Uint8Array(planes.length).map((_, i) => planes[(i % 4) * weights.count + (i >> 2)]);
  const run = prepare(program, new Float32Array(bytes.buffer));
  // A browser makes fast code of what it has run before.
  for (let i = 0; i < WARM_UP; i++) run(new Uint8Array(count(program.input.shape)));
  return run;
}

/** Reads an encoded picture, Uint8Array. Returns what `readingOf` returns, the probabilities, and the time in milliseconds. */
async function read(bytes) {
  const run = await network;
  const start = performance.now();
  const probabilities = run(await pixelsOf(bytes, MODEL.picture));
  const reading = readingOf(probabilities, MODEL.text);
  return { ...reading, probabilities, milliseconds: performance.now() - start };
}

async function readFile(file) {
  if (file.size > MAX_FILE_BYTES) throw new Refusal(`The file is larger than ${MAX_FILE_BYTES / 2 ** 20} MiB.`);
  return read(new Uint8Array(await file.arrayBuffer()));
}

const [list, summary, bar, input] = ["#readings", "#summary", ".bar", "#files"].map((selector) => document.querySelector(selector));
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
let queue = Promise.resolve();

/** Reads files one after the other, and shows each as soon as it is read, the newest first. */
function take(files) {
  for (const file of files) queue = queue.then(() => show(file));
}

async function show(file) {
  const card = copyOf("reading");
  const [text, characters, about] = [".text bdi", ".characters", ".about"].map((selector) => card.querySelector(selector));
  try {
    const { characters: found, confidence, milliseconds } = await readFile(file);
    const image = card.querySelector("img");
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    text.textContent = found.map((character) => character.text).join("");
    characters.append(...found.map(characterOf));
    about.textContent = `${percent(confidence)} for the whole text · ${milliseconds.toFixed(1)} ms · ${file.name}`;
  } catch (error) {
    if (!(error instanceof Refusal)) console.error(error);
    card.classList.add("refused");
    text.textContent = error instanceof Refusal ? error.message : `The picture cannot be read: ${error.message}`;
    characters.remove();
    card.querySelector(".picture").remove();
    about.textContent = file.name;
  }
  list.prepend(card);
  while (list.children.length > MAX_SHOWN) list.lastElementChild.remove();
  summarise();
}

function characterOf({ text, confidence }) {
  const item = copyOf("character");
  item.querySelector("bdi").textContent = text;
  item.querySelector(".share").textContent = percent(confidence);
  item.style.setProperty("--share", percent(confidence).replace(" ", ""));
  item.classList.toggle("unsure", confidence < UNSURE);
  item.classList.toggle("doubtful", confidence < DOUBTFUL);
  return item;
}

function summarise() {
  const [all, refused] = [list.children.length, list.querySelectorAll(".refused").length];
  bar.hidden = !all;
  summary.textContent = `${all - refused} read${refused ? `, ${refused} not read` : ""}`;
}

input.addEventListener("change", () => {
  take([...input.files]);
  input.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take([...event.dataTransfer.files]);
});
document.getElementById("clear").addEventListener("click", () => {
  list.replaceChildren();
  summarise();
  input.focus();
});
