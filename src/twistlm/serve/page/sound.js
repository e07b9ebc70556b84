// Microphone, player, and samples as bytes.

/** Records the microphone: gives pieces of samples at `rate` Hz and their level. */
export class Microphone {
  async open(onSamples) {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
    });
    this.context = new AudioContext(); // at the device's own rate: Firefox joins no others
    await this.context.resume();
    this.rate = this.context.sampleRate;
    await this.context.audioWorklet.addModule("/page/worklets.js");
    const source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0, channelCount: 1 });
    this.node.port.onmessage = ({ data }) => onSamples(data);
    source.connect(this.node);
  }

  close() {
    if (this.node) this.node.port.onmessage = null;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
  }
}

/** Plays takes, one after the other; a take may still grow while it is played. */
export class Player {
  constructor(rate, onProgress) {
    this.rate = rate;
    this.onProgress = onProgress; // (take, {begun, played, dry, over})
    this.number = 0;
    this.waiting = [];
    this.take = null;
  }

  /** Must be called from a click: browsers let no sound out before one. */
  async ready() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: this.rate, latencyHint: "interactive" });
      await this.context.audioWorklet.addModule("/page/worklets.js");
      this.node = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
      this.node.port.onmessage = ({ data }) => this.told(data);
      this.node.connect(this.context.destination);
    }
    await this.context.resume();
  }

  /** Play a take: {pieces: [Float32Array…], done}; call `grown` when it has changed. */
  play(take) {
    this.waiting.push(take);
    if (!this.take) this.next();
  }

  next() {
    this.take = this.waiting.shift() ?? null;
    this.sent = 0;
    this.ended = false;
    this.node.port.postMessage({ clear: ++this.number });
    this.grown();
  }

  grown() {
    const take = this.take;
    if (!take || this.ended) return;
    for (; this.sent < take.pieces.length; this.sent++) {
      this.node.port.postMessage({ take: this.number, samples: take.pieces[this.sent] });
    }
    if (take.done) {
      this.ended = true;
      this.node.port.postMessage({ take: this.number, end: true });
    }
  }

  told(data) {
    if (data.take !== this.number || !this.take) return;
    this.onProgress(this.take, data);
    if (data.over) this.next();
  }

  stop() {
    const stopped = this.take;
    this.waiting = [];
    this.take = null;
    this.node?.port.postMessage({ clear: ++this.number });
    if (stopped) this.onProgress(stopped, { over: true });
  }
}

export function toPcm16(samples) {
  const out = new Int16Array(samples.length);
  samples.forEach((sample, i) => (out[i] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767)));
  return new Uint8Array(out.buffer);
}

export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

export function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return Float32Array.from(new Int16Array(bytes.buffer), (value) => value / 32768);
}

export function joined(pieces) {
  const out = new Float32Array(pieces.reduce((n, piece) => n + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** A wav file of mono 16-bit samples. */
export function toWav(samples, rate) {
  const data = toPcm16(samples);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + data.length, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, data.length, true);
  return new Blob([head.buffer, data], { type: "audio/wav" });
}
