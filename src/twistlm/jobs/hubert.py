"""Pretrain a HuBERT encoder on a folder of speech."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from twistlm.audio.clip import Clip
from twistlm.compute.devices import device as device_of_rank
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.files.arrays import INDEX, ArrayWriter, open_arrays
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_json
from twistlm.files.locks import held
from twistlm.files.replacing import require_no_lm_run, require_replaceable
from twistlm.jobs.speech import RATE, clips_of
from twistlm.train.parallel import join
from twistlm.units import kmeans
from twistlm.units.crops import LabelledSpeech
from twistlm.units.encoder import frames_of
from twistlm.units.features import mfcc
from twistlm.units.kmeans import Sample
from twistlm.units.masked_prediction import FRONT_ENDS, HubertPretrainConfig, MaskedUnitPredictor
from twistlm.units.pretrain import pretrain
from twistlm.units.tokenizer import SpeechTokenizer

# "mini" is the bundled encoder's shape (with the front end "filterbank" at 25 Hz). "base" and "large" are those of
# Hsu et al. 2021, table I, with its learning rates, its seconds of speech an update over all ranks (2,800 on 32 GPUs,
# 7,200 on 128) and its masks, loss on masked frames alone; it trained 250,000 to 400,000 updates. Only "mini" has been
# trained here. A batch of base at once would need 118 GB.
_HUBERT: dict[str, Any] = {
    "front_end": "waveform",
    "mask_start": 0.08,
    "unmasked_weight": 0.0,
    "crop_seconds": 15.6,
    "augment": 0.0,
}
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"width": 256, "layers": 6, "heads": 4, "ffn": 1024, "crop_seconds": 4.0, "batch": 8, "lr": 1e-3},
    "base": {"width": 768, "layers": 12, "heads": 12, "ffn": 3072, "batch": 176, "lr": 5e-4, **_HUBERT},
    "large": {"width": 1024, "layers": 24, "heads": 16, "ffn": 4096, "batch": 464, "lr": 1.5e-3, **_HUBERT},
}
CROPS_AT_ONCE = 8
TARGETS = ".targets"  # of a run: the speech, and a unit for each of its frames
FIT_FRAMES = 4_000_000  # of MFCC that k-means is fitted to, 22 hours at 50 Hz and 0.6 GB; the paper took a tenth of 960
WARMUP = {"mini": 0.05, "base": 0.08, "large": 0.08}


def hubert_config(
    *,
    front_end: Literal["filterbank", "waveform"],
    frame_rate: int,
    n_targets: int,
    updates: int,
    seed: int,
    size: Literal["mini", "base", "large"] = "mini",
    bf16: bool | Literal["auto"] = False,
) -> HubertPretrainConfig:
    """Return the configuration of a run of one's own.

    Args:
        front_end: see `units.masked_prediction.FRONT_ENDS`; base and large have "waveform".
        frame_rate: 25 or 50 Hz.
        n_targets: units to predict.
        updates: how long.
        seed: of everything random.
        size: see SIZES.
        bf16: matrix products in bfloat16; "auto" where they are faster.

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
    parts = max(1, settings["batch"] // CROPS_AT_ONCE)
    return HubertPretrainConfig(
        frame_rate=frame_rate,
        conv_dim=channels[:n_convolutions],
        n_targets=(n_targets,),
        updates=updates,
        warmup=max(1, int(updates * WARMUP[size])),
        accumulate=parts,
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
    of its own where there are any. The first makes the targets, in `out/.targets`, and writes; all must see `out`.

    Args:
        speech: folder of sound files or with a manifest.
        out: folder of the run; the encoder goes to `out/encoder`, which `fit_codebook` takes.
        config: the run; a rerun goes on from its last checkpoint.
        teacher: `"mfcc"` for k-means over MFCC (a first iteration), or a tokenizer's name or folder, whose units of the
            same frame rate become the targets.
        on_log: called with the metrics of every 20th update.
        progress: show a bar while reading.

    Raises:
        BadInput: the teacher has another frame rate or number of units than `config`; or `out` holds another kind of
            run, or something else than an encoder of ours. AudioError: an unusable file.
        TwistError: another process is training in `out`.
    """
    out = Path(out)
    device = device_of_rank()
    with join(device) as ranks, held(out, "training") if ranks.first else nullcontext():
        if ranks.first:
            _require_own(out, (speech, teacher))
        with ranks.patient().first_goes_first():
            if ranks.first:
                _label(speech, config, teacher, out / TARGETS, device, progress=progress)
        labelled = _load_labelled(out / TARGETS, RATE // config.frame_rate)
        shape = {"samples": {"sha256": str}, "targets": {"sha256": str}}
        arrays = read_json(out / TARGETS / INDEX, "which arrays these are", shape=shape)
        made_of = {"speech": arrays["samples"]["sha256"], "targets": arrays["targets"]["sha256"]}
        model = pretrain(labelled, config, out, device=str(device), on_log=on_log, made_of=made_of, hold=False)
        if ranks.first:
            _save_encoder(model, config, out / "encoder")
    return out / "encoder"


def _require_own(out: Path, inputs: tuple[str | Path, ...]) -> None:
    """Raise `BadInput` where what a run replaces in `out` is not of a run like it."""
    require_no_lm_run(out)
    require_replaceable(out / TARGETS, what="the targets of a run", mark=INDEX, inputs=inputs)
    require_replaceable(out / "encoder", what="an encoder", mark="encoder.json", inputs=inputs)
    require_replaceable(out / "checkpoint", what="a checkpoint of twist hubert", mark="state.json", holds="n_targets")


def _label(
    speech: str | Path,
    config: HubertPretrainConfig,
    teacher: str,
    folder: Path,
    device: torch.device,
    *,
    progress: bool,
) -> None:
    """Write the speech, back to back as int16, and a target for each of its frames; one clip is in memory at once."""
    hop = RATE // config.frame_rate
    tok = None if teacher == "mfcc" else SpeechTokenizer.load(teacher).on(device)
    if tok is not None and (tok.spec.hop, tok.spec.n_units) != (hop, config.n_targets[0]):
        raise BadInput(
            f"the teacher {teacher} makes {tok.spec.n_units} units with a hop of {tok.spec.hop}; this run predicts "
            f"{config.n_targets[0]} with a hop of {hop}. "
            f"Use --k {tok.spec.n_units} --frame-rate {RATE // tok.spec.hop}."
        )

    def features_of(clip: Clip) -> NDArray[np.float32]:
        n = frames_of(len(clip.samples), *FRONT_ENDS[config.front_end, config.frame_rate])
        if n < 1:
            raise AudioError(f"{clip.id}: {clip.seconds:g} s are too short for a frame. Leave it out.")
        return mfcc(clip.samples, n, hop=hop)

    if tok is None:
        heard = (features_of(clip) for _, clip in clips_of(speech, progress=progress))
        codebook = kmeans.fit(_some(heard, config.seed), config.n_targets[0], seed=config.seed)
    with atomic_folder(folder) as temporary, ArrayWriter(temporary) as arrays:
        for _, clip in clips_of(speech, progress=progress):
            frames = codebook.assign(features_of(clip)) if tok is None else tok.frames(clip)
            padded = np.pad(clip.samples, (0, -len(clip.samples) % hop))
            unknown = len(padded) // hop - len(frames)
            arrays.append("samples", np.round(np.clip(padded, -1, 1) * 32767).astype(np.int16))
            arrays.append("targets", np.pad(frames.astype(np.int32), (0, unknown), constant_values=-1))


def _some(features: Iterable[NDArray[np.float32]], seed: int) -> NDArray[np.float32]:
    """Return all frames, float32 [F, D], or a uniform sample of FIT_FRAMES of more."""
    sample: Sample | None = None
    for each in features:
        sample = sample or Sample(FIT_FRAMES, each.shape[1], seed=seed)
        sample.add(each)
    if sample is None:
        raise BadInput("there is no speech to train on: no clip of the split train.")
    return sample.frames


def _load_labelled(folder: Path, hop: int) -> LabelledSpeech:
    arrays = open_arrays(folder, ("samples", "targets"))
    samples, targets = arrays["samples"], np.array(arrays["targets"])
    return LabelledSpeech(samples, targets.reshape(-1, len(samples) // hop), hop)


def _save_encoder(model: MaskedUnitPredictor, config: HubertPretrainConfig, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "encoder.json").write_text(json.dumps(config.hubert().to_diff_dict(), indent=1, sort_keys=True))
        weights = {name: tensor.contiguous() for name, tensor in model.hubert.state_dict().items()}
        (temporary / "encoder.safetensors").write_bytes(save(weights))
