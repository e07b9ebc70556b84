"""Make the bundled tokenizers: codebooks of one encoder at one frame rate.

A name says what it is: mini-25hz-500 has 500 units at 25 Hz. An encoder of 25 Hz gives 50 Hz in two phases.

    python assets/make/tokenizer.py --speech .assets-work/tok --gold .assets-work/gold --librivox .assets-work/real \
        --work .assets-work/tokenizer --encoder assets/encoder/mini-25hz --seed 2 --out assets/tokenizer mini-50hz-500

K-means behind a projection on five hours of speech, refined, and measured beside MFCC k-means against the phones of
voices nobody trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
import torch
import voices
from encoder import RATE, RECEPTIVE, phone_labels, read_manifest, read_phones, waveform
from numpy.typing import NDArray

from twistlm.compute.threads import in_order
from twistlm.files.atomic import atomic_write
from twistlm.progress import track
from twistlm.units import kmeans, quality
from twistlm.units.encoder import SSLEncoder
from twistlm.units.features import mfcc
from twistlm.units.folder import save_tokenizer
from twistlm.units.refine import refine

FIT_SECONDS = 18_000  # of speech for a codebook
PIECE = 10 * RATE  # samples that are encoded at a time
DIMENSIONS = 40  # of the projection in front of it
REFINE = {"updates": 600, "noise": 2.0}  # of projection and centroids, see units/refine.py
LAYER = 6


def pieces(samples: NDArray[np.int16], seed: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Random pieces of 10 s, FIT_SECONDS in all, float32 [160000] each, and where in the waveform each begins."""
    rng = np.random.default_rng(seed)
    step = 640  # clips begin at multiples of it
    firsts = rng.integers(0, len(samples) // step - 260, FIT_SECONDS * RATE // PIECE) * step
    return [samples[at : at + PIECE].astype(np.float32) / 32768 for at in firsts], firsts


def gold_clips(gold: Path, speaker: str | None, limit_seconds: float) -> list[tuple[NDArray[np.float32], list]]:
    """Clips with their phones, in manifest order, of the given speaker (None: all), up to `limit_seconds`."""
    phones = read_phones(gold)
    chosen, total = [], 0.0
    for entry in read_manifest(gold):
        if entry["id"] in phones and speaker in (None, entry["speaker"]) and total < limit_seconds:
            samples, rate = soundfile.read(gold / entry["path"], dtype="float32")
            assert rate == RATE
            chosen.append((samples, phones[entry["id"]]))
            total += len(samples) / rate
    return chosen


Heard = list[tuple[NDArray[np.float32], NDArray[np.float32], list]]  # a clip's features, its MFCC, its phones


def hear(encoder: SSLEncoder, clips: list) -> Heard:
    def one(clip: tuple) -> tuple:
        return encoder(clip[0]), mfcc(clip[0], encoder.n_frames(len(clip[0])), hop=encoder.hop), clip[1]

    return list(in_order(one, clips))


def compared(books: dict[str, kmeans.Codebook], heard: Heard, hop: int) -> dict[str, dict]:
    """Quality of each codebook over clips: those with "mfcc" in the name on MFCC, others on the encoder's features."""
    grid = {"hop": hop, "sample_rate": RATE, "receptive": RECEPTIVE}
    phones = np.concatenate([quality.phones_at(alignment, len(x), **grid) for x, _, alignment in heard])
    return {
        name: dataclasses.asdict(
            quality.unit_quality(np.concatenate([book.assign(x["mfcc" in name]) for x in heard]), phones)
        )
        for name, book in books.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="<any>-<rate>hz-<units>, all of one rate; more may follow the units")
    parser.add_argument("--speech", type=Path, nargs="+", required=True)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--librivox", type=Path, help="gold folder of real speech (phones by forced alignment)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True, help="folder that assets/make/encoder.py made")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = {name: [int(part) for part in name.replace("hz", "").split("-")[1:3]] for name in args.names}
    if len({rate for rate, _ in sizes.values()}) != 1:
        raise SystemExit(f"give names of one frame rate at a time, not {', '.join(args.names)}")
    hop = RATE // sizes[args.names[0]][0]

    samples, _ = waveform(args.speech, args.work)
    phones, _ = phone_labels(args.speech, "radio", hop=hop)
    encoder = SSLEncoder.load(args.encoder, layer=LAYER, hop=hop)
    waves, firsts = pieces(samples, args.seed)
    n_frames = encoder.n_frames(PIECE)
    known = phones[(firsts[:, None] // hop + np.arange(n_frames)).ravel()]
    told = known >= 0
    features = np.concatenate(list(in_order(encoder, track(waves, description="features", enabled=True))))
    cepstra = np.concatenate(list(in_order(lambda wave: mfcc(wave, n_frames, hop=hop), waves)))
    projection = kmeans.discriminant(features, known, DIMENSIONS)
    seen = hear(encoder, [clip for name in ("slt", "awb", "kal16") for clip in gold_clips(args.gold, name, 300)])
    by_voice = {name: hear(encoder, gold_clips(args.gold, name, 1200)) for name in voices.UNSEEN_VOICES}
    real = hear(encoder, gold_clips(args.librivox, None, 1e9)) if args.librivox else []
    for name, (_, units) in sizes.items():
        start = kmeans.fit(features[told], units, seed=args.seed, projection=projection)
        books = {
            "units": refine(start, features, known, seed=args.seed, **REFINE),
            "not_refined": start,
            "without_projection": kmeans.fit(features, units, seed=args.seed),
            # The baselines (standardising their features first makes them worse): on all speech, and on that alone
            # whose phones a projection and its refining know; the last behind such a projection.
            "mfcc": kmeans.fit(cepstra, units, seed=args.seed),
            "mfcc_told": kmeans.fit(cepstra[told], units, seed=args.seed),
            "mfcc_projected": kmeans.fit(
                cepstra[told], units, seed=args.seed, projection=kmeans.discriminant(cepstra, known, DIMENSIONS)
            ),
        }
        report = {
            "unseen_voices": compared(books, [clip for clips in by_voice.values() for clip in clips], hop),
            "by_unseen_voice": {voice: compared(books, clips, hop) for voice, clips in by_voice.items()},
            "seen_voices": compared(books, seen, hop),
            "layer": LAYER, "refine": REFINE, "seed": args.seed, "speech_hours": len(samples) / RATE / 3600,
        }  # fmt: skip
        if real:
            report["librivox"] = compared(books, real, hop)
        print(json.dumps({key: part["units"]["pnmi"] for key, part in report.items() if "voices" in key}), flush=True)
        write(args.out / name, report, books["units"], encoder, args.encoder)


def write(folder: Path, report: dict, book: kmeans.Codebook, encoder: SSLEncoder, encoder_folder: Path) -> None:
    save_tokenizer(
        folder, name=encoder_folder.name, encoder_config=None,
        encoder_weights=(encoder_folder / "encoder.safetensors").read_bytes(), layer=encoder.layer, codebook=book,
        normalize_input=encoder.normalize_input, sample_rate=RATE, hop=encoder.hop,
        card=card(report, folder.name, encoder_folder.name, encoder.phases),
    )  # fmt: skip
    with atomic_write(folder / "quality.json") as path:
        path.write_text(json.dumps(report, indent=1))


def card(report: dict, name: str, encoder: str, phases: int) -> str:
    def row(name: str, part: dict) -> str:
        pnmi = {key: value["pnmi"] for key, value in part.items()}
        return (
            f"| {name} | {part['units']['frames']} | **{pnmi['units']:.3f}** | {pnmi['mfcc']:.3f} "
            f"| {pnmi['units'] / pnmi['mfcc']:.2f} | {pnmi['mfcc_told']:.3f} | {pnmi['not_refined']:.3f} "
            f"| {pnmi['without_projection']:.3f} | {pnmi['mfcc_projected']:.3f} "
            f"| {part['units']['phone_purity']:.3f} | {part['mfcc']['phone_purity']:.3f} |"
        )

    parts = {"unseen voices, pooled": report["unseen_voices"], **report["by_unseen_voice"]}
    parts["seen voices"] = report["seen_voices"]
    if "librivox" in report:
        parts["LibriVox, five clips"] = report["librivox"]
    rows = "\n".join(row(name, part) for name, part in parts.items())
    rate, units = name.replace("hz", "").split("-")[1:3]
    phased = f"""
**There is no {rate} Hz encoder behind it.** The {int(rate) // phases} Hz encoder is run in {phases} phases, on the
sound and on the sound without its first {1000 // int(rate)} ms, and their frames take turns. That is {phases} times the
computing and no second encoder of 17 MB in the repository, and units of {rate} and of {int(rate) // phases} Hz differ
in nothing but their frame rate. What an encoder trained at {rate} Hz would give was not tried.
"""
    named = f"""
An older `{"-".join(name.split("-")[:3])}`, of another encoder, was bundled up to b730d9d: the first quickstart and the
committed grid used it.
"""
    return f"""# {name}

{units} units at {rate} Hz, on the output of block {report["layer"]} of the encoder in `assets/encoder/{encoder}`, whose
card tells of its data, its targets and what it is meant for: k-means behind a projection to {DIMENSIONS} linear
discriminants of phones, projection and centroids then moved so that units tell more about the phone
(`units/refine.py`), on {FIT_SECONDS // 3600} h of its training speech. Hop {RATE // int(rate)} samples at 16 kHz, raw
input (no normalisation), deduplicated units.
{phased if phases > 1 else ""}{named if name.count("-") > 2 else ""}
- **Phones** of flite's and festival's share of the speech had a hand in the codebook as in the encoder: these units are
  not textless.
- **Recipe**: `runs/assets.sh`, seed {report["seed"]}. **Licence**: MIT.

PNMI, ours against MFCC + k-means({units}) at the same {rate} Hz, fitted on the same training speech; MFCC + k-means
fitted only on the part whose phones our codebook was told (it is nearer to these voices); ours before refining, and
without the projection; MFCC's with a projection of its own; phone purity of ours and of MFCC's. The voice `rms` and its
shifted relatives were heard by nobody in training; phones are flite's own, those of LibriVox by forced alignment.
Intervals, ABX, bitrates, speakers and disturbances: docs/results/tokenizers.md.

| speech | frames | PNMI | MFCC's | ratio | MFCC told | unrefined | unprojected | MFCC projected | purity | MFCC's |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
