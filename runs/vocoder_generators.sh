#!/usr/bin/env bash
# Train both generators for as many minutes on the same speech, then compare them and the bundled one on held-out clips.
# Needs what assets/make/speech.py names. Stopped, it goes on where it was. On a quiet machine: minutes are of the clock.
#   runs/vocoder_generators.sh [MINUTES]
set -euo pipefail
cd "$(dirname "$0")/.."
work=.assets-work minutes=${1:-60}
python=.venv/bin/python
out=$work/generators-$minutes
[ -f $work/twins/manifest.jsonl ] || $python assets/make/speech.py twins --out $work/twins --hours 4 --seed 0
for generator in hifigan istft; do
  [ -f $out/$generator/CARD.md ] || $python assets/make/vocoder.py --pairs-manifest $work/twins --twins slt \
    --generator $generator --minutes $minutes --threads 1 --adversarial-share 0.3 --tokenizer mini-25hz-500 \
    --work $out/work --out $out/$generator
done
$python benchmarks/vocoder_generators.py
for split in heldout_voice heldout_text; do
  $python runs/vocoder_generators.py mini-25hz-500 $out/hifigan $out/istft --tokenizer mini-25hz-500 --split $split \
    --out $out/heard-$split.jsonl
done
