// Shows one picture at a time, and sends every decision and every change of the text to the server. Text from the server is untrusted, so it
// is only ever set as textContent.

const SURE = 0.95; // confidences: shown as sure from here on,
const UNSURE = 0.7; // as unsure from here on, and as doubtful below
const POLL = 3000; // milliseconds between two requests for the state, which also tell the server that this window is open
const RETRY = 1000; // milliseconds until a request that got no answer is sent again
const SVG = "http://www.w3.org/2000/svg";

const element = (id) => document.getElementById(id);
const field = element("text");
const sleep = (time) => new Promise((done) => setTimeout(done, time));
let me = ""; // the name of this window
let current = null; // the picture that is shown
let past = []; // the keys of the pictures that this window has decided about, oldest first
let place = 0; // the position in `past` of the picture that is shown; past.length for a new picture
let busy = true; // a request or a picture is under way
let gone = false; // the server does not answer

async function send(path, content = {}) {
  for (;;) {
    let response;
    try {
      const body = JSON.stringify({ window: me, ...content });
      response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    } catch {
      gone = true;
      complain("The program does not answer. Start it again. Your text is kept here, and is sent as soon as the program answers.");
      await sleep(RETRY);
      continue;
    }
    if (gone) {
      gone = false;
      complain("");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw { status: response.status, message: answer.error || `The program answered with status ${response.status}.` };
    return answer;
  }
}

function complain(message) {
  element("trouble").textContent = message;
  element("trouble").hidden = !message;
  field.setAttribute("aria-invalid", Boolean(message) && !gone);
}

// Finds a name for this window. A reloaded window keeps its name. A duplicated window starts with the same storage, but gets a new name.
async function nameWindow() {
  const held = (name) => new Promise((done) => {
    navigator.locks.request(`window ${name}`, { ifAvailable: true }, (lock) => {
      done(lock !== null);
      return lock && new Promise(() => {}); // until the window is closed
    });
  });
  const stored = JSON.parse(sessionStorage.getItem("window") || "null");
  if (stored && (await held(stored.name))) {
    [me, past] = [stored.name, stored.past];
  } else {
    me = crypto.randomUUID();
    await held(me);
  }
  remember();
}

function remember() {
  sessionStorage.setItem("window", JSON.stringify({ name: me, past }));
}

// Sends one text at a time, so that texts arrive in order. While one is sent, only the newest text waits.
const drafts = { waiting: null, sending: null };
function sendDraft() {
  drafts.waiting = { key: current.key, text: field.value };
  drafts.sending ??= (async () => {
    while (drafts.waiting) {
      const draft = drafts.waiting;
      drafts.waiting = null;
      await send("draft", draft).catch((error) => complain(error.message));
    }
    drafts.sending = null;
  })();
}

async function decide(kind) {
  if (busy || !current) return;
  setBusy(true);
  try {
    await drafts.sending; // otherwise an older text could be stored after the decision
    await send("decide", { key: current.key, kind, text: field.value, seen: current.seen });
    announce(kind, field.value);
    if (place === past.length) past.push(current.key);
    place += 1;
    remember();
    await go();
  } catch (error) {
    if (error.status === 409) {
      await go();
      complain(error.message);
    } else {
      setBusy(false);
      complain(error.message);
    }
  }
}

async function back() {
  if (busy || place === 0) return;
  setBusy(true);
  place -= 1;
  await go();
}

// Shows the picture at `place`.
async function go() {
  setBusy(true);
  complain("");
  try {
    const answer = place < past.length ? await send("show", { key: past[place] }) : await send("next");
    show(answer.picture);
    showState(answer.state);
    await loaded();
  } catch (error) {
    if (error.status === 404 && place < past.length) { // the program was started again with another folder
      past.splice(place, 1);
      remember();
      return go();
    }
    complain(error.message);
  }
  setBusy(false);
  // A reading is selected, so that typing replaces it. After the person's own text, typing continues it.
  field.setSelectionRange(current && current.is_draft ? field.value.length : 0, field.value.length);
  return undefined;
}

function setBusy(now) {
  busy = now;
  field.readOnly = now;
  for (const name of ["accept", "skip", "unreadable"]) element(name).disabled = now;
  element("back").disabled = now || place === 0;
  if (!now && current) field.focus();
}

function show(picture) {
  current = picture;
  for (const name of ["shown", "form"]) element(name).hidden = !picture;
  element("done").hidden = Boolean(picture);
  if (!picture) return;
  element("picture").classList.add("loading");
  element("picture").src = `picture/${picture.key}`;
  element("file").textContent = picture.name;
  field.value = picture.text;
  showReading(picture);
}

function showReading({ reading, is_draft, decision }) {
  const line = element("reading");
  line.replaceChildren();
  if (decision) line.append(`Decided: ${{ label: "labelled", skip: "skipped", unreadable: "unreadable" }[decision]}. `);
  else if (is_draft) line.append("Your text, not accepted yet. ");
  if (!reading) {
    line.append("No model has read it yet.");
  } else if (!reading.text) {
    line.append("The model cannot read it.");
  } else {
    const sure = document.createElement("strong");
    sure.textContent = percent(reading.confidence);
    sure.className = reading.confidence >= SURE ? "sure" : reading.confidence >= UNSURE ? "unsure" : "doubtful";
    line.append(`The model reads ${reading.text}, `, sure, " confident.");
  }
}

// Waits until the picture is visible, so that nobody accepts a text for a picture that they have not seen.
async function loaded() {
  const image = element("picture");
  if (!current) return;
  try {
    await image.decode();
    image.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    image.classList.remove("loading");
  } catch {
    complain("The picture cannot be shown: its file is gone or has changed. Skip it.");
  }
}

function announce(kind, text) {
  element("status").textContent = kind === "label" ? `${text} accepted.` : kind === "skip" ? "Skipped." : "Unreadable.";
}

function showState(state) {
  document.title = `${state.name} – captcha-pipeline label`;
  element("name").textContent = state.name;
  element("folder").textContent = state.folder;
  const { labelled, skipped, unreadable, left } = state.counts;
  const counts = { labelled, skipped, unreadables: unreadable, left };
  for (const [name, count] of Object.entries(counts)) element(name).textContent = count.toLocaleString("en");
  element("bar").max = state.total;
  element("bar").value = state.total - left;
  showTraining(state);
  showAccuracy(state);
  const { corrections, broken } = state;
  element("corrections").hidden = !corrections;
  element("corrections").textContent =
    `${corrections} ${corrections === 1 ? "label was" : "labels were"} changed after being stored in a span. The program stores the corrections when it ends.`;
  element("broken").hidden = !broken;
  element("broken").querySelector("summary").textContent = `${broken} ${broken === 1 ? "file is not a usable picture" : "files are not usable pictures"}`;
  element("broken").querySelector("pre").textContent = state.broken_files;
}

function showTraining({ training, reading, problem }) {
  const line = element("training");
  const left = reading.total - reading.done;
  const rereading = left > 0 ? ` The newest model is reading the pictures: ${left.toLocaleString("en")} left.` : "";
  const log = training.state === "failed" ? ` Its output is in ${training.log}. You can go on labelling.` : "";
  line.className = training.state;
  line.textContent = `${training.words}${log}${rereading}${problem ? ` A model cannot be used: ${problem}` : ""}`;
  element("tail").hidden = !training.tail;
  element("tail").textContent = training.tail;
}

function showAccuracy({ points, since, goal, outlook, version }) {
  const last = points.at(-1);
  element("accuracy").textContent = last ? percent(last.value) : "Not known yet";
  element("interval").textContent = last
    ? `${percent(last.lower)} to ${percent(last.upper)}: ${last.right} of ${last.count} random pictures that were not used to train the model`
    : "One picture in five is random. The accuracy is measured on these as soon as there is a model.";
  element("outlook").textContent = outlook.replace(" %", "\u00a0%");
  element("model").textContent = version
    ? `Model ${version}. ${since ? `It read ${since.right} of ${since.count} random pictures right before a person labelled them (${percent(since.lower)} to ${percent(since.upper)}).` : ""}`
    : "";
  element("chart").toggleAttribute("hidden", !last);
  if (last) drawChart(points, goal);
}

// Draws the accuracy of each model, with its interval, by the number of labels at the start of its training.
function drawChart(points, goal) {
  const chart = element("chart");
  const { width, height } = chart.getBoundingClientRect();
  const [left, right, top, bottom] = [34, 12, 12, 24];
  const most = Math.max(1, ...points.map((point) => point.labels)) * 1.08;
  const x = (labels) => left + (labels / most) * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const parts = [];
  const add = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parts.push(node);
  };
  for (const share of [0, 0.5, 1]) {
    add("line", { class: "axis", x1: left, x2: width - right, y1: y(share), y2: y(share) });
    add("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`);
  }
  add("line", { class: "goal", x1: left, x2: width - right, y1: y(goal), y2: y(goal) });
  add("polyline", { class: "line", points: points.map((point) => `${x(point.labels)},${y(point.value)}`).join(" ") });
  points.forEach((point, i) => {
    add("line", { class: "interval", x1: x(point.labels), x2: x(point.labels), y1: y(point.lower), y2: y(point.upper) });
    add("circle", { cx: x(point.labels), cy: y(point.value), r: 3.5 });
    const isLast = i === points.length - 1;
    const isFar = x(points.at(-1).labels) - x(point.labels) > 40;
    const wasFar = i === 0 || x(point.labels) - x(points[i - 1].labels) > 28;
    if (isLast || (isFar && wasFar)) add("text", { x: x(point.labels), y: height - 6, "text-anchor": "middle" }, point.labels);
  });
  add("text", { x: left, y: height - 6, "text-anchor": "start" }, "labels");
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("aria-label", points.map((point) => `${point.labels} labels: ${percent(point.value)}`).join("; "));
  chart.replaceChildren(...parts);
}

// Returns a share as text, rounded down, so that only 1 is shown as 100 %.
function percent(share) {
  return `${(Math.floor(1000 * share) / 10).toFixed(1)}\u00a0%`;
}

async function poll() {
  for (;;) {
    await sleep(POLL);
    const state = await send("state", { key: current && current.key }).catch(() => null);
    if (state) showState(state);
    if (state && !current && !busy && state.counts.left + state.counts.skipped > 0) await go();
  }
}

const isKey = (event, letter) => event.key.toLowerCase() === letter || event.code === `Key${letter.toUpperCase()}`;
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  const alt = event.altKey && !event.ctrlKey && !event.metaKey && !event.getModifierState("AltGraph");
  const action = event.key === "Escape" || (alt && isKey(event, "s")) ? () => decide("skip")
    : alt && isKey(event, "u") ? () => decide("unreadable")
    : alt && isKey(event, "b") ? back
    : null;
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.repeat) event.preventDefault(); // a key that is held down accepts one picture only
});
field.addEventListener("input", () => {
  complain("");
  if (current) sendDraft();
});
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("label");
});
element("skip").onclick = () => decide("skip");
element("unreadable").onclick = () => decide("unreadable");
element("back").onclick = back;
addEventListener("pagehide", () => {
  const body = JSON.stringify({ window: me });
  fetch("leave", { method: "POST", keepalive: true, headers: { "Content-Type": "application/json" }, body }).catch(() => {});
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

await nameWindow();
place = past.length;
await go();
poll();
