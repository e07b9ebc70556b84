// What runs on the audio thread: a recorder, and a player with a small jitter buffer.

const START = 0.12; // seconds that are gathered before the first sound
const REFILL = 0.25; // seconds that are gathered after the buffer ran dry
const TELL = 0.05; // seconds between two reports

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(Math.round(sampleRate / 50)); // what is gathered when it ends is lost
    this.n = 0;
  }

  process(inputs) {
    const input = inputs[0][0];
    if (!input) return true;
    for (const sample of input) {
      this.held[this.n++] = sample;
      if (this.n === this.held.length) {
        this.port.postMessage(this.held.slice());
        this.n = 0;
      }
    }
    return true;
  }
}

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.clear(0);
    this.port.onmessage = ({ data }) => {
      if (data.clear !== undefined) this.clear(data.clear);
      if (data.samples && data.take === this.take) {
        this.queue.push(data.samples);
        this.buffered += data.samples.length;
      }
      if (data.end && data.take === this.take) this.ending = true;
    };
  }

  clear(take) {
    this.take = take; // what is played: messages about an earlier one are ignored
    this.queue = [];
    this.at = 0;
    this.buffered = 0;
    this.played = 0;
    this.told = 0;
    this.dry = 0;
    this.playing = this.begun = this.ending = this.over = false;
  }

  process(_inputs, outputs) {
    const output = outputs[0][0];
    const needed = (this.begun ? REFILL : START) * sampleRate;
    if (!this.playing && this.buffered > 0 && (this.ending || this.buffered >= needed)) {
      this.playing = true;
      if (!this.begun) this.port.postMessage({ take: this.take, begun: true });
      this.begun = true;
    }
    for (let i = 0; this.playing && i < output.length; i++) {
      if (!this.queue.length) {
        this.playing = false;
        if (!this.ending) this.dry++;
        break;
      }
      output[i] = this.queue[0][this.at++];
      this.buffered--;
      this.played++;
      if (this.at === this.queue[0].length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    if (this.begun && this.played - this.told >= TELL * sampleRate) this.tell();
    if (this.ending && !this.over && !this.buffered) {
      this.over = true;
      this.tell();
    }
    return true;
  }

  tell() {
    this.told = this.played;
    this.port.postMessage({ take: this.take, played: this.played, dry: this.dry, over: this.over });
  }
}

registerProcessor("recorder", Recorder);
registerProcessor("player", Player);
