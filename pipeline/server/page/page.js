// Sends pictures to POST read, a few at a time, and shows the readings. Text of the server and of files is only set as textContent.

const AT_ONCE = 4; // requests; the server joins pictures that arrive together
const SURE = 0.95;
const UNSURE = 0.7;
const VEIL = 0.88;

const element = (id) => document.getElementById(id);
const limits = { bytes: Infinity, version: null };
const waiting = [];
let running = 0;
let veils = 0;
let finished = []; // since all was quiet: what to announce

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { message: "The server does not answer.", again: true };
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const again = response.status === 408 || response.status === 429 || response.status >= 500;
    throw { message: answer.error || `The server answered with status ${response.status}.`, again };
  }
  return answer;
}

async function showModel() {
  const trouble = element("trouble");
  try {
    const about = await ask("about");
    limits.bytes = about.max_bytes;
    limits.version = about.version;
    document.title = `${about.name} – captcha-pipeline`;
    element("name").textContent = about.name;
    element("version").textContent = about.version;
    element("length").textContent = about.min_length === about.max_length ? about.max_length : `${about.min_length} to ${about.max_length}`;
    element("charset").textContent = about.charset;
    element("size").textContent = `${about.width} × ${about.height}`;
    element("formats").textContent = `PNG or JPEG, up to ${size(about.max_bytes)} each`;
    element("about").hidden = false;
    trouble.hidden = true;
  } catch (error) {
    element("name").textContent = "No model";
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
}

function add(files) {
  const cards = [...files].map((file) => newCard(file));
  if (!cards.length) return;
  element("list").prepend(...cards.map((card) => card.node));
  element("results").hidden = false;
  cards.forEach(start);
}

function newCard(file) {
  const node = element("card").content.cloneNode(true).firstElementChild;
  const card = { file, node, address: URL.createObjectURL(file), part: (selector) => node.querySelector(selector) };
  const image = card.part("img");
  image.alt = file.name;
  image.onload = () => node.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.onerror = () => card.part(".picture").classList.add("blank");
  image.src = card.address;
  card.part("figcaption").textContent = `${file.name} · ${size(file.size)}`;
  card.part(".again").onclick = () => {
    element("choose").focus();
    start(card);
  };
  node.addEventListener("removed", () => URL.revokeObjectURL(card.address));
  return card;
}

function start(card) {
  card.node.className = "card busy";
  card.part(".text").textContent = "Reading…";
  card.part(".again").hidden = true;
  waiting.push(card);
  next();
}

async function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  const card = waiting.shift();
  try {
    const reading = await read(card.file);
    if (reading.valid) showReading(card, reading);
    else showProblem(card, reading.problem, false);
    if (limits.version !== reading.version) showModel();
  } catch (error) {
    showProblem(card, error.message || "The page failed.", Boolean(error.again));
  }
  card.node.classList.remove("busy");
  running -= 1;
  announce(card);
  next();
}

async function read(file) {
  if (file.size > limits.bytes) throw { message: `The file has ${size(file.size)}. The server takes up to ${size(limits.bytes)}.` };
  const type = file.type.startsWith("image/") ? file.type : "image/*"; // the server says what is wrong with other files
  return ask("read", { method: "POST", body: file, headers: { "Content-Type": type } });
}

function showReading(card, reading) {
  card.node.classList.add("read");
  card.part(".text").textContent = reading.text;
  const sure = document.createElement("strong");
  sure.textContent = percent(reading.confidence);
  sure.className = level(reading.confidence);
  card.part(".facts").replaceChildren(sure, ` confident · ${reading.milliseconds} ms`);
  const buttons = reading.characters.map((character) => newCharacter(character.character, character.confidence));
  // The end is only worth a place if the model doubts it.
  if (reading.end !== null && reading.end < SURE) buttons.push(newCharacter("end", reading.end));
  const group = card.part(".characters");
  group.replaceChildren(...buttons);
  group.hidden = false;
  walkWithArrows(buttons);
  if (reading.edges.length) drawAttention(card, buttons, reading);
}

function newCharacter(glyph, confidence) {
  const button = element("character").content.cloneNode(true).firstElementChild;
  button.classList.add(level(confidence));
  button.querySelector(".glyph").textContent = glyph;
  button.querySelector(".number").textContent = percent(confidence);
  button.querySelector(".fill").style.width = `${100 * confidence}%`;
  return button;
}

// One stop of the Tab key for all characters of a reading.
function walkWithArrows(buttons) {
  buttons[0].tabIndex = 0;
  buttons.forEach((button, i) => {
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -i, End: buttons.length - 1 - i }[event.key];
      const target = step === undefined ? undefined : buttons[i + step];
      if (!target) return;
      event.preventDefault();
      button.tabIndex = -1;
      target.tabIndex = 0;
      target.focus();
    });
  });
}

// Under the picture, a curve for each character: where the model looked. While a character is pointed at or has the focus, a veil over the
// picture hides what the model did not look at.
function drawAttention(card, buttons, { edges, characters }) {
  const middles = edges.slice(1).map((edge, i) => (edge + edges[i]) / 2);
  const [veil, curves] = [card.part(".veil"), card.part(".curves")];
  const paths = characters.map(({ attention }, i) => {
    const densities = attention.map((weight, j) => weight / (edges[j + 1] - edges[j])); // columns at the sides may be narrower
    const highest = Math.max(...densities, 1e-9);
    const points = middles.map((x, j) => [x, densities[j] / highest]);
    const path = svg("path", { d: smooth([[0, points[0][1]], ...points, [1, points.at(-1)[1]]]), class: i % 2 ? "odd" : "even" });
    const show = () => {
      veil.replaceChildren(...newVeil(points));
      curves.classList.add("one");
      path.classList.add("chosen");
    };
    const hide = () => {
      veil.replaceChildren();
      curves.classList.remove("one");
      path.classList.remove("chosen");
    };
    for (const event of ["pointerenter", "focus"]) buttons[i].addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) buttons[i].addEventListener(event, hide);
    return path;
  });
  curves.replaceChildren(...paths);
  curves.classList.add("drawn");
}

function newVeil(points) {
  veils += 1;
  const gradient = svg("linearGradient", { id: `veil-${veils}` });
  gradient.append(...points.map(([x, share]) => svg("stop", { offset: x, "stop-opacity": VEIL * (1 - share) })));
  return [gradient, svg("rect", { width: "100%", height: "100%", fill: `url(#veil-${veils})` })];
}

function svg(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// A path through the middles between the points [x, height], which bends towards the points, and down to the lower side.
function smooth(points) {
  const [first, ...rest] = points.map(([x, height]) => [x, 1 - height]);
  const bends = rest.map(([x, y], i) => {
    const [nextX, nextY] = rest[i + 1] || [x, y];
    return `Q${x},${y} ${(x + nextX) / 2},${(y + nextY) / 2}`;
  });
  return `M0,1 L${first} ${bends.join(" ")} L1,1 Z`;
}

function showProblem(card, message, again) {
  card.node.classList.add("failed");
  card.part(".text").textContent = "Not read";
  card.part(".facts").textContent = message;
  card.part(".again").hidden = !again;
}

function announce(card) {
  finished.push(card);
  if (running || waiting.length) return;
  const failed = finished.filter(({ node }) => node.classList.contains("failed"));
  const say = ({ file, part }) => `${file.name}: ${part(".text").textContent}. ${part(".facts").textContent}`;
  const count = `${finished.length} pictures, ${finished.length - failed.length} read, ${failed.length} not read.`;
  element("status").textContent = finished.length === 1 ? say(card) : count;
  finished = [];
}

// Rounded down, so that only certainty is 100 %.
function percent(share) {
  return `${(Math.floor(1000 * share) / 10).toFixed(1)} %`;
}

function level(share) {
  if (share >= SURE) return "sure";
  return share >= UNSURE ? "unsure" : "doubtful";
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 2 ** 20 ? `${Math.round(bytes / 1024)} KiB` : `${+(bytes / 2 ** 20).toFixed(1)} MiB`;
}

element("choose").onclick = () => element("files").click();
element("files").onchange = ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
};
element("clear").onclick = () => {
  waiting.length = 0;
  for (const node of element("list").children) node.dispatchEvent(new Event("removed"));
  element("list").replaceChildren();
  element("results").hidden = true;
  element("status").textContent = "Readings removed.";
  element("choose").focus();
};
document.addEventListener("paste", (event) => add(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
showModel();
