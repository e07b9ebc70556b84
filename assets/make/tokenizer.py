"""Make the bundled tokenizers: a small 25 Hz HuBERT and its codebooks.

Three streams of targets: k-means of Whisper tiny.en's encoder, for all speech, and the phones that the synthesisers
themselves say they spoke, one stream for the set of flite and festival, one for espeak-ng's. An encoder that goes on
from another (--initial) has the two streams of phones alone.

    python assets/make/tokenizer.py --speech .assets-work/tok --gold .assets-work/gold --work .assets-work/tokenizer \
        --updates 12000 --units 500 100 --encoder assets/encoder/mini-25hz --out assets/tokenizer

Steps, each kept in --work and not done again: all speech as one waveform; the teacher's features of it; their k-means
labels; pretraining; the codebooks on the student's last layer; quality against gold phones on voices nobody trained on.
Without --units it ends with the encoder.
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
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from twistlm.artifacts import resolve
from twistlm.atomic import atomic_write
from twistlm.progress import track
from twistlm.threads import in_order
from twistlm.units import kmeans, quality
from twistlm.units.encoder import SSLEncoder, cut
from twistlm.units.features import WhisperTeacher, mfcc, position_means, without_position
from twistlm.units.pretrain import HubertPretrainConfig, LabelledSpeech, pretrain
from twistlm.units.refine import refine
from twistlm.units.tokenizer import save_tokenizer

HOP, RATE, N_UNITS = 640, 16_000, 500
RECEPTIVE = 880  # samples one 25 Hz frame sees
FIT_SECONDS = 18_000  # of speech for a codebook
DIMENSIONS = 40  # of the projection in front of it
REFINE = {"updates": 600, "noise": 2.0}  # of projection and centroids, see units/refine.py


def read_manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def waveform(speech: list[Path], work: Path) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """All clips back to back, each padded to whole hops: int16 [N]; and which frames lie inside one clip: bool [F]."""
    samples_path, inside_path = work / "samples.npy", work / "inside.npy"
    if not inside_path.exists():
        parts, inside = [], []
        for folder in speech:
            for entry in track(read_manifest(folder), description=f"read {folder.name}", enabled=True):
                clip = soundfile.read(folder / entry["path"], dtype="int16")[0]
                padded = np.pad(clip, (0, -len(clip) % HOP))
                mask = np.ones(len(padded) // HOP, bool)
                mask[max(0, (len(clip) - RECEPTIVE) // HOP + 1) :] = False
                parts.append(padded)
                inside.append(mask)
        save_array(samples_path, np.concatenate(parts))
        save_array(inside_path, np.concatenate(inside))
    return np.load(samples_path, mmap_mode="r"), np.load(inside_path)


def teacher_features(
    samples: NDArray[np.int16], work: Path, threads: int
) -> tuple[NDArray[np.float16], NDArray[np.int16]]:
    """The teacher's features of the waveform, float16 [F, 384], and each frame's place in its window, int16 [F]."""
    path, positions_path = work / "teacher.npy", work / "positions.npy"
    if not positions_path.exists():
        teacher = WhisperTeacher(resolve("whisper-tiny.en"), threads=threads)
        features = np.zeros((len(samples) // HOP, 384), np.float16)
        positions = np.zeros(len(features), np.int16)
        block = HOP * 25 * 28 * 20  # 20 teacher windows at a time as float32
        for start in track(range(0, len(samples), block), description="teacher", enabled=True):
            wave = samples[start : start + block].astype(np.float32) / 32768
            for first, place, part in teacher.windows(wave):
                here = slice(start // HOP + first, start // HOP + first + len(part))
                features[here], positions[here] = part, place + np.arange(len(part))
        save_array(path, features)
        save_array(positions_path, positions)
    return np.load(path, mmap_mode="r"), np.load(positions_path)


def labels_of(
    features: NDArray[np.float16], positions: NDArray[np.int16], inside: NDArray[np.bool_], work: Path, seed: int
) -> NDArray[np.int16]:
    """K-means labels of the teacher's features, int16 [F], -1 outside clips."""
    path = work / "labels.npy"
    if not path.exists():
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(np.flatnonzero(inside), min(150_000, int(inside.sum())), replace=False))
        means = position_means(features[: 1000 * 700], positions[: 1000 * 700])
        codebook = kmeans.fit(
            without_position(features[sample], positions[sample], means), N_UNITS, seed=seed, max_iter=25
        )
        blocks = [slice(start, start + 50_000) for start in range(0, len(features), 50_000)]
        labels = np.concatenate([codebook.assign(without_position(features[b], positions[b], means)) for b in blocks])
        labels = labels.astype(np.int16)
        labels[~inside] = -1
        save_array(path, labels)
    return np.load(path)


def phone_labels(speech: list[Path], inside: NDArray[np.bool_], phone_set: str) -> tuple[NDArray[np.int16], list[str]]:
    """The phone of each frame of the waveform, int16 [F], -1 where none of that set is known; and the phones' names."""
    found: list[tuple[int, NDArray[np.str_]]] = []
    at = 0
    for folder in speech:
        known = read_phones(folder, phone_set) if (folder / "phones.jsonl").exists() else {}
        for entry in read_manifest(folder):
            frames = -(-round(entry["seconds"] * RATE) // HOP)
            if entry["id"] in known:
                alignment = known[entry["id"]]
                found.append((at, quality.phones_at(alignment, frames, hop=HOP, sample_rate=RATE, receptive=RECEPTIVE)))
            at += frames
    if at != len(inside):
        raise SystemExit(f"the manifests tell of {at} frames, the waveform in --work has {len(inside)}: delete --work")
    names = sorted({str(name) for _, phones in found for name in np.unique(phones)} - {""})
    labels = np.full(len(inside), -1, np.int16)
    for start, phones in found:
        index = np.searchsorted(names, phones).astype(np.int16)
        labels[start : start + len(phones)] = np.where(phones == "", -1, index)
    labels[~inside] = -1
    return labels, names


def save_array(path: Path, array: NDArray) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def pieces(samples: NDArray[np.int16], seed: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Random pieces of 10 s, FIT_SECONDS in all, float32 [160000] each, and the frames of the waveform they hold."""
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, len(samples) // HOP - 260, FIT_SECONDS // 10)
    waves = [samples[f * HOP : f * HOP + 10 * RATE].astype(np.float32) / 32768 for f in firsts]
    return waves, np.concatenate([np.arange(f, f + 249) for f in firsts])


def read_phones(folder: Path, phone_set: str | None = None) -> dict[str, list]:
    """The alignment of each clip that has one (of this set of phones, if one is given)."""
    rows = map(json.loads, (folder / "phones.jsonl").read_text().splitlines())
    return {row["id"]: row["phones"] for row in rows if phone_set in (None, row["set"])}


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


def agreement(units: list[NDArray[np.uint16]], alignments: list) -> quality.UnitQuality:
    """Quality of the units of each clip, one a frame."""
    phones = [
        quality.phones_at(alignment, len(u), hop=HOP, sample_rate=RATE, receptive=RECEPTIVE)
        for u, alignment in zip(units, alignments, strict=True)
    ]
    return quality.unit_quality(np.concatenate(units), np.concatenate(phones))


Heard = list[tuple[NDArray[np.float32], NDArray[np.float32], list]]  # a clip's features, its MFCC, its phones


def hear(encoder: SSLEncoder, clips: list) -> Heard:
    def one(clip: tuple) -> tuple:
        return encoder(clip[0]), mfcc(clip[0], encoder.n_frames(len(clip[0])), hop=HOP), clip[1]

    return list(in_order(one, clips))


def compared(books: dict[str, kmeans.Codebook], heard: Heard) -> dict[str, dict]:
    """Quality of each codebook over clips: those with "mfcc" in the name on MFCC, others on the encoder's features."""
    alignments = [phones for _, _, phones in heard]
    return {
        name: dataclasses.asdict(agreement([book.assign(x["mfcc" in name]) for x in heard], alignments))
        for name, book in books.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, nargs="+", required=True)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--librivox", type=Path, help="gold folder of real speech (phones by forced alignment)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--encoder", type=Path, required=True, help="folder for the encoder, e.g. assets/encoder/mini-25hz"
    )
    parser.add_argument("--initial", type=Path, help="folder of an encoder to go on from, on phones alone")
    parser.add_argument("--out", type=Path, help="folder for the tokenizers, each <encoder>-<units>")
    parser.add_argument("--units", type=int, nargs="*", default=[], help="sizes of the codebooks")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the CPU multiplies it fast")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    samples, inside = waveform(args.speech, args.work)
    phones, names = phone_labels(args.speech, inside, "radio")
    others, other_names = phone_labels(args.speech, inside, "espeak")
    targets, sizes = [phones, others], [len(names), len(other_names)]
    if args.initial is None:
        features, positions = teacher_features(samples, args.work, args.threads)
        targets.insert(0, labels_of(features, positions, inside, args.work, args.seed))
        sizes.insert(0, N_UNITS)
    first = args.initial is None
    config = HubertPretrainConfig(
        front_end="filterbank", frame_rate=25, conv_dim=(256, 384, 384), width=320, layers=6, heads=5, ffn=1280,
        n_targets=tuple(sizes), crop_seconds=4.0, batch=args.batch, updates=args.updates, lr=args.lr,
        warmup=300 if first else 100, mask_start=0.02, unmasked_weight=10.0, warp=0.15 if first else 0.2,
        augment=0.8 if first else 0.6, bf16=args.bf16, seed=args.seed,
    )  # fmt: skip
    model = pretrain(
        LabelledSpeech(samples, np.stack(targets), HOP), config, args.work / f"hubert-{args.encoder.name}",
        initial=None if first else load_file(args.initial / "encoder.safetensors"),
        on_log=lambda line: print(json.dumps(line), flush=True),
    )  # fmt: skip
    # The codebook must be fitted on the features of the weights that ship: round to float16 first.
    weights = {
        name: tensor.half()
        for name, tensor in model.hubert.state_dict().items()
        if name != "masked_spec_embed" and "num_batches_tracked" not in name
    }
    if args.units:
        export(weights, config, samples, phones, args)
    else:
        args.encoder.mkdir(parents=True, exist_ok=True)
        with atomic_write(args.encoder / "encoder.safetensors") as path:
            path.write_bytes(save(weights))


def export(
    weights: dict[str, torch.Tensor],
    config: HubertPretrainConfig,
    samples: NDArray[np.int16],
    phones: NDArray[np.int16],
    args: argparse.Namespace,
) -> None:
    """For each size fit the codebook on the last layer, measure it on unseen voices, write the tokenizer."""
    hubert, layer = config.hubert(), config.layers
    waves, frames = pieces(samples, args.seed)
    known = phones[frames]
    told = known >= 0
    encoder = SSLEncoder(cut(hubert, {n: t.float() for n, t in weights.items()}, layer), layer)
    features = np.concatenate(list(in_order(encoder, track(waves, description="student features", enabled=True))))
    cepstra = np.concatenate(list(in_order(lambda wave: mfcc(wave, 249, hop=HOP), waves)))
    projection = kmeans.discriminant(features, known, DIMENSIONS)
    seen = hear(encoder, [clip for name in ("slt", "awb", "kal16") for clip in gold_clips(args.gold, name, 300)])
    by_voice = {name: hear(encoder, gold_clips(args.gold, name, 1200)) for name in voices.UNSEEN_VOICES}
    real = hear(encoder, gold_clips(args.librivox, None, 1e9)) if args.librivox else []
    for units in args.units:
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
            "layer": layer,
            "seen_voices": compared(books, seen),
            "unseen_voices": compared(books, [clip for clips in by_voice.values() for clip in clips]),
            "by_unseen_voice": {name: compared(books, clips) for name, clips in by_voice.items()},
            "config": dataclasses.asdict(config),
            "refine": REFINE,
            "speech_hours": len(samples) / RATE / 3600,
        }
        if real:
            report["librivox"] = compared(books, real)
        print(json.dumps(report, indent=1))
        folder = args.out / f"{args.encoder.name}-{units}"
        save_tokenizer(
            folder, name=args.encoder.name, encoder_config=hubert.to_diff_dict(), encoder_weights=save(weights),
            layer=layer, codebook=books["units"], normalize_input=False, sample_rate=RATE, hop=HOP,
            card=card(report, folder.name, args),
        )  # fmt: skip
        # One encoder for all sizes, beside the tokenizers and not in each of them.
        args.encoder.mkdir(parents=True, exist_ok=True)
        for name in ("encoder.json", "encoder.safetensors"):
            (folder / name).replace(args.encoder / name)
        (args.encoder / "CARD.md").write_text(encoder_card(report, args))
        with atomic_write(folder / "quality.json") as path:
            path.write_text(json.dumps(report, indent=1))


def encoder_card(report: dict, args: argparse.Namespace) -> str:
    name, config = args.encoder.name, report["config"]
    return f"""# {name}

An encoder that tokenizers share, those whose spec.json names it: a 25 Hz HuBERT (transformers `HubertModel`,
{report["layer"]} blocks of {config["width"]} channels, a filterbank-initialised front end), float16. Data, targets,
quality and what it is meant for: their cards. Recipe: `runs/assets.sh`. Licence: MIT.
"""


def card(report: dict, name: str, args: argparse.Namespace) -> str:
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
    units, encoder = name.rsplit("-", 1)[1], args.encoder.name
    return f"""# {name}

A 25 Hz HuBERT (transformers `HubertModel` with a filterbank-initialised front end, {report["layer"]} transformer
blocks, float16; shared with the other codebooks of it, in `assets/encoder/{encoder}`) with a codebook of {units} on
the output of block {report["layer"]}: k-means behind a projection to {DIMENSIONS} linear discriminants of phones,
projection and centroids then moved so that units tell more about the phone (`units/refine.py`). Hop {HOP} samples at
16 kHz, raw
input (no normalisation), deduplicated units.

- **Training speech**: {report["speech_hours"]:.1f} h, made by `assets/make/speech.py`: hundreds of synthetic voices
  (flite and festival with shifted pitch and formants, espeak-ng) reading public-domain prose, and recorded prompts in
  five languages.
- **Targets**: at first three streams: k-means ({N_UNITS}) of the final layer of Whisper tiny.en's encoder (MIT),
  averaged to 25 Hz, less the mean of each place in Whisper's window; **the phones flite and festival say they spoke**;
  and those of espeak-ng. Then the two streams of phones alone. The codebook is fitted on phones too. Text has thus had
  a hand in these units several times (Whisper was trained on transcripts): they are not textless.
- **Recipe**: `runs/assets.sh`: the trainings one after the other, the last of seed {args.seed} and {args.updates}
  updates of {args.batch} crops of 4 s; colour, noise, room, gain and speed augmentation.
- **Licence**: MIT. **Meant for**: quick starts, tests and teaching. For research on human speech use a published
  encoder.

PNMI, ours against MFCC + k-means({units}) at the same 25 Hz, fitted on the same training speech; MFCC + k-means fitted
only on the part whose phones our codebook was told (it is nearer to these voices); ours before refining, and without
the projection; MFCC's with a projection of its own; phone purity of ours and of MFCC's. The voice `rms` and its shifted
relatives were heard by nobody in training; phones are flite's own, those of LibriVox by forced alignment.

| speech | frames | PNMI | MFCC's | ratio | MFCC told | unrefined | unprojected | MFCC projected | purity | MFCC's |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
