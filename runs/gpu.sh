#!/bin/sh
# All that is wanted of a GPU, in at most nine minutes: the tests that need one, then the benchmarks until time is over.
# Lines of JSON go to runs/gpu/bench.jsonl, what the tests said to runs/gpu/tests.txt. --small rehearses on the CPU.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
begun=$(date +%s)
timeout 200 "$python" -m pytest -q -m gpu tests/test_gpu.py > "$out/tests.txt" 2>&1
tests=$?
tail -3 "$out/tests.txt"
left=$((530 - ($(date +%s) - begun)))
# The last part that begins needs room to end.
timeout "$left" "$python" benchmarks/gpu.py --out "$out/bench.jsonl" --minutes $(((left - 75) / 60)) "$@"
bench=$?
echo "tests $tests, benchmarks $bench, $(($(date +%s) - begun)) s; see $out"
[ "$tests" -eq 0 ] && [ "$bench" -eq 0 ]
