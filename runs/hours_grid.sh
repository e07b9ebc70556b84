#!/usr/bin/env bash
# Does warm lead with every amount of speech, hours of it? The quickstart's recipe and budget on 24 hours of varied speech that this
# script makes, a tenth and a hundredth of them (14 minutes, seen about once): quickstart_grid.toml (30 layers) and then
# quickstart_grid_small.toml (12 and 4, tuned; LAYERS='[4]' for one of them). Several calls at once share the work; stopped, it
# goes on where it was. Needs the Debian packages of runs/assets.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
twist=${TWIST:-.venv/bin/twist}
work=${WORK:-.assets-work}/hours
if [ ! -d "$work/units" ]; then
  [ -f "$work/speech/manifest.jsonl" ] ||
    "${PYTHON:-.venv/bin/python}" assets/make/speech.py long --cache "${WORK:-.assets-work}/npm" --out "$work/speech" --hours 24 --seed 0
  "$twist" tokenize "$work/speech/manifest.jsonl" --tokenizer mini-25hz-500 --out "$work/units"
fi
export OMP_NUM_THREADS=1
grid() { # grid RECIPE OUT OPTION…
  "$twist" study run "runs/$1" --set units="$work/units" --set heldout="$work/units" --set out="runs/study/$2" "${@:3}"
}
# Warm and cold alone: the small grid leaves every ablation out by itself.
grid quickstart_grid.toml hours-grid \
  --set 'cut=["shuffled","frozen_body","random_rows","covariance_rows","mean_rows","first_rows","tied_warm","tied_cold"]'
grid quickstart_grid_small.toml hours-grid-small --set "layers=${LAYERS:-[12,4]}"
