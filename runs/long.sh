#!/usr/bin/env bash
# Does the lead last? Warm and cold trained on and on, on varied speech that this script makes: texts written by people, each
# read by two of some hundred voices. Several calls at once share the work, a side and seed each; stopped, it goes on where it was.
# HOURS=100 BUDGETS=40,128,256,512,1024,2048 SEEDS=0,1,2 SIDES=warm,cold bash runs/long.sh; RECIPE and OUT for another recipe: what
# docs/warm_vs_cold/long_covariance holds, and mini-lm, were made with RECIPE=recipes/covariance.toml HOURS=16
# OUT=docs/warm_vs_cold/long_covariance and a WORK of its own. Another recipe or other speech wants another OUT: its lines would not be of the table there.
# LAYERS=4 keeps the first 4 of the text LM's layers, on both sides. SUITES names what every model is judged on (all four cost as much as 240 updates). An update
# is 512 tokens; a million tokens are 14 hours of speech. Needs the Debian packages of runs/assets.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
twist=${TWIST:-.venv/bin/twist}
work=${WORK:-.assets-work}/long
out=${OUT:-docs/warm_vs_cold/long}
if [ -n "${HOURS:-}" ] && [ -f "$work/speech/manifest.jsonl" ]; then
  "${PYTHON:-.venv/bin/python}" - "$work/speech/manifest.jsonl" "$HOURS" <<'EOF'
import json, sys
path, asked = sys.argv[1], float(sys.argv[2])
with open(path) as lines:
    hours = sum(row["seconds"] for row in map(json.loads, lines) if row["split"] == "train") / 3600
if abs(hours - asked) > 0.05 * asked:
    sys.exit(f"{path} has {hours:.1f} hours to train on, and HOURS={asked:g} was asked for: give another WORK, or the HOURS that are there.")
EOF
fi
if [ ! -d "$work/units" ]; then
  [ -f "$work/speech/manifest.jsonl" ] ||
    "${PYTHON:-.venv/bin/python}" assets/make/speech.py long --cache "$work/npm" --out "$work/speech" --hours "${HOURS:-100}" --seed 0
  "$twist" tokenize "$work/speech/manifest.jsonl" --tokenizer mini-25hz-500 --out "$work/units"
fi
"$twist" study long "$work/units" --out "$out" --recipe "${RECIPE:-quickstart}" --set precision="${PRECISION:-bf16}" --set eval_every=32 \
    --suites "${SUITES-mini-swuggy}" --budgets "${BUDGETS:-40,128,256,512,1024,2048}" --seeds "${SEEDS:-0,1,2}" --sides "${SIDES:-warm,cold}" ${LAYERS:+--layers "$LAYERS"}
