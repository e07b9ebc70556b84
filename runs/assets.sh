#!/usr/bin/env bash
# Make everything that ships in assets/: the speech sample, mini-swuggy, the tokenizer and the vocoder. About three hours on two cores.
# Needs Debian packages (apt install flite espeak-ng festival festvox-kdlpc16k bible-kjv bible-kjv-text pocketsphinx-testdata
# asterisk-core-sounds-{en,es,fr,it,ru}-g722 npm) and the project's .venv (make .venv). Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
work=.assets-work
python=.venv/bin/python
tokenizer=mini-25hz-500

speak() { # speak PRODUCT FOLDER HOURS: nothing to do when the manifest, written last, is there
  [ -f "$2/manifest.jsonl" ] || $python assets/make/speech.py "$1" --out "$2" --hours "$3" --seed 0
}

speak corpus $work/tok 6
speak gold $work/gold 0.333
speak slt $work/slt 2
speak sample assets/speech 0.87
[ -f assets/mini-swuggy/pairs.jsonl ] || $python assets/make/swuggy.py --out assets/mini-swuggy --seed 0

[ -f assets/tokenizer/$tokenizer/spec.json ] || $python assets/make/tokenizer.py --speech $work/tok --gold $work/gold \
  --work $work/tokenizer --updates 2400 --batch 6 --seed 0 --out assets/tokenizer/$tokenizer

[ -f assets/vocoder/$tokenizer/unit_spec.json ] || $python assets/make/vocoder.py --pairs-manifest $work/slt \
  --tokenizer assets/tokenizer/$tokenizer --out assets/vocoder/$tokenizer
