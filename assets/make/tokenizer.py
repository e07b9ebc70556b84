"""Make the bundled tokenizer: a small 25 Hz HuBERT taught by Whisper tiny.en's encoder, and a k-means codebook of 500.

    python assets/make/tokenizer.py --speech .assets-work/tok --gold .assets-work/gold --work .assets-work/tokenizer \
        --updates 4500 --out assets/tokenizer/mini-25hz-500

Steps, each kept in --work and not done again: all speech as one waveform; the teacher's features of it; their k-means
labels; pretraining; the codebook on the student's layer; quality against gold phones on a voice nobody trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from twistlm.artifacts import atomic_write, resolve
from twistlm.progress import track
from twistlm.units import kmeans, quality
from twistlm.units.encoder import SSLEncoder, cut
from twistlm.units.features import WhisperTeacher, mfcc
from twistlm.units.pretrain import HubertPretrainConfig, LabelledSpeech, MaskedUnitPredictor, pretrain
from twistlm.units.tokenizer import save_tokenizer

HOP, RATE, N_UNITS = 640, 16_000, 500
RECEPTIVE = 720  # samples one 25 Hz frame sees


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
        with atomic_write(samples_path) as path, path.open("wb") as file:
            np.save(file, np.concatenate(parts))
        with atomic_write(inside_path) as path, path.open("wb") as file:
            np.save(file, np.concatenate(inside))
    return np.load(samples_path, mmap_mode="r"), np.load(inside_path)


def teacher_features(samples: NDArray[np.int16], work: Path, threads: int) -> NDArray[np.float16]:
    """The teacher's features of the whole waveform, float16 [F, 384]."""
    path = work / "teacher.npy"
    if not path.exists():
        teacher = WhisperTeacher(resolve("whisper-tiny.en"), threads=threads)
        features = np.zeros((len(samples) // HOP, 384), np.float16)
        block = HOP * 25 * 28 * 20  # 20 teacher windows at a time as float32
        for start in track(range(0, len(samples), block), description="teacher", enabled=True):
            wave = samples[start : start + block].astype(np.float32) / 32768
            for first, part in teacher.windows(wave):
                features[start // HOP + first : start // HOP + first + len(part)] = part
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
    return np.load(path, mmap_mode="r")


def labels_of(features: NDArray[np.float16], inside: NDArray[np.bool_], work: Path, seed: int) -> NDArray[np.int16]:
    """K-means labels of the teacher's features, int16 [F], -1 outside clips."""
    path = work / "labels.npy"
    if not path.exists():
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(np.flatnonzero(inside), min(250_000, int(inside.sum())), replace=False))
        codebook = kmeans.fit(features[sample].astype(np.float32), N_UNITS, seed=seed)
        codebook.save(work / "teacher-codebook.safetensors")
        labels = np.concatenate(
            [codebook.assign(features[s : s + 50_000].astype(np.float32)) for s in range(0, len(features), 50_000)]
        ).astype(np.int16)
        labels[~inside] = -1
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, labels)
    return np.load(path)


def student_features(encoder: SSLEncoder, samples: NDArray[np.int16], seconds: int, seed: int) -> NDArray[np.float32]:
    """Features of random 10 s pieces, `seconds` in all: float32 [F, D]."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(samples) // HOP - 260, seconds // 10) * HOP
    pieces = (samples[s : s + 10 * RATE].astype(np.float32) / 32768 for s in starts)
    return np.concatenate(
        [encoder(p) for p in track(pieces, description="student features", total=len(starts), enabled=True)]
    )


def mfcc_codebook(samples: NDArray[np.int16], seconds: int, seed: int) -> tuple[kmeans.Codebook, NDArray[np.float32]]:
    """The baseline: k-means of 500 on standardised MFCC at the same 25 Hz; also the standard deviations used."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(samples) // HOP - 260, seconds // 10) * HOP
    features = np.concatenate(
        [mfcc(samples[s : s + 10 * RATE].astype(np.float32) / 32768, 249, hop=HOP) for s in starts]
    )
    scale = features.std(0)
    return kmeans.fit(features / scale, N_UNITS, seed=seed), scale


def gold_clips(gold: Path, speakers: set[str] | None, limit_seconds: float) -> list[tuple[NDArray[np.float32], list]]:
    """Clips with their phones, in manifest order, of the given speakers (None: all), up to `limit_seconds`."""
    phones = {}
    for line in (gold / "phones.jsonl").read_text().splitlines():
        row = json.loads(line)
        phones[row["id"]] = row["phones"]
    chosen, total = [], 0.0
    for entry in read_manifest(gold):
        if entry["id"] in phones and (speakers is None or entry["speaker"] in speakers) and total < limit_seconds:
            samples, rate = soundfile.read(gold / entry["path"], dtype="float32")
            assert rate == RATE
            chosen.append((samples, phones[entry["id"]]))
            total += len(samples) / rate
    return chosen


def measure(units_of, clips: list) -> quality.UnitQuality:
    """Quality of `units_of(samples) -> uint16 [F]` over clips."""
    units = [units_of(samples) for samples, _ in clips]
    phones = [
        quality.phones_at(alignment, len(u), hop=HOP, sample_rate=RATE, receptive=RECEPTIVE)
        for u, (_, alignment) in zip(units, clips, strict=True)
    ]
    return quality.unit_quality(np.concatenate(units), np.concatenate(phones))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, nargs="+", required=True)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--unseen", default="rms", help="the gold speaker no model has heard")
    parser.add_argument("--librivox", type=Path, help="gold folder of real speech (phones by forced alignment)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    samples, inside = waveform(args.speech, args.work)
    labels = labels_of(teacher_features(samples, args.work, args.threads), inside, args.work, args.seed)
    config = HubertPretrainConfig(
        frame_rate=25, conv_dim=(64, 96, 128, 128, 192, 192, 256, 256), width=256, layers=6, heads=4, ffn=1024,
        n_targets=N_UNITS, crop_seconds=4.0, batch=args.batch, updates=args.updates, lr=1e-3, warmup=300, seed=args.seed,
    )  # fmt: skip
    model = pretrain(LabelledSpeech(samples, labels, HOP), config, args.work / "hubert", on_log=print)
    export(model, config, samples, args)


def export(model: MaskedUnitPredictor, config: HubertPretrainConfig, samples: NDArray[np.int16], args) -> None:
    """Choose the layer on seen voices, fit the codebook, measure on the unseen one, write the tokenizer folder."""
    # The codebook must be fitted on the features of the weights that ship: round to float16 first.
    state = {name: tensor.half() for name, tensor in model.hubert.state_dict().items() if name != "masked_spec_embed"}
    state = {name: t for name, t in state.items() if "num_batches_tracked" not in name}
    seen = gold_clips(args.gold, {e["speaker"] for e in read_manifest(args.gold)} - {args.unseen}, 600)
    unseen = gold_clips(args.gold, {args.unseen}, 1200)
    hubert = config.hubert()
    by_layer, books = {}, {}
    for layer in (config.layers - 2, config.layers - 1, config.layers):
        encoder = SSLEncoder(cut(hubert, {n: t.float() for n, t in state.items()}, layer), layer)
        books[layer] = kmeans.fit(student_features(encoder, samples, 8000, args.seed), N_UNITS, seed=args.seed)
        by_layer[layer] = measure(lambda x, e=encoder, b=books[layer]: b.assign(e(x)), seen).pnmi
    layer = max(by_layer, key=by_layer.__getitem__)
    baseline, scale = mfcc_codebook(samples, 8000, args.seed)
    encoder = SSLEncoder(cut(hubert, {n: t.float() for n, t in state.items()}, layer), layer)
    ours = lambda x: books[layer].assign(encoder(x))  # noqa: E731
    theirs = lambda x: baseline.assign(mfcc(x, encoder.n_frames(len(x)), hop=HOP) / scale)  # noqa: E731
    report = {
        "layer": layer,
        "pnmi_by_layer_on_seen_voices": by_layer,
        "unseen_voice": {
            "units": dataclasses.asdict(measure(ours, unseen)),
            "mfcc": dataclasses.asdict(measure(theirs, unseen)),
        },
        "config": dataclasses.asdict(config),
        "speech_hours": len(samples) / RATE / 3600,
    }
    if args.librivox:
        real = gold_clips(args.librivox, None, 1e9)
        report["librivox"] = {
            "units": dataclasses.asdict(measure(ours, real)),
            "mfcc": dataclasses.asdict(measure(theirs, real)),
        }
    print(json.dumps(report, indent=1))
    kept = {n: t for n, t in state.items() if not n.startswith("encoder.layers.") or int(n.split(".")[2]) < layer}
    fields = {**hubert.to_diff_dict(), "num_hidden_layers": layer}
    save_tokenizer(
        args.out, name=args.out.name, encoder_config=fields, encoder_weights=save(kept), layer=layer,
        codebook=books[layer], normalize_input=False, sample_rate=RATE, hop=HOP, card=card(report, args),
    )  # fmt: skip
    with atomic_write(args.out / "quality.json") as path:
        path.write_text(json.dumps(report, indent=1))


def card(report: dict, args) -> str:
    ours, theirs = report["unseen_voice"]["units"], report["unseen_voice"]["mfcc"]
    return f"""# {args.out.name}

A 25 Hz HuBERT (transformers `HubertModel`, {report["layer"]} transformer blocks kept, float16) with a k-means codebook of {N_UNITS} on
the output of block {report["layer"]}. Hop 640 samples at 16 kHz, raw input (no normalisation), deduplicated units.

- **Training speech**: {report["speech_hours"]:.1f} h, made by `assets/make/speech.py`: many synthetic voices (flite, festival, espeak-ng)
  reading public-domain prose, and recorded prompts in five languages. flite's voice `{args.unseen}` was never heard.
- **Targets**: k-means ({N_UNITS}) of the final layer of Whisper tiny.en's encoder (MIT), averaged to 25 Hz.
- **Recipe**: `runs/assets.sh`; seed {args.seed}, {args.updates} updates of {args.batch} crops of 4 s, noise, room and gain augmentation.
- **Quality on the unseen voice `{args.unseen}`** ({ours["frames"]} frames, gold phones): PNMI {ours["pnmi"]:.3f} (MFCC + k-means(500) at
  25 Hz: {theirs["pnmi"]:.3f}), phone purity {ours["phone_purity"]:.3f} ({theirs["phone_purity"]:.3f}), units used {ours["used"]}.
- **Licence**: MIT. **Meant for**: quick starts, tests and teaching. For research on human speech use a published encoder.
"""


if __name__ == "__main__":
    main()
