#!/usr/bin/env bash
# The claim, tested: warm against cold over three sizes and three amounts of at least 20 hours of speech, with ablations.
# GRID=two-cores (shorter runs, for two CPU cores) or full (the default; one GPU). Stopped anywhere, it goes on where it
# was; tables and plots of what is finished: twist study report runs/study/two-cores, at any moment. Options go to plan and
# run: --set train.updates=60.
# Making the speech needs what runs/assets.sh names; SPEECH and GOLD may name folders that are there already.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
grid=${GRID:-full}
speech=${SPEECH:-.assets-work/tok}
gold=${GOLD:-.assets-work/gold}
# On CPUs one process a core: two threads that meet after every small product wait more than they work.
if [ "$grid" = two-cores ]; then export OMP_NUM_THREADS=1; workers=${WORKERS:-$(nproc)}; else workers=${WORKERS:-1}; fi

speak() { # speak PRODUCT FOLDER HOURS: nothing to do when the manifest, written last, is there
  [ -f "$2/manifest.jsonl" ] || "$bin/python" assets/make/speech.py "$1" --out "$2" --hours "$3" --seed 0
}
speak corpus "$speech" 22
speak gold "$gold" 1
for pair in "units $speech" "heldout $gold"; do
  env -u OMP_NUM_THREADS "$bin/twist" tokenize "${pair#* }" --out "runs/study/${pair%% *}" --tokenizer mini-25hz-100-fourth
done

"$bin/twist" study plan "$grid" "$@"
pids=()
for _ in $(seq "$workers"); do
  "$bin/twist" study run "$grid" "$@" &
  pids+=($!)
done
trap 'kill "${pids[@]}" 2>/dev/null' INT TERM
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
"$bin/twist" study report "runs/study/$grid"
exit $failed
