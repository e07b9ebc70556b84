// A waveform with its units below; the prompt and what was made of it are of different colours.

const WAVE = 84; // CSS pixels
const STRIP = 24;
const GAP = 6;

/**
 * Draw into a canvas.
 * @param {object} take prompt and pieces (Float32Array), units: [{id, seconds, made}], length: seconds to leave room for
 * @param {number} rate Hz
 * @param {number} played seconds; below 0: not played
 */
export function draw(canvas, take, rate, played) {
  const style = getComputedStyle(canvas);
  const width = canvas.clientWidth;
  const height = WAVE + GAP + STRIP;
  const scale = window.devicePixelRatio || 1;
  if (!width) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const paper = canvas.getContext("2d");
  paper.scale(scale, scale);
  const prompt = take.prompt.length / rate;
  const made = take.samples / rate;
  const total = Math.max(take.length, prompt + made, 0.1);
  const x = (seconds) => (seconds / total) * width;

  paper.fillStyle = style.getPropertyValue("--shade");
  paper.fillRect(x(prompt), 0, width - x(prompt), WAVE);
  paper.fillStyle = style.getPropertyValue("--line");
  paper.fillRect(0, WAVE / 2 - 0.5, width, 1);
  wave(paper, [take.prompt], 0, x, rate, style.getPropertyValue("--soft"));
  wave(paper, take.made, prompt, x, rate, style.getPropertyValue("--made"));
  paper.fillStyle = style.getPropertyValue("--ink");
  paper.fillRect(Math.round(x(prompt)) - 1, 0, 2, height);
  units(paper, take.units, x, style);
  if (played >= 0) {
    paper.fillStyle = style.getPropertyValue("--cursor");
    paper.fillRect(Math.min(width - 2, x(played)), 0, 2, height);
  }
}

function wave(paper, pieces, from, x, rate, colour) {
  paper.fillStyle = colour;
  let column = -1;
  let low = 0;
  let high = 0;
  let at = 0;
  const flush = () => {
    if (column < 0) return;
    const top = (WAVE / 2) * (1 - Math.min(1, high * 1.6));
    const bottom = (WAVE / 2) * (1 - Math.max(-1, low * 1.6));
    paper.fillRect(column, top, 1, Math.max(1, bottom - top));
  };
  for (const piece of pieces) {
    for (const sample of piece) {
      const here = Math.floor(x(from + at++ / rate));
      if (here !== column) {
        flush();
        column = here;
        low = high = sample;
      } else if (sample < low) low = sample;
      else if (sample > high) high = sample;
    }
  }
  flush();
}

function units(paper, list, x, style) {
  const lightness = style.getPropertyValue("--unit-l").trim() || "83%";
  paper.font = "10px ui-monospace, monospace";
  paper.textAlign = "center";
  paper.textBaseline = "middle";
  let at = 0;
  for (const unit of list) {
    const left = x(at);
    const width = x(at + unit.seconds) - left;
    at += unit.seconds;
    paper.fillStyle = `hsl(${(unit.id * 137.508) % 360} ${unit.made ? 55 : 18}% ${lightness})`;
    paper.fillRect(left, WAVE + GAP, Math.max(0.5, width - 0.6), STRIP);
    if (width > 21) {
      paper.fillStyle = style.getPropertyValue("--unit-ink");
      paper.fillText(unit.id, left + width / 2, WAVE + GAP + STRIP / 2 + 1);
    }
  }
}
