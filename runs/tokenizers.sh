#!/usr/bin/env bash
# Does warm lead with every bundled tokenizer? The quickstart's recipe on units of each of six, at the rates that were tuned
# for mini-25hz-500. Several calls at once share the work; stopped, it goes on where it was. A line of the table for each that has both sides.
# SEEDS=3 NUMERICS=bf16 bash runs/tokenizers.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
twist=${TWIST:-.venv/bin/twist}
out=${OUT:-docs/warm_vs_cold/tokenizers} # another for units that were cut on another machine: some frames differ
names=${NAMES:-"mini-25hz-100-fourth mini-25hz-200 mini-25hz-500 mini-50hz-100 mini-50hz-200 mini-50hz-500"}
for name in $names; do
  units=runs/units-of/$name
  mkdir -p "$units"
  flock "$units" "$twist" tokenize assets/speech --tokenizer "$name" --out "$units/units"
done
for seeds in $(seq "${SEEDS:-3}"); do # a seed of each first
  for name in $names; do
    "$twist" study steady "runs/units-of/$name/units" --out "$out/$name" --recipe quickstart --seeds "$seeds" --numerics "${NUMERICS:-bf16}"
  done
done
"${PYTHON:-.venv/bin/python}" - "$out" $names <<'PY'
import math, statistics, sys
from twistlm.corpus.opened import open_corpus
from twistlm.study import steady_table

print("| tokenizer | units a second | warm, nats a unit | cold | lead, by seed | warm, bits a second | cold |\n|---|---|---|---|---|---|---|")
for name in sys.argv[2:]:
    held = open_corpus(f"runs/units-of/{name}/units", split="heldout")
    rate = float(held.lengths.sum()) / sum(held.seconds)
    found = steady_table.report(f"{sys.argv[1]}/{name}")
    if found is None:
        continue
    losses = [statistics.fmean(pair[side] for pair in found["pairs"]) for side in ("nll", "against_nll")]
    leads = ", ".join(f"{pair['lead']:+.2f}" for pair in found["pairs"])
    bits = [f"{loss * rate / math.log(2):.1f}" for loss in losses]
    print(f"| {name} | {rate:.1f} | {losses[0]:.3f} | {losses[1]:.3f} | {leads} | {bits[0]} | {bits[1]} |")
PY
