#!/usr/bin/env bash
# Make what is missing of assets/: the speech sample, the tokenizers, the vocoders and the suites (assets/lm/mini-lm: assets/make/mini_lm.py). Delete one to make it anew.
# Needs Debian packages (apt install flite espeak-ng festival festvox-kdlpc16k bible-kjv bible-kjv-text pocketsphinx-testdata
# asterisk-core-sounds-{en,es,fr,it,ru}-g722 npm) and the project's .venv (make setup). Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
work=.assets-work
python=.venv/bin/python

speak() { # speak PRODUCT FOLDER HOURS: nothing to do when the manifest, written last, is there
  [ -f "$2/manifest.jsonl" ] || $python assets/make/speech.py "$1" --out "$2" --hours "$3" --seed 0
}

$python -c 'import pocketsphinx, wordfreq' 2>/dev/null || $python -m pip install -q pocketsphinx==5.0.4 wordfreq==3.1.1
speak corpus $work/tok 22
speak gold $work/gold 1
speak real $work/real 1
speak slt $work/slt 3
speak sample assets/speech 0.87

# The tokenizers' encoder in three trainings: from random weights with a teacher, then twice on from there, on phones alone.
# What ships began with 12,000 updates on the first 18 of these 24 hours (this script at 89c5651), and its vocoder with that
# encoder's vocoder (5,000 updates by --start-from, --start-tokenizer, --lr 7e-4) instead of random weights.
# mini-25hz-100 (tokenizer and vocoder), which the first grid was made with, was of an older encoder: its recipe is this script at ed91891.
# In the quickstart's short training a warm start is no better than a cold one on 100 units of a newer encoder, see docs/results/quickstart.md.
encoder() { # encoder FOLDER SEED UPDATES RATE OPTION…
  [ -f $1/encoder.safetensors ] || $python assets/make/encoder.py --speech $work/tok --work $work/tokenizer --bf16 --out $1 \
    --seed $2 --updates $3 --lr $4 "${@:5}"
}
if [ ! -f assets/encoder/mini-25hz/encoder.safetensors ]; then
  encoder $work/encoder-1 0 12000 1.5e-3
  encoder $work/encoder-2 1 1800 6e-4 --initial $work/encoder-1
  encoder assets/encoder/mini-25hz 2 1600 4e-4 --initial $work/encoder-2
fi
tokenizers() { # tokenizers NAME…: those that are missing, all of one frame rate; 50 Hz is the 25 Hz encoder in two phases
  local missing=()
  for name in "$@"; do [ -f assets/tokenizer/$name/quality.json ] || missing+=($name); done
  [ ${#missing[@]} = 0 ] || $python assets/make/tokenizer.py "${missing[@]}" --speech $work/tok --gold $work/gold \
    --librivox $work/real --work $work/tokenizer --encoder assets/encoder/mini-25hz --seed 2 --out assets/tokenizer
}
tokenizers mini-25hz-100-fourth mini-25hz-200 mini-25hz-500
tokenizers mini-50hz-100 mini-50hz-200 mini-50hz-500
# Its vocoder: one voice from random weights, then from there two, each from its own units and from those that another voice gives
# for the same texts. What ships began with the one of one voice that was bundled up to aeb5272.
if [ ! -f assets/vocoder/mini-25hz-500/unit_spec.json ]; then
  [ -f $work/one-voice/CARD.md ] || $python assets/make/vocoder.py --pairs-manifest $work/slt --updates 12000 \
    --tokenizer assets/tokenizer/mini-25hz-500 --out $work/one-voice
  speak twins $work/twins 4
  $python assets/make/vocoder.py --pairs-manifest $work/twins --twins slt awb --tokenizer assets/tokenizer/mini-25hz-500 \
    --start-from $work/one-voice --frames 32 --updates 8000 --lr 7e-4 --threads 1 --out assets/vocoder/mini-25hz-500
fi

# The suites: four voices in turn, of which flite:rms is in nothing that anything was trained on. What bench check finds goes
# into the cards; a shortcut stops the script.
suite() { # suite FOLDER LICENCE ABOUT VERB ARGUMENT…
  [ -f assets/$1/SHA256SUMS ] || .venv/bin/twist bench "${@:4}" --out assets/$1 --voice flite:slt --voice flite:awb \
    --voice flite:kal16 --voice flite:rms --rotate --format ogg --kbps 14 --licence "$2" --about "$3"
  grep -q '^## Checked' assets/$1/CARD.md || .venv/bin/twist bench check assets/$1 --tokenizer mini-25hz-500 \
    --training assets/speech --topline smollm2-135m --card
}
mkdir -p $work/texts
$python assets/make/words.py --words 600 --out $work/texts/words.txt
$python assets/make/blimp.py --seed 0 --out $work/texts/blimp.jsonl
voices="The voice \`flite-rms\` is in nothing that anything bundled was trained on; the others are in the speech of the tokenizers
and of the sample (facet \`heard\`). flite and its voices: permissive licence of Carnegie Mellon University. Made by \`runs/assets.sh\`."
suite mini-swuggy "MIT; pronunciations: CMUdict, BSD-2-Clause" "Bundled as \`mini-swuggy\`: \`twist eval RUN mini-swuggy\`. For small models in training, not for comparison with
published numbers. Words have 2 to 4 syllables and a Zipf frequency of 3.5 to 6; those of the bundled speech sample come first
(\`assets/make/words.py\`). $voices" wuggy $work/texts/words.txt --limit 560
suite mini-sblimp "CC0 1.0" "Bundled as \`mini-sblimp\`: \`twist eval RUN mini-sblimp\`. For small models in training, not for comparison with
published numbers. What the sentences are, and their weaknesses: \`assets/make/TEXTS.md\`. $voices" \
  blimp $work/texts/blimp.jsonl
suite mini-storycloze "CC0 1.0" "Bundled as \`mini-storycloze\` and \`mini-topic-storycloze\`, which share their prompts: \`twist eval RUN
mini-storycloze mini-topic-storycloze\`. For small models in training, not for comparison with published numbers. What the stories
are, and their weaknesses: \`assets/make/TEXTS.md\`. $voices" storycloze assets/make/stories.csv --match-length --no-joined
[ -f assets/listening/CARD.md ] || $python assets/make/listening.py --out assets/listening
