"""Make the encoder that the bundled tokenizers share: a small 25 Hz HuBERT.

Three streams of targets: k-means of Whisper tiny.en's encoder, for all speech, and the phones that the synthesisers
themselves say they spoke, one stream for the set of flite and festival, one for espeak-ng's. An encoder that goes on
from another (--initial) has the two streams of phones alone.

    python assets/make/encoder.py --speech .assets-work/tok --work .assets-work/tokenizer --updates 12000 --out FOLDER

Steps, each kept in --work and not done again: all speech as one waveform; the teacher's features of it; their k-means
labels; pretraining.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from twistlm.files.artifacts import resolve
from twistlm.files.atomic import atomic_folder, atomic_write
from twistlm.progress import track
from twistlm.units import kmeans, quality
from twistlm.units.crops import LabelledSpeech
from twistlm.units.features import WhisperTeacher, position_means, without_position
from twistlm.units.masked_prediction import HubertPretrainConfig
from twistlm.units.pretrain import pretrain

HOP, RATE, N_TARGETS = 640, 16_000, 500
RECEPTIVE = 880  # samples one frame sees


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
            without_position(features[sample], positions[sample], means), N_TARGETS, seed=seed, max_iter=25
        )
        blocks = [slice(start, start + 50_000) for start in range(0, len(features), 50_000)]
        labels = np.concatenate([codebook.assign(without_position(features[b], positions[b], means)) for b in blocks])
        labels = labels.astype(np.int16)
        labels[~inside] = -1
        save_array(path, labels)
    return np.load(path)


def phone_labels(speech: list[Path], phone_set: str, *, hop: int) -> tuple[NDArray[np.int16], list[str]]:
    """The phone of each frame of the waveform, int16 [F], -1 where none of that set is known or the frame lies in no
    one clip; and the phones' names."""
    found: list[tuple[int, NDArray[np.str_]]] = []
    at = 0
    for folder in speech:
        known = read_phones(folder, phone_set) if (folder / "phones.jsonl").exists() else {}
        for entry in read_manifest(folder):
            length = round(entry["seconds"] * RATE)
            if entry["id"] in known:
                frames = max(0, (length - RECEPTIVE) // hop + 1)
                grid = {"hop": hop, "sample_rate": RATE, "receptive": RECEPTIVE}
                found.append((at, quality.phones_at(known[entry["id"]], frames, **grid)))
            at += -(-length // HOP) * HOP // hop
    names = sorted({str(name) for _, phones in found for name in np.unique(phones)} - {""})
    labels = np.full(at, -1, np.int16)
    for start, phones in found:
        index = np.searchsorted(names, phones).astype(np.int16)
        labels[start : start + len(phones)] = np.where(phones == "", -1, index)
    return labels, names


def read_phones(folder: Path, phone_set: str | None = None) -> dict[str, list]:
    """The alignment of each clip that has one (of this set of phones, if one is given)."""
    rows = map(json.loads, (folder / "phones.jsonl").read_text().splitlines())
    return {row["id"]: row["phones"] for row in rows if phone_set in (None, row["set"])}


def save_array(path: Path, array: NDArray) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the encoder, e.g. assets/encoder/mini-25hz")
    parser.add_argument("--initial", type=Path, help="folder of an encoder to go on from, on phones alone")
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
    streams = [phone_labels(args.speech, phone_set, hop=HOP) for phone_set in ("radio", "espeak")]
    targets, sizes = [labels for labels, _ in streams], [len(names) for _, names in streams]
    if len(targets[0]) != len(inside):
        raise SystemExit(f"manifests tell of {len(targets[0])} frames, --work has {len(inside)}: delete --work")
    first = args.initial is None
    if first:
        features, positions = teacher_features(samples, args.work, args.threads)
        targets.insert(0, labels_of(features, positions, inside, args.work, args.seed))
        sizes.insert(0, N_TARGETS)
    config = HubertPretrainConfig(
        front_end="filterbank", frame_rate=25, conv_dim=(256, 384, 384), width=320, layers=6, heads=5, ffn=1280,
        n_targets=tuple(sizes), crop_seconds=4.0, batch=args.batch, updates=args.updates, lr=args.lr,
        warmup=300 if first else 100, mask_start=0.02, unmasked_weight=10.0, warp=0.15 if first else 0.2,
        augment=0.8 if first else 0.6, bf16=args.bf16, seed=args.seed,
    )  # fmt: skip
    model = pretrain(
        LabelledSpeech(samples, np.stack(targets), HOP), config, args.work / f"hubert-{args.out.name}",
        initial=None if first else load_file(args.initial / "encoder.safetensors"),
        on_log=lambda line: print(json.dumps(line), flush=True),
    )  # fmt: skip
    weights = {
        name: tensor.half()
        for name, tensor in model.hubert.state_dict().items()
        if name != "masked_spec_embed" and "num_batches_tracked" not in name
    }
    with atomic_folder(args.out) as folder:
        (folder / "encoder.json").write_text(json.dumps(config.hubert().to_diff_dict(), indent=1, sort_keys=True))
        (folder / "encoder.safetensors").write_bytes(save(weights))
        (folder / "CARD.md").write_text(card(args.out.name, config, hours=len(samples) / RATE / 3600))


def card(name: str, config: HubertPretrainConfig, *, hours: float) -> str:
    return f"""# {name}

The encoder of the tokenizers whose spec.json names it: a 25 Hz HuBERT (transformers `HubertModel`,
{config.layers} blocks of {config.width} channels, a filterbank-initialised front end), float16, raw input (no
normalisation). Tokenizers of 50 Hz run it in two phases (`units/encoder.py`). Quality: their cards.

- **Training speech**: {hours:.1f} h, made by `assets/make/speech.py`: hundreds of synthetic voices
  (flite and festival with shifted pitch and formants, espeak-ng) reading public-domain prose, and recorded prompts in
  five languages.
- **Targets**: at first three streams: k-means ({N_TARGETS}) of the final layer of Whisper tiny.en's encoder (MIT),
  averaged to 25 Hz, less the mean of each place in Whisper's window; **the phones flite and festival say they spoke**;
  and those of espeak-ng. Then the two streams of phones alone. Text has thus had a hand in these features (Whisper was
  trained on transcripts): they are not textless.
- **Recipe**: `runs/assets.sh`: the trainings one after the other, the last of seed {config.seed} and {config.updates}
  updates of {config.batch} crops of 4 s; colour, noise, room, gain and speed augmentation.
- **Licence**: MIT. **Meant for**: quick starts, tests and teaching. For research on human speech use a published
  encoder.
"""


if __name__ == "__main__":
    main()
