// The page: one WebSocket, a prompt, and takes: continuations of it.
import { $, address, asked, copyLink, fromAddress, settings, showTemperature, toAddress } from "./settings.js";
import { Microphone, Player, fromBase64, toBase64, toPcm16 } from "./sound.js";
import { Take } from "./takes.js";

const token = takeToken();
let told = null; // what /v1/models says
let player = null;
let socket = null;
let prompt = null; // {samples, units, frames, unitSeconds, source, onServer}
let ordered = []; // takes that were asked for and have no response yet
const takes = new Map(); // response id -> take that is being made
const everyTake = [];
let microphone = null;
let opening = false; // the browser asks whether the microphone may be used
let retry = 0;

// ---- what is said to the user

function say(text) {
  $("notice").textContent = text;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// ---- the server

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("token");
}

async function start() {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch("/v1/models", { headers });
  if (answer.status === 401) {
    complain("This server asks for a token: open the address that twist serve printed, with its #token=….");
    return;
  }
  told = await answer.json();
  fill(settings.model, told.data.map((one) => one.id));
  fill(settings.voice, told.voices);
  fill($("example"), told.examples.map((one) => one.id));
  settings.seconds.max = told.limits.seconds;
  settings.seconds.value = Math.min(Number(settings.seconds.value), told.limits.seconds);
  $("both-label").hidden = told.data.length < 2;
  $("transcript-label").hidden = !told.transcript;
  fromAddress();
  showExample();
  player = new Player(told.sample_rate, progress);
  connect();
}

function fill(select, values) {
  select.replaceChildren(...values.map((value) => new Option(value, value)));
}

function connect() {
  const protocols = token ? ["realtime", `openai-insecure-api-key.${token}`] : ["realtime"];
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/realtime`, protocols);
  socket.onopen = () => {
    retry = 0;
    complain("");
    say("Ready.");
    enable();
  };
  socket.onmessage = ({ data }) => hear(JSON.parse(data));
  socket.onclose = () => {
    if (prompt) prompt.onServer = false;
    for (const take of [...takes.values(), ...ordered]) if (!take.done) take.finish("the connection was lost");
    ordered = [];
    takes.clear();
    if (microphone) stopRecording(false);
    enable();
    if (document.hidden) document.addEventListener("visibilitychange", () => !connected() && connect(), { once: true });
    else setTimeout(connect, Math.min(10000, 500 * 2 ** retry++));
    say("The connection was lost; trying again …");
  };
}

const connected = () => socket?.readyState === WebSocket.OPEN;

function send(type, fields = {}) {
  socket.send(JSON.stringify({ type, ...fields }));
}

/** Say how sound will come. Sound goes out at the voice's own rate; the server sends back what it heard. */
function setInput(format) {
  const output = { format: { type: "audio/pcm", rate: told.sample_rate } };
  send("session.update", { session: { audio: { input: { format }, output }, transcript: settings.transcript.checked, echo: true } });
  send("input_audio_buffer.clear");
}

function append(bytes) {
  for (let at = 0; at < bytes.length; at += 300000) {
    send("input_audio_buffer.append", { audio: toBase64(bytes.subarray(at, at + 300000)) });
  }
}

const handlers = {
  "twist.prompt": (event) => {
    const source = prompt?.source ?? { kind: "recording" };
    prompt = {
      samples: fromBase64(event.audio), units: event.units, frames: event.frames, unitSeconds: event.unit_seconds,
      source, onServer: true,
    };
    say(`Heard ${event.seconds.toFixed(1)} s, ${event.units.length} units.${event.note ? ` Of the file: ${event.note}.` : ""}`);
    for (const take of ordered) take.setPrompt(prompt);
    enable();
  },
  "response.created": (event) => {
    const take = ordered.shift();
    if (!take) return;
    take.id = event.response.id;
    takes.set(take.id, take);
    take.state("being made …");
    if (take.stopped) send("response.cancel", { response_id: take.id });
    enable();
  },
  "twist.queued": (event) => {
    takes.get(event.response_id)?.state(event.position ? `waiting: number ${event.position} in the queue` : "being made …");
  },
  "twist.units.delta": (event) => takes.get(event.response_id)?.addUnits(event.units, event.frames),
  "response.output_audio.delta": (event) => takes.get(event.response_id)?.addSound(fromBase64(event.delta)),
  "response.output_audio_transcript.done": (event) => takes.get(event.response_id)?.transcript(event.transcript),
  "response.done": (event) => {
    const take = takes.get(event.response.id);
    takes.delete(event.response.id);
    if (!take) return;
    const { status, status_details: why, twist } = event.response;
    take.numbers(twist);
    take.finish(status === "completed" ? "done" : why?.reason ?? status);
    say(status === "completed" ? "Done." : `It ended early: ${why?.reason ?? status}`);
    enable();
  },
  error: (event) => {
    const { code, message, event_id: of } = event.error;
    const take = ordered.find((one) => one.name === of);
    // A take that follows from a recording that was not heard says less than why that was.
    if (!take || $("problem").hidden) complain(code === "busy" ? `Busy: ${message}` : message);
    if (take) {
      ordered = ordered.filter((one) => one !== take);
      take.finish("not made");
    }
    enable();
  },
};

function hear(event) {
  handlers[event.type]?.(event);
}

// ---- prompts

async function record() {
  if (opening) return;
  opening = true;
  enable();
  try {
    await openMicrophone();
  } finally {
    opening = false;
    enable();
  }
}

async function openMicrophone() {
  complain("");
  await player.ready();
  const opened = new Microphone();
  let n = 0;
  try {
    await opened.open((samples) => {
      if (!connected()) return;
      append(toPcm16(samples));
      n += samples.length;
      level(samples);
      if (n / opened.rate >= told.limits.prompt_seconds - 0.2) stopRecording(true);
    });
  } catch (error) {
    opened.close();
    complain(
      error.name === "NotAllowedError"
        ? "The microphone was refused. Allow it for this page in your browser, or take a file or an example."
        : error.name === "NotFoundError"
          ? "There is no microphone. Take a file or an example."
          : `The microphone cannot be used: ${error.message}`,
    );
    return;
  }
  microphone = opened;
  stop();
  setInput({ type: "audio/pcm", rate: Math.round(opened.rate) });
  prompt = { source: { kind: "recording" }, onServer: false };
  $("record").setAttribute("aria-pressed", "true");
  $("record-text").textContent = "Stop, and go on";
  say("Recording. Press the button again to stop: it goes on at once.");
}

function stopRecording(goOn) {
  microphone?.close();
  microphone = null;
  $("record").setAttribute("aria-pressed", "false");
  $("record-text").textContent = "Record";
  level(null);
  if (goOn && connected()) {
    send("input_audio_buffer.commit");
    order({ promptFirst: false });
  }
  enable();
}

function level(samples) {
  let sum = 0;
  for (const sample of samples ?? []) sum += sample * sample;
  const decibels = samples ? 10 * Math.log10(sum / samples.length + 1e-9) : -60;
  const share = Math.max(0, Math.min(100, Math.round(((decibels + 60) / 60) * 100)));
  $("level").setAttribute("aria-valuenow", share);
  $("level").firstElementChild.style.width = `${share}%`;
}

async function useFile(bytes, source) {
  complain("");
  if (bytes.length > told.limits.bytes) {
    complain(`The file has ${(bytes.length / 1e6).toFixed(1)} MB; at most ${told.limits.bytes / 1e6} are read.`);
    return;
  }
  await player.ready();
  stop();
  setInput({ type: "audio/file" });
  prompt = { source, onServer: false };
  append(bytes);
  send("input_audio_buffer.commit");
  order({ promptFirst: settings.prompt_first.checked });
}

async function useExample() {
  const name = $("example").value;
  await player.ready();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`/v1/examples/${encodeURIComponent(name)}`, { headers });
  await useFile(new Uint8Array(await answer.arrayBuffer()), { kind: "example", name });
}

function showExample() {
  const found = told.examples.find((one) => one.id === $("example").value);
  $("example-text").textContent = found?.text ?? "";
}

// ---- takes

/** Ask for a continuation, or one of each model. */
function order({ promptFirst }) {
  const models = settings.both.checked ? told.data.map((one) => one.id) : [settings.model.value];
  const both = models.slice(0, 2).map((model) => makeTake(model, promptFirst));
  for (const take of both) take.node.classList.toggle("paired", both.length === 2);
  $("takes").prepend(...both.map((take) => take.node));
  $("empty").hidden = true;
  send("session.update", { session: { transcript: settings.transcript.checked } }); // the prompt may have been sent before
  for (const take of both) {
    ordered.push(take);
    if (prompt.samples) take.setPrompt(prompt);
    send("response.create", { event_id: take.name, response: { twist: take.asked } });
    player.play(take);
  }
  enable();
}

function makeTake(model, promptFirst) {
  const take = new Take(`take-${everyTake.length + 1}`, { ...asked(), model }, told.sample_rate, prompt.source, promptFirst);
  take.onGrown = () => player.grown();
  take.onPlay = async () => {
    await player.ready();
    player.stop();
    player.play({ pieces: [take.prompt, ...take.made], done: true, promptFirst: true, of: take });
    enable();
  };
  take.onLink = () => copyLink(address(take.asked, take.source), say);
  take.node.classList.toggle("second", model !== told.data[0].id);
  everyTake.push(take);
  return take;
}

function progress(played, data) {
  const take = played.of ?? played;
  if (data.begun) say(`Playing: ${take.asked.model}, seed ${take.asked.seed}.`);
  if (data.dry) take.part(".gaps").textContent = data.dry;
  if (data.played !== undefined) {
    take.played = data.played / told.sample_rate + (played.promptFirst ? 0 : take.prompt.length / told.sample_rate);
  }
  if (data.over) {
    take.played = -1;
    setTimeout(enable);
  }
  take.paint();
}

function stop() {
  for (const take of ordered) take.stopped = true; // they have no response yet that could be cancelled
  for (const take of takes.values()) if (!take.done) send("response.cancel", { response_id: take.id });
  player?.stop();
}

async function goOn(change) {
  complain("");
  await player.ready();
  if (change) settings.seed.value = (Number(settings.seed.value) || 0) + 1;
  toAddress(prompt.source);
  player.stop();
  if (!prompt.onServer) {
    setInput({ type: "audio/pcm", rate: told.sample_rate });
    append(toPcm16(prompt.samples));
    send("input_audio_buffer.commit");
  }
  order({ promptFirst: false });
}

// ---- what can be pressed now

function enable() {
  const busy = ordered.length > 0 || takes.size > 0 || opening;
  const open = connected();
  const heard = Boolean(prompt?.samples);
  const canRecord = window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
  $("record").disabled = !open || !canRecord || (busy && !microphone);
  if (!canRecord) $("record-note").textContent = "Browsers give the microphone to pages on https or localhost only: take a file or an example.";
  for (const id of ["file", "example", "use-example"]) $(id).disabled = !open || busy || Boolean(microphone);
  if (told && !told.examples.length) $("use-example").disabled = true;
  $("go").disabled = $("again").disabled = !open || !heard || busy || Boolean(microphone);
  $("stop").disabled = (!busy || opening) && !player?.take && !microphone;
}

$("record").onclick = () => (microphone ? stopRecording(true) : record());
$("file").onchange = async (event) => {
  const file = event.target.files[0];
  if (file) await useFile(new Uint8Array(await file.arrayBuffer()), { kind: "file" });
  event.target.value = "";
};
$("example").onchange = showExample;
$("use-example").onclick = useExample;
$("go").onclick = () => goOn(false);
$("again").onclick = () => goOn(true);
$("stop").onclick = () => {
  if (microphone) stopRecording(false);
  stop();
  say("Stopped.");
  enable();
};
settings.temperature.oninput = showTemperature;
$("settings").onchange = () => toAddress(prompt?.source);
$("settings").onsubmit = (event) => event.preventDefault();
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
};
document.ondragleave = () => document.body.classList.remove("dropping");
document.ondrop = async (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file && !$("file").disabled) await useFile(new Uint8Array(await file.arrayBuffer()), { kind: "file" });
};
window.onresize = () => everyTake.forEach((take) => take.paint());

start().catch((error) => complain(`The server does not answer: ${error.message}`));
