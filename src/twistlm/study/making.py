"""Make a tokenizer and a vocoder from a folder of speech: pretrain an encoder, fit a codebook, train a vocoder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from twistlm.artifacts import bundled
from twistlm.atomic import atomic_folder
from twistlm.corpus.manifest import Entry, build
from twistlm.corpus.slamkit import Imported, import_units
from twistlm.corpus.sounds import Sounds
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.progress import track
from twistlm.study.models import device as device_of_rank
from twistlm.threads import in_order
from twistlm.train.parallel import join
from twistlm.types import Clip, Units, UnitSpec
from twistlm.units import kmeans
from twistlm.units.encoder import SSLEncoder, frames_of
from twistlm.units.features import mfcc
from twistlm.units.pretrain import FRONT_ENDS, HubertPretrainConfig, LabelledSpeech, MaskedUnitPredictor, pretrain
from twistlm.units.tokenizer import SpeechTokenizer, read_spec, save_tokenizer
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.train import VocoderConfig, train_vocoder
from twistlm.vocoder.vocoder import Vocoder

RATE = 16_000
HELDOUT_EVERY = 20  # one clip in so many judges a codebook instead of making it


# "mini" is the bundled encoder's shape (with the front end "filterbank" at 25 Hz). "base" and "large" are those of
# Hsu et al. 2021, table I, with its learning rates, its seconds of speech an update over all ranks (2,800 on 32 GPUs,
# 7,200 on 128) and its masks, loss on masked frames alone; it trained 250,000 to 400,000 updates. Only "mini" has been
# trained here.
_HUBERT: dict[str, Any] = {
    "front_end": "waveform",
    "mask_start": 0.08,
    "unmasked_weight": 0.0,
    "crop_seconds": 15.6,
    "augment": 0.0,
}
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"width": 256, "layers": 6, "heads": 4, "ffn": 1024, "crop_seconds": 4.0, "batch": 8, "lr": 1e-3},
    "base": {"width": 768, "layers": 12, "heads": 12, "ffn": 3072, "batch": 176, "lr": 5e-4} | _HUBERT,
    "large": {"width": 1024, "layers": 24, "heads": 16, "ffn": 4096, "batch": 464, "lr": 1.5e-3} | _HUBERT,
}
WARMUP = {"mini": 0.05, "base": 0.08, "large": 0.08}


def hubert_config(
    *,
    front_end: Literal["filterbank", "waveform"],
    frame_rate: int,
    n_targets: int,
    updates: int,
    seed: int,
    size: Literal["mini", "base", "large"] = "mini",
    bf16: bool = False,
) -> HubertPretrainConfig:
    """Return the configuration of a run of one's own.

    Args:
        front_end: see `units.pretrain.FRONT_ENDS`; base and large have "waveform".
        frame_rate: 25 or 50 Hz.
        n_targets: units to predict.
        updates: how long.
        seed: of everything random.
        size: see SIZES.
        bf16: matrix products in bfloat16.

    Raises:
        BadInput: another frame rate than 25 or 50 Hz, or a filterbank for base or large.
    """
    if size != "mini" and front_end != "waveform":
        raise BadInput(f"HuBERT {size} hears waveforms: use --front-end waveform.")
    if (front_end, frame_rate) not in FRONT_ENDS:
        raise BadInput(
            f"there is no front end {front_end!r} at {frame_rate} Hz; there are: {offenders([*FRONT_ENDS])}."
        )
    n_convolutions = len(FRONT_ENDS[front_end, frame_rate][0])
    channels = (256, 384, 384) if front_end == "filterbank" else (192 if size == "mini" else 512,) * n_convolutions
    paper: dict[str, Any] = (
        {} if size == "mini" else {"mask_frames": frame_rate // 5, "position_kernel": 128 * frame_rate // 50}
    )
    settings: dict[str, Any] = {"front_end": front_end, **SIZES[size], **paper}
    return HubertPretrainConfig(
        frame_rate=frame_rate,
        conv_dim=channels[:n_convolutions],
        n_targets=(n_targets,),
        updates=updates,
        warmup=max(1, int(updates * WARMUP[size])),
        compile=False,
        bf16=bf16,
        seed=seed,
        **settings,
    )


def pretrain_hubert(
    speech: str | Path,
    out: str | Path,
    config: HubertPretrainConfig,
    *,
    teacher: str = "mfcc",
    on_log: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
) -> Path:
    """Pretrain an encoder on the split "train" of a folder; return the encoder's folder (encoder.json, .safetensors).

    Under torchrun (`torchrun --nproc-per-node 2 --no-python twist hubert …`) the ranks share each batch, each on a GPU
    of its own where there are any. The first makes the targets, in `out/speech`, and writes; all must see `out`.

    Args:
        speech: folder of sound files or with a manifest.
        out: folder of the run; the encoder goes to `out/encoder`, which `fit_codebook` takes.
        config: the run; a rerun goes on from its last checkpoint.
        teacher: `"mfcc"` for k-means over MFCC (a first iteration), or a tokenizer's name or folder, whose units of the
            same frame rate become the targets.
        on_log: called with the metrics of every 20th update.
        progress: show a bar while reading.

    Raises:
        BadInput: the teacher has another frame rate or number of units than `config`. AudioError: an unusable file.
    """
    out = Path(out)
    device = device_of_rank()
    with join(device) as ranks:
        if ranks.world == 1:
            labelled = _labelled(speech, config, teacher, progress=progress)
        else:
            with ranks.first_goes_first():
                if ranks.first:
                    _save_labelled(_labelled(speech, config, teacher, progress=progress), out / "speech")
            labelled = _load_labelled(out / "speech")
        model = pretrain(labelled, config, out, device=str(device), on_log=on_log)
        if ranks.first:
            _save_encoder(model, config, out / "encoder")
    return out / "encoder"


def _labelled(speech: str | Path, config: HubertPretrainConfig, teacher: str, *, progress: bool) -> LabelledSpeech:
    """Read the speech and make its targets."""
    hop = RATE // config.frame_rate
    tok = None if teacher == "mfcc" else SpeechTokenizer.load(teacher)
    if tok is not None and (tok.spec.hop, tok.spec.n_units) != (hop, config.n_targets[0]):
        raise BadInput(
            f"the teacher {teacher} makes {tok.spec.n_units} units with a hop of {tok.spec.hop}; this run predicts "
            f"{config.n_targets[0]} with a hop of {hop}. "
            f"Use --k {tok.spec.n_units} --frame-rate {RATE // tok.spec.hop}."
        )
    clips = [clip for _, clip in _clips(speech, progress=progress)]
    counts = [frames_of(len(clip.samples), *FRONT_ENDS[config.front_end, config.frame_rate]) for clip in clips]
    if tok is None:
        features = [mfcc(c.samples, n, hop=hop) for c, n in zip(clips, counts, strict=True)]
        codebook = kmeans.fit(np.concatenate(features), config.n_targets[0], seed=config.seed)
        labels = [codebook.assign(f) for f in features]
    else:
        labels = [tok.frames(clip) for clip in clips]
    samples, targets = [], []
    for clip, frames in zip(clips, labels, strict=True):
        padded = np.pad(clip.samples, (0, -len(clip.samples) % hop))
        samples.append(np.round(np.clip(padded, -1, 1) * 32767).astype(np.int16))
        targets.append(np.pad(frames.astype(np.int16), (0, len(padded) // hop - len(frames)), constant_values=-1))
    return LabelledSpeech(np.concatenate(samples), np.concatenate(targets)[None], hop)


def _save_labelled(labelled: LabelledSpeech, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        np.save(temporary / "samples.npy", labelled.samples)
        np.save(temporary / "targets.npy", labelled.targets)


def _load_labelled(folder: Path) -> LabelledSpeech:
    samples, targets = np.load(folder / "samples.npy", mmap_mode="r"), np.load(folder / "targets.npy")
    return LabelledSpeech(samples, targets, len(samples) // targets.shape[1])


def _save_encoder(model: MaskedUnitPredictor, config: HubertPretrainConfig, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "encoder.json").write_text(json.dumps(config.hubert().to_diff_dict(), indent=1, sort_keys=True))
        weights = {name: tensor.contiguous() for name, tensor in model.hubert.state_dict().items()}
        (temporary / "encoder.safetensors").write_bytes(save(weights))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What `fit_codebook` made.

    Attributes:
        spec: of the tokenizer.
        n_frames, n_used: frames of the speech, and how many of them the centroids were fitted on.
        inertia: mean squared distance of those frames from their centroids.
        heldout_inertia: the same over frames of clips that were held out; None where there was only one clip.
    """

    spec: UnitSpec
    n_frames: int
    n_used: int
    inertia: float
    heldout_inertia: float | None


def fit_codebook(
    speech: str | Path,
    encoder: str | Path,
    out: str | Path,
    *,
    layer: int,
    k: int,
    seed: int,
    hop: int | None = None,
    max_frames: int = 500_000,
    progress: bool = False,
) -> Fitted:
    """Fit K centroids on a layer of an encoder and write a whole tokenizer to `out`.

    The speech is read once, a clip a core, and every frame of it has the same chance to be among those that are kept:
    memory holds these and a few clips, however many hours there are.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        encoder: folder with encoder.json and encoder.safetensors, or a bundled encoder's name.
        out: the tokenizer's folder.
        layer: 1-based block whose output is clustered.
        k: units.
        hop: samples between two frames, see `SSLEncoder.load`; None takes the encoder's own.
        seed: of the clustering, and of the choice of frames. Held out is one clip in HELDOUT_EVERY, from the second on.
        max_frames: frames used at most, and a tenth as many to judge by.
        progress: show a bar.

    Raises:
        ArtifactError: no such encoder. AudioError: an unusable file. BadInput: fewer frames than units.
    """
    folder = Path(encoder) if Path(encoder).is_dir() else bundled(f"encoder/{encoder}")
    model = SSLEncoder.load(folder, layer=layer, hop=hop)
    used = kmeans.Sample(max_frames, model.dim, seed=seed)
    heldout = kmeans.Sample(max(1, max_frames // 10), model.dim, seed=seed)
    clips = (clip.samples for _, clip in _clips(speech, progress=progress))
    with closing(in_order(model, clips)) as made:
        for i, features in enumerate(made):
            (heldout if i % HELDOUT_EVERY == 1 else used).add(features)
    book = kmeans.fit(used.frames, k, seed=seed)
    inertia = book.inertia(used.frames)
    heldout_inertia = book.inertia(heldout.frames) if heldout.seen else None
    apart = (
        "nothing held out" if heldout_inertia is None else f"{heldout_inertia:.6g} on {len(heldout.frames)} held out"
    )
    spec = save_tokenizer(
        out,
        name=Path(out).name,
        encoder_config=json.loads((folder / "encoder.json").read_text()),
        encoder_weights=(folder / "encoder.safetensors").read_bytes(),
        layer=layer,
        codebook=book,
        normalize_input=False,
        sample_rate=RATE,
        hop=model.hop,
        card=f"Encoder {folder.name}, layer {layer}, {k} centroids fitted on {len(used.frames)} frames of {used.seen}, "
        f"seed {seed}. Mean squared distance from the nearest: {inertia:.6g}, {apart}.\n",
    )
    return Fitted(
        spec=spec,
        n_frames=used.seen + heldout.seen,
        n_used=len(used.frames),
        inertia=inertia,
        heldout_inertia=heldout_inertia,
    )


def fit_vocoder(
    speech: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    speaker: str | None,
    updates: int,
    seed: int,
    like: str = "mini-25hz-500",
    progress: bool = False,
) -> Vocoder:
    """Train a vocoder of one voice for a tokenizer's units, write it to `out/vocoder` and return it.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        tokenizer: name or folder.
        out: folder of the run; a rerun goes on from its last checkpoint.
        speaker: whose clips; None when there is only one.
        updates: generator updates; the critics join for the second half.
        seed: of the weights and of the crops.
        like: the vocoder (name or folder) whose shape is taken.
        progress: show bars.

    Raises:
        BadInput: no such speaker, or several and none was named.
    """
    tok = SpeechTokenizer.load(tokenizer)
    voices = sorted({e.speaker for e in build(speech) if e.split == "train"})
    if speaker is None and len(voices) > 1:
        raise BadInput(
            f"{speech} has {len(voices)} speakers and a vocoder has one voice: name one of {', '.join(voices)}."
        )
    if speaker is not None and speaker not in voices:
        raise BadInput(f"{speech} has no clips of {speaker!r} to train on; there are: {', '.join(voices)}.")
    folder = Path(like) if Path(like).is_dir() else bundled(f"vocoder/{like}")
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} is not a vocoder: it has no config.json.")
    shape = HiFiGANConfig.from_json((folder / "config.json").read_text())
    config = VocoderConfig(
        model=dataclasses.replace(shape, num_embeddings=tok.spec.n_units),
        updates=updates,
        adversarial_from=updates // 2,
        seed=seed,
    )
    pairs: list[tuple[Units, NDArray[np.float32]]] = [
        (tok(clip), clip.samples)
        for entry, clip in _clips(speech, progress=progress)
        if speaker in (None, entry.speaker)
    ]
    vocoder = train_vocoder(pairs, tok.spec, config, out, progress=progress)
    vocoder.save(Path(out) / "vocoder")
    return vocoder


def take_units(
    source: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    split: str,
    heldout: float,
    durations: Literal["given", "unknown"],
    seed: int,
    progress: bool = False,
) -> tuple[Imported, UnitSpec]:
    """Store published units as shards over the units of `tokenizer`; return what was done, and what the units are.

    Args:
        source, out, split, heldout, durations, seed, progress: as for `corpus.slamkit.import_units`.
        tokenizer: name or folder of the tokenizer that cut them, or a file like its `spec.json`; it is not loaded.

    Raises:
        As `import_units` and `units.tokenizer.read_spec`.
    """
    spec = read_spec(tokenizer)
    report = import_units(
        source, out, spec, split=split, heldout=heldout, durations=durations, seed=seed, progress=progress
    )
    return report, spec


def _clips(speech: str | Path, *, progress: bool) -> Iterator[tuple[Entry, Clip]]:
    """Yield the clips that training may see."""
    entries = [entry for entry in build(speech) if entry.split == "train"]
    with Sounds() as sounds:
        for entry in track(entries, description="reading the speech", enabled=progress):
            yield entry, sounds.fetch(entry).clip(sample_rate=RATE)
