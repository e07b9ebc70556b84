#!/usr/bin/env bash
# Make what is missing of assets/: the speech sample, mini-swuggy, the tokenizer and the vocoder. Delete one to make it anew.
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

$python -c 'import pocketsphinx, wordfreq' 2>/dev/null || $python -m pip install -q pocketsphinx==5.0.4 wordfreq==3.1.1
speak corpus $work/tok 8
speak gold $work/gold 1
speak real $work/real 1
speak slt $work/slt 2
speak sample assets/speech 0.87
[ -f assets/mini-swuggy/pairs.jsonl ] || $python assets/make/swuggy.py --out assets/mini-swuggy --seed 0

[ -f assets/tokenizer/$tokenizer/spec.json ] || $python assets/make/tokenizer.py --speech $work/tok --gold $work/gold \
  --librivox $work/real --work $work/tokenizer --updates 4800 --batch 8 --seed 0 --out assets/tokenizer/$tokenizer


# at update 2,500 of a schedule of 4,591, so its learning rate never came down.)
if [ ! -f assets/vocoder/$tokenizer/unit_spec.json ]; then
  $python assets/make/vocoder.py --pairs-manifest $work/slt --updates 1000
  $python assets/make/vocoder.py --pairs-manifest $work/slt --updates 4591 \
    --tokenizer assets/tokenizer/$tokenizer --out assets/vocoder/$tokenizer
fi
