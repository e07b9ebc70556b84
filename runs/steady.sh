#!/usr/bin/env bash
# Does the quickstart's claim hold over seeds and over numerics? Ten seeds in three ways of rounding, warm, and cold with
# the same freedoms. ARMS=warm,cold,tied_cold adds cold as the text model has its head. Several calls at once share the
# work; stopped, it goes on.
# SEEDS=10 NUMERICS=bf16,float32,avx2 bash runs/steady.sh; RECIPE and OUT for another recipe than the quickstart
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
twist=${TWIST:-.venv/bin/twist}
units=runs/quickstart-units
[ -e "$units" ] || "$twist" tokenize assets/speech --tokenizer mini-25hz-500 --out "$units"
"$twist" study steady "$units" --out "${OUT:-docs/warm_vs_cold/steady}" --recipe "${RECIPE:-quickstart}" --seeds "${SEEDS:-10}" \
    --numerics "${NUMERICS:-bf16,float32,avx2}" --arms "${ARMS:-warm,cold}"
