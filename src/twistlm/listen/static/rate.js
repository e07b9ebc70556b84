// The rater's page. It asks the server what comes next (state), shows that, and sends each answer as it is clicked.
// An answer is sent again until the server says that it is saved; the server keeps one answer a trial, so that is safe.
"use strict";

const told = JSON.parse(document.getElementById("told").textContent);
const ui = told.ui;
const stage = document.getElementById("stage");
const others = document.getElementById("others");
const status = document.getElementById("status");
const base = location.pathname;
let keys = () => {};
let cache = new Map(); // url -> promise of a blob url

const words = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? values[name] : all));
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function tell(text, warn = false) {
  status.textContent = text;
  status.classList.toggle("warn", warn);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function section(name) {
  const box = make("div", { class: "words" });
  box.append(document.getElementById("words-" + name).content.cloneNode(true));
  return box;
}

function show(...parts) {
  keys = () => {};
  stage.replaceChildren(...parts);
  window.scrollTo(0, 0);
  const first = stage.querySelector("[data-first]");
  if (first) first.focus({ preventScroll: true });
}

// Send until it arrives. Returns [status, body]; what the server refuses (4xx) is not sent again.
async function send(path, body) {
  for (let tries = 0; ; tries++) {
    try {
      const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
      const reply = await fetch(base + path, { cache: "no-store", ...options });
      if (reply.status < 500) return [reply.status, await reply.json()];
    } catch (error) {
      if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error;
    }
    tell(ui.not_saved, true);
    await wait(Math.min(8000, 500 * 2 ** tries));
  }
}

async function next() {
  const [, state] = await send("state");
  tell("");
  enter(state);
}

function enter(state) {
  others.hidden = state.stage !== "consent";
  const enters = { consent, hearing: check, headphones: check, rate };
  (enters[state.stage] || end)(state);
}

// The whole sound is fetched before any of it is played: how it arrives tells nothing, and nothing can stall.
function load(path) {
  if (!cache.has(path)) {
    const loading = (async () => {
      for (let tries = 0; ; tries++) {
        try {
          const reply = await fetch(base + path, { cache: "no-store" });
          if (reply.ok) return URL.createObjectURL(new Blob([await reply.arrayBuffer()], { type: "audio/wav" }));
          if (reply.status < 500) throw new RangeError(String(reply.status));
        } catch (error) {
          if (!(error instanceof TypeError)) throw error;
        }
        await wait(Math.min(8000, 500 * 2 ** tries));
      }
    })();
    loading.catch(() => cache.delete(path));
    cache.set(path, loading);
  }
  return cache.get(path);
}

async function forget() {
  const old = cache;
  cache = new Map();
  for (const loading of old.values()) loading.then((url) => URL.revokeObjectURL(url), () => {});
}

let sounding = null; // the player that plays now

// A button that plays one clip. onwhole is called each time it was heard to its end.
function player(path, name, { onwhole, first = false, group }) {
  const bar = make("i");
  const label = make("span", {}, ui.loading);
  const button = make("button", { class: "play", type: "button", disabled: true, "data-first": first },
    ...(name ? [make("strong", {}, name)] : []), label, bar);
  const audio = new Audio();
  const self = { button, whole: false, plays: 0, heard: 0, ready: false, playing: false };
  let at = 0;
  const follow = () => {
    if (!self.playing) return;
    const moved = audio.currentTime - at;
    if (moved > 0) self.heard += moved;
    at = audio.currentTime;
    bar.style.width = audio.duration ? `${(100 * at) / audio.duration}%` : "0";
  };
  const tick = () => {
    follow();
    if (self.playing) requestAnimationFrame(tick);
  };
  const stop = () => {
    follow();
    self.playing = false;
    if (sounding === self) sounding = null;
    bar.style.width = "0";
    label.textContent = self.plays ? ui.again : ui.play;
  };
  self.stop = () => { audio.pause(); stop(); };
  self.play = async () => {
    if (!self.ready || self.playing) return;
    if (sounding) sounding.stop();
    sounding = self;
    self.playing = true;
    audio.currentTime = 0;
    at = 0;
    label.textContent = ui.playing;
    try {
      await audio.play();
      tick();
    } catch (error) {
      stop();
      if (error.name !== "AbortError") tell(ui.trouble, true);
    }
  };
  audio.addEventListener("ended", () => {
    self.plays += 1;
    self.whole = true;
    stop();
    self.heard = Math.max(self.heard, self.plays * (audio.duration || 0)); // timers are coarse; the end was reached
    button.classList.add("whole");
    onwhole();
  });
  audio.addEventListener("error", () => { stop(); tell(ui.trouble, true); });
  audio.addEventListener("canplaythrough", () => {
    if (self.ready) return;
    self.ready = true;
    button.disabled = false;
    label.textContent = ui.play;
    if (first && document.activeElement === document.body) button.focus({ preventScroll: true });
  });
  load(path).then((url) => { audio.src = url; audio.load(); }, () => { location.reload(); });
  button.addEventListener("click", self.play);
  group.push(self);
  return self;
}

// One choice of several, as radio buttons for screen readers.
function choices(list, { label, css, onchoose }) {
  const buttons = list.map(([value, mark, text]) =>
    make("button", { type: "button", role: "radio", "aria-checked": "false", disabled: true, onclick: () => onchoose(value), "data-value": value },
      ...(mark === null ? [text] : [make("b", { "aria-hidden": text ? "true" : null }, mark), make("span", {}, text)])));
  const box = make("div", { class: css, role: "radiogroup", "aria-label": label }, ...buttons);
  return {
    box,
    enable: () => buttons.forEach((b) => { b.disabled = false; }),
    mark: (value) => buttons.forEach((b) => b.setAttribute("aria-checked", String(b.dataset.value === String(value)))),
  };
}

function progress(text, n, total) {
  const bar = make("i");
  bar.style.width = `${(100 * (n - 1)) / total}%`;
  return [make("p", { class: "count" }, words(text, { n, total })), make("div", { class: "bar", "aria-hidden": "true" }, bar)];
}

function consent() {
  const asked = {};
  const question = (name, text, options) => make("fieldset", {}, make("legend", {}, text),
    ...options.map(([value, label]) => make("label", {}, make("input", { type: "radio", name, value, onchange: () => { asked[name] = value; ready(); } }), label)));
  const agree = make("button", { class: "main", type: "button", disabled: true, onclick: () => give(true) }, ui.agree);
  const decline = make("button", { type: "button", onclick: () => give(false) }, ui.decline);
  const ready = () => { agree.disabled = !(asked.device && asked.hearing); };
  async function give(agrees) {
    agree.disabled = decline.disabled = true;
    const [, state] = await send("consent", { agrees, ...asked });
    tell("");
    enter(state);
  }
  show(section("consent"),
    question("device", ui.device, [["over", ui.device_over], ["in", ui.device_in], ["other", ui.device_other]]),
    question("hearing", ui.hearing, [["yes", ui.yes], ["no", ui.no]]),
    make("p", { class: "actions" }, agree, decline), make("p", { class: "hint" }, ui.bookmark));
}

function check(state) {
  forget();
  const group = [];
  const headphones = state.stage === "headphones";
  let given = "";
  const go = make("button", { class: "main", type: "button", disabled: true, onclick: () => give() }, ui.go_on);
  const ready = () => { go.disabled = !(group[0].whole && given.length === (headphones ? 1 : 3)); };
  const box = make("input", { type: "text", inputmode: "numeric", autocomplete: "off", maxlength: "3", "aria-label": ui.type_digits,
    oninput: (event) => { given = event.target.value.replace(/\D/g, ""); event.target.value = given; ready(); } });
  const which = choices([["1", "1", ""], ["2", "2", ""], ["3", "3", ""]], { label: ui.which_tone, css: "scale three",
    onchoose: (value) => { given = value; which.mark(value); ready(); } });
  const play = player(state.clip, "", { first: true, group, onwhole: () => { which.enable(); ready(); if (!headphones) box.focus(); } });
  async function give() {
    if (go.disabled) return;
    go.disabled = true;
    const [code, reply] = await send("check", { kind: state.stage, attempt: state.attempt, number: state.n - 1, answer: given });
    if (code !== 200) return next();
    tell("");
    if (reply.stage === state.stage && reply.attempt > state.attempt) tell(ui.retry, true);
    enter(reply);
  }
  show(...progress(ui.check_of, state.n, state.total), ...(state.n === 1 ? [section(state.stage)] : []),
    make("div", { class: "players" }, play.button), make("p", {}, headphones ? ui.which_tone : ui.type_digits),
    headphones ? which.box : box, make("p", { class: "actions" }, go));
  keys = (event) => {
    if (event.key === " " && !play.playing) { event.preventDefault(); play.play(); }
    else if (event.key === "Enter") { event.preventDefault(); give(); }
    else if (headphones && play.whole && ["1", "2", "3"].includes(event.key)) { given = event.key; which.mark(given); ready(); }
  };
}

let begun = null; // which part's words were read

function rate(state) {
  const part = state.practice ? "training" : "rating";
  if (state.n === 1 && begun !== part) {
    const go = make("button", { class: "main", type: "button", "data-first": true, onclick: () => { begun = part; rate(state); } }, ui.go_on);
    state.clips.forEach(load);
    show(...(state.practice || state.position === 0 ? [section("instructions")] : []), section(part),
      make("p", { class: "actions" }, go), make("p", { class: "hint" }, ui.bookmark));
    return;
  }
  const began = performance.now();
  const group = [];
  const two = told.design === "ab";
  let value = null, sent = null, saving = false, left = false;
  const go = make("button", { class: "main", type: "button", disabled: true, onclick: () => forward() }, ui.next);
  const heard = () => group.every((one) => one.whole);
  const onwhole = () => {
    if (heard()) { pick.enable(); if (value === null) tell(ui.choose); }
  };
  state.clips.forEach((path, i) => player(path, two ? [ui.first, ui.second][i] : "", { onwhole, first: i === 0, group }));
  const list = two
    ? told.answers.map((v) => [v, v === 0 ? "0" : String(v), [ui.neither, ui.first, ui.second][v]])
    : [...told.answers].reverse().map((v) => [v, String(v), told.labels[v - 1]]);
  const pick = choices(list, { label: told.ask, css: "scale", onchoose: choose });

  async function choose(chosen) {
    if (left || !heard()) return; // what is clicked after "next" is not meant for this one
    value = chosen;
    pick.mark(value);
    if (saving) return; // what is chosen meanwhile is sent when this has arrived
    saving = true;
    while (sent !== value) {
      go.disabled = true;
      const trying = value;
      tell(ui.saving);
      const total = (name) => group.reduce((sum, one) => sum + one[name], 0);
      const [code] = await send("answer", { position: state.position, value: trying, plays: total("plays"), heard: total("heard"), took: (performance.now() - began) / 1000 });
      if (code === 425 || code === 422) { tell(ui.too_fast, true); value = null; pick.mark(null); saving = false; return; }
      if (code !== 200) { await next(); return; } // answered elsewhere, in another window
      sent = trying;
    }
    saving = false;
    go.disabled = false;
    tell(ui.saved);
  }
  async function forward() {
    if (go.disabled) return;
    left = go.disabled = true;
    group.forEach((one) => one.stop());
    await next();
  }
  if (state.position > 0) for (const path of [...cache.keys()]) {
    if (!state.clips.includes(path) && !state.then.includes(path)) {
      cache.get(path).then((url) => URL.revokeObjectURL(url), () => {});
      cache.delete(path);
    }
  }
  show(...progress(state.practice ? ui.practice_of : ui.clip_of, state.n, state.total),
    make("div", { class: two ? "players two" : "players" }, ...group.map((one) => one.button)),
    make("h1", {}, told.ask), make("p", { class: "more" }, told.more), pick.box,
    make("p", { class: "actions" }, go),
    make("p", { class: "hint" }, (two ? ui.listen_both : ui.listen_first) + " ",
      make("span", { class: "keys" }, words(ui.keys, { answers: two ? told.answers.join(", ") : "1–5" }))));
  Promise.all(state.clips.map(load)).then(() => state.then.forEach(load), () => {});
  keys = (event) => {
    if (event.key === " ") {
      event.preventDefault();
      const on = group.find((one) => one.button === event.target);
      const due = on && !on.whole ? on : group.find((one) => !one.whole) || on || group[0];
      if (!group.some((one) => one.playing)) due.play();
    } else if (event.key === "Enter") { event.preventDefault(); forward(); }
    else if (/^[0-9]$/.test(event.key) && told.answers.includes(Number(event.key))) choose(Number(event.key));
  };
}

function end(state) {
  forget();
  const name = { done: "thanks", screened_out: "screened_out", declined: "declined", full: "full" }[state.stage];
  const leave = state.leave;
  const parts = [section(name)];
  if (leave.code) parts.push(make("p", { class: "code" }, words(ui.code, { code: leave.code })));
  if (leave.url) parts.push(make("p", { class: "actions" }, make("a", { class: "button main", href: leave.url, "data-first": true }, ui.finish)));
  if (leave.form) {
    const fields = Object.entries(leave.fields).map(([field, value]) => make("input", { type: "hidden", name: field, value }));
    parts.push(make("form", { method: "post", action: leave.form }, ...fields, make("p", { class: "actions" }, make("button", { class: "main", "data-first": true }, ui.finish))));
  }
  show(...parts);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const on = event.target;
  if (on.tagName === "INPUT" && on.type !== "radio" && event.key !== "Enter" && event.key !== " ") return;
  if (on.tagName === "INPUT" && on.type === "radio") return;
  const own = on.closest && on.closest("button, a");
  const press = event.key === "Enter" || event.key === " ";
  if (own && press && own.getAttribute("role") === "radio" && own.getAttribute("aria-checked") === "false") return; // chosen
  if (own && event.key === "Enter" && own.classList.contains("play") && !own.classList.contains("whole")) return; // it is pressed
  if (own && press && own.getAttribute("role") !== "radio" && !own.classList.contains("play")) return; // it is pressed
  keys(event);
});

next();
