// A take: one continuation of a prompt, as it is made, drawn, played and saved.
import { draw } from "./drawing.js";
import { $ } from "./settings.js";
import { joined, toWav } from "./sound.js";

export class Take {
  /**
   * @param {string} name of its own on this page
   * @param {object} asked model, voice, seconds, temperature, top_k, seed
   * @param {number} rate Hz
   * @param {object} source where the prompt came from: {kind, name}
   * @param {boolean} promptFirst whether the prompt is played before what was made of it
   */
  constructor(name, asked, rate, source, promptFirst) {
    Object.assign(this, { name, asked, rate, source, promptFirst });
    this.node = $("take").content.cloneNode(true).firstElementChild;
    this.prompt = new Float32Array(0);
    this.made = []; // pieces of sound
    this.samples = 0; // in them
    this.pieces = []; // what is played: the prompt, where it is, and those
    this.units = []; // {id, seconds, made}: those whose length is known
    this.ids = []; // all that were made
    this.promptUnits = 0;
    this.played = -1; // seconds into the drawing; below 0: not playing
    this.length = 0; // seconds that the drawing leaves room for
    this.done = false;
    this.began = performance.now();
    const top = asked.top_k ? ` · top-k ${asked.top_k}` : "";
    this.part("h3").textContent = `${asked.model} · seed ${asked.seed} · temperature ${asked.temperature}${top}`;
    this.part("h3").id = name;
    // Who cannot see which take a button stands in is told.
    for (const button of this.node.querySelectorAll("button")) button.setAttribute("aria-describedby", name);
    this.part("canvas").ariaLabel = "Waveform, being made";
    this.part(".play").onclick = () => this.onPlay();
    this.part(".link").onclick = () => this.onLink();
    this.part(".save").onclick = () => this.save();
    this.state("asked for …");
  }

  part(name) {
    return this.node.querySelector(name);
  }

  state(text) {
    this.part(".state").textContent = text;
  }

  setPrompt(prompt) {
    this.prompt = prompt.samples;
    this.unitSeconds = prompt.unitSeconds;
    this.units = prompt.units.map((id, i) => ({ id, seconds: prompt.frames[i] * prompt.unitSeconds, made: false }));
    this.promptUnits = this.units.length;
    this.length = prompt.samples.length / this.rate + this.asked.seconds;
    if (this.promptFirst) this.pieces.unshift(prompt.samples);
    this.onGrown();
    this.paint();
  }

  /** Units that were made, and the frames of those whose length is known by now: of these or of earlier ones. */
  addUnits(ids, frames) {
    this.ids.push(...ids);
    for (const n of frames) this.addUnit(this.ids[this.units.length - this.promptUnits], n * this.unitSeconds);
    this.part(".count").textContent = this.ids.length;
    this.part(".ids").textContent = this.ids.join(" ");
    this.paint();
  }

  addUnit(id, seconds) {
    this.units.push({ id, seconds, made: true });
  }

  addSound(samples) {
    if (!this.samples) this.part(".first").textContent = `${Math.round(performance.now() - this.began)} ms`;
    this.made.push(samples);
    this.pieces.push(samples);
    this.samples += samples.length;
    this.part(".length").textContent = `${(this.samples / this.rate).toFixed(1)} s`;
    this.onGrown();
    this.paint();
  }

  numbers(twist) {
    for (const n of (twist.frames ?? []).slice(this.units.length - this.promptUnits)) {
      this.addUnit(this.ids[this.units.length - this.promptUnits], n * this.unitSeconds);
    }
    if (twist.real_time_factor) this.part(".factor").textContent = twist.real_time_factor.toFixed(2);
    if (twist.first_sound_seconds) {
      this.part(".first").textContent += ` (computing ${Math.round(1000 * twist.first_sound_seconds)} ms)`;
    }
  }

  transcript(text) {
    this.part(".transcript").textContent = text ? `“${text}”` : "No words were recognised.";
    this.part(".transcript").hidden = false;
  }

  finish(text) {
    this.done = true;
    this.length = 0;
    this.state(text);
    const seconds = (n) => (n / this.rate).toFixed(1);
    const made = `continuation ${seconds(this.samples)} s, ${this.ids.length} units`;
    this.part("canvas").ariaLabel = `Waveform: prompt ${seconds(this.prompt.length)} s, ${made}`;
    this.part(".save").disabled = !this.samples;
    this.onGrown();
    this.paint();
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => draw(this.part("canvas"), this, this.rate, this.played));
  }

  save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(toWav(joined([this.prompt, ...this.made]), this.rate));
    link.download = `${this.asked.model}-seed-${this.asked.seed}.wav`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}
