"""Make assets/listening: what a voice says in the checks of a listening study, in each language.

    python assets/make/listening.py --out assets/listening

Needs flite (English) and espeak-ng (German). Every file is mono Ogg Opus, 16 kHz, at one level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from twistlm.audio.clip import Clip, resample, write
from twistlm.benchmarks.engines import open_voices
from twistlm.benchmarks.spoken import normalize
from twistlm.files.atomic import atomic_folder
from twistlm.listen.controls import DIGITS

SAMPLE_RATE = 16_000
VOICES = {"en": "flite:slt", "de": "espeak-ng:de+f3"}
SAID = {
    "en": {
        "digits": ["one", "two", "three", "four", "five", "six", "eight", "nine"],
        "score": "This is a check. Please choose the number {}.",
        "first": "This is a check. Please choose the first sample.",
        "second": "This is a check. Please choose the second sample.",
    },
    "de": {
        "digits": ["eins", "zwei", "drei", "vier", "fünf", "sechs", "acht", "neun"],
        "score": "Dies ist eine Prüfung. Bitte wählen Sie die Zahl {}.",
        "first": "Dies ist eine Prüfung. Bitte wählen Sie die erste Aufnahme.",
        "second": "Dies ist eine Prüfung. Bitte wählen Sie die zweite Aufnahme.",
    },
}
CARD = """# What is said in the checks of listening studies

`twist listen plan` makes its hearing check (digits in noise) and its trapping clips ("please choose the number 4") from
these. English by flite's `slt`, German by espeak-ng's `de+f3`; mono Ogg Opus, 16 kHz, one level. A folder a language:
`digit-N.ogg` (1 to 9 without 7, whose two syllables would give it away), `score-N.ogg` (1 to 5), `first.ogg` and
`second.ogg`.

Another language: make the same files with any voice into `assets/listening/CODE`, and see `docs/listening.md`.

Licences: flite and its voices: Carnegie Mellon University's permissive licence. espeak-ng is GPL-3.0; what it says is
not covered by it. Made by `assets/make/listening.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with atomic_folder(out) as folder:
        for language, said in SAID.items():
            (voice,) = open_voices([VOICES[language]])
            lines = {f"digit-{figure}": word for figure, word in zip(DIGITS, said["digits"], strict=True)}
            lines |= {f"score-{n}": said["score"].format(said["digits"][n - 1]) for n in range(1, 6)}
            lines |= {"first": said["first"], "second": said["second"]}
            for name, text in lines.items():
                clip = resample(voice.speak(text), sample_rate=SAMPLE_RATE)
                write(Clip(normalize(clip.samples), SAMPLE_RATE), folder / language / f"{name}.ogg")
        (folder / "CARD.md").write_text(CARD, encoding="utf-8")


if __name__ == "__main__":
    main()
