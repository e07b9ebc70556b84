#!/usr/bin/env bash
# Warm against cold over three seeds: `twist quickstart` with the default budget, then one table (for docs/results/quickstart.md).
# The seed moves the new weights, the order of the documents and the sampling. Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
for seed in ${SEEDS:-0 1 2}; do
  .venv/bin/twist quickstart --out "runs/seeds/$seed" \
    --set "seed=$seed" --set "warm.seed=$seed" --set "cold.seed=$seed" --set n_resynth=0
done
.venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

print("| seed | warm nll | cold nll | warm - cold, paired 95 % CI | updates to cold's loss | sWUGGY warm | sWUGGY cold |")
print("|---|---|---|---|---|---|---|")
for path in sorted(Path("runs/seeds").glob("*/results.json")):
    r = json.loads(path.read_text())
    gap, reached, pairs = r["val_nll_difference"], r["updates_to_cold_loss"], r["mini_swuggy"]
    low, high = gap["ci"]
    print(
        f"| {r['config']['seed']} | {r['warm']['val_nll']:.3f} | {r['cold']['val_nll']:.3f} "
        f"| {gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}] | {'never' if reached is None else f'{reached:.0%}'} "
        f"| {pairs['warm']['accuracy']:.1%} | {pairs['cold']['accuracy']:.1%} |"
    )
PYTHON
