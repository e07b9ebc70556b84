"""Compare vocoders of the same units on held-out clips: words kept, quality, envelope and melody, with intervals.

    python runs/vocoder_generators.py FOLDER… --tokenizer mini-25hz-500 --split heldout_voice --out vocoders.jsonl

A vocoder is a bundled name or a folder; FOLDER@SPEAKER names one of its voices. The recordings come first, then every
vocoder with the units of the same clips, durations given. A line of --out is one clip through one of them, kept under
the vocoder's hash and the clip's id (another --out for other speech): a rerun measures only what is missing, and a
stopped one goes on. Prints a table as JSON: word error
rate and each measure's mean with 95 % bootstrap intervals over clips, and paired differences from the first vocoder.

Mel-cepstral distortion (order 13, window by window) and F0 compare with the recording: with another voice than the
recording's, the first also measures that difference, and F0 is scaled to the recording's median.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.corpus import manifest
from twistlm.corpus.sounds import read_clip
from twistlm.evaluate import cepstral, pitch
from twistlm.evaluate.asr import PROTOCOL, Whisper, word_errors
from twistlm.evaluate.generation.quality import DistillMos, DnsMos
from twistlm.evaluate.stats import bootstrap_ci, paired_difference, ratio_ci
from twistlm.files.artifacts import bundled
from twistlm.progress import track
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.catalogue import vocoder_folder
from twistlm.vocoder.vocoder import Vocoder

F0_RANGE = (60.0, 400.0)  # Hz
MEANS = ("dnsmos_p808", "distillmos", "mcd13", "f0_vde", "f0_gpe", "f0_ffe", "f0_rmse_cents")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocoders", nargs="+", help="names or folders, @SPEAKER behind one that has several")
    parser.add_argument("--speech", type=Path, help="folder with a manifest and transcripts; default: the bundled")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--split", required=True, help="which clips")
    parser.add_argument("--speaker", help="of those clips; default: all")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of clips and of the bootstrap")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, a clip through a vocoder each")
    given = parser.parse_args()
    entries = [e for e in manifest.build(given.speech or bundled("speech")) if e.split == given.split and e.text]
    entries = [e for e in entries if given.speaker in (None, e.speaker)]
    if not entries:
        parser.error(f"there are no clips with a transcript in the split {given.split}")
    chosen = np.sort(np.random.default_rng(given.seed).permutation(len(entries))[: given.n])
    known = {(row["system"], row["clip"]): row for row in _lines(given.out)}
    tok, whisper = SpeechTokenizer.load(given.tokenizer), Whisper.load()
    dnsmos, distillmos = DnsMos.load(p835=False), DistillMos.load()
    vocoders = {"recording": None} | {name: _loaded(name) for name in given.vocoders}
    keys = {name: "recording" if name == "recording" else _key(name, tok) for name in vocoders}
    rows: dict[str, list[Row]] = {name: [] for name in vocoders}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", encoding="utf-8") as file:
        for i in track(chosen, description="clips", enabled=sys.stderr.isatty()):
            entry, units = entries[i], None
            for name, vocoder in vocoders.items():
                row = known.get((keys[name], entry.id))
                if row is None:
                    clip = read_clip(entry, sample_rate=tok.spec.sample_rate)
                    if vocoder is None:
                        spoken = clip
                    else:
                        units = tok(clip) if units is None else units
                        spoken = vocoder(units, durations="given")
                    heard = whisper.transcribe(spoken)
                    wrong, words = word_errors(entry.text, heard)
                    row = {"system": keys[name], "clip": entry.id, "heard": heard, "wrong": wrong, "words": words}
                    row |= dnsmos(spoken) | distillmos.judge(spoken)
                    if vocoder is not None:
                        row |= compared(clip, spoken)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                rows[name].append(row)
    print(json.dumps({**table(rows, given.seed), "protocol": PROTOCOL, "split": given.split}, indent=1))


def compared(clip: Clip, spoken: Clip) -> Row:
    """How a spoken clip differs from its recording, cut to the same length, in envelope and melody."""
    n = min(len(clip.samples), len(spoken.samples))
    a, b = clip.samples[:n], spoken.samples[:n]
    low, high = F0_RANGE
    tracks = [pitch.f0(wave, clip.sample_rate, low=low, high=high) for wave in (a, b)]
    errors = pitch.pitch_errors(*tracks, relative=True)
    return {
        "mcd13": cepstral.mel_cepstral_distortion(a, b, clip.sample_rate, order=13, align="windows").db,
        "f0_vde": errors.voicing, "f0_gpe": errors.gross, "f0_ffe": errors.frame, "f0_rmse_cents": errors.rmse_cents,
    }  # fmt: skip


def table(rows: dict[str, list[Row]], seed: int) -> Row:
    """Every measure of every system, and the paired differences from the first vocoder."""
    found: Row = {}
    first = list(rows)[1]
    for name, of in rows.items():
        wrong, words = ([row[key] for row in of] for key in ("wrong", "words"))
        cells: Row = {"n": len(of), "wer": [sum(wrong) / sum(words), *ratio_ci(wrong, words, seed=seed)]}
        for key in MEANS:
            if values := [row[key] for row in of if key in row and np.isfinite(row[key])]:
                cells[key] = [float(np.mean(values)), *bootstrap_ci(values, seed=seed)]
        if name not in ("recording", first):
            theirs = [row["wrong"] for row in rows[first]]
            cells[f"wer minus {first}"] = paired_difference(wrong, theirs, sizes=words, seed=seed)
            for key in ("dnsmos_p808", "distillmos"):
                both = ([row[key] for row in side] for side in (of, rows[first]))
                cells[f"{key} minus {first}"] = paired_difference(*both, seed=seed)
        found[name] = cells
    return found


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _loaded(name: str) -> Vocoder:
    folder, _, speaker = name.partition("@")
    vocoder = Vocoder.load(folder)
    return vocoder.speaking_as(speaker=speaker) if speaker else vocoder


def _key(name: str, tok: SpeechTokenizer) -> str:
    folder, _, speaker = name.partition("@")
    weights = (vocoder_folder(folder) / "model.safetensors").read_bytes()
    return f"{hashlib.sha256(weights).hexdigest()[:16]}@{speaker}-{tok.spec.fingerprint}"


if __name__ == "__main__":
    main()
