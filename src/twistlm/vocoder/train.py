"""Train a unit vocoder from (units, waveform) pairs of one voice or several, on a CPU if need be.

Two phases. First only spectral distances (see `mel.py`), which reach intelligible speech in minutes. Then, from
`adversarial_from` on, small critics as well (see `discriminator.py`), which remove the buzz. The duration predictor is
fitted at the end; it takes seconds.

Every update is a function of (config, data, update number) alone, so a run that was killed goes on exactly as if it had
not been.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twistlm.compute.devices import full_float32
from twistlm.compute.interrupts import Interrupts, stopped
from twistlm.errors import BadInput, TrainingError
from twistlm.files.locks import held
from twistlm.files.metrics import MetricsLog
from twistlm.files.replacing import require_no_lm_run, require_replaceable
from twistlm.progress import track
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.crops import TRIM, Batch, Crops, heldout_distance
from twistlm.vocoder.discriminator import critics_loss, generator_losses
from twistlm.vocoder.duration_fitting import fit_durations
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.ranks import mean, mean_gradients, place
from twistlm.vocoder.training_state import LAYOUT, State, VocoderConfig
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice, Voices

Pair = tuple[Units, NDArray[np.float32]]


def with_voices(shape: InputShape, voices: Sequence[Voice]) -> tuple[InputShape, Voices]:
    """Return a shape with tables for the speakers, styles and languages that are named, and their rows.

    A table is made where more than one name is given; its rows are the sorted names. Clips that are alike in one of the
    three need none for it.

    Raises:
        BadInput: some clips name a speaker (style, language) and others none.
    """
    rows: dict[str, dict[str, int]] = {}
    for kind in ("language", "speaker", "style"):
        given = {getattr(voice, kind) for voice in voices}
        if None in given and len(given) > 1:
            raise BadInput(f"vocoder training: some clips name their {kind} and some do not.")
        rows[kind] = {name: row for row, name in enumerate(sorted(given))} if len(given) > 1 else {}
    made = dataclasses.replace(
        shape,
        # The new tables are as wide as that of the units, as in the published family.
        model_in_dim=shape.embedding_dim * (1 + sum(map(bool, rows.values()))),
        language_dim=0,
        speaker_dim=0,
        style_dim=0,
        num_languages=len(rows["language"]),
        num_speakers=len(rows["speaker"]),
        num_styles=len(rows["style"]),
    )
    return made, Voices(languages=rows["language"], speakers=rows["speaker"], styles=rows["style"])


def _sha256(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_vocoder(
    pairs: Iterable[Pair],
    spec: UnitSpec,
    config: VocoderConfig,
    out: str | Path,
    *,
    heldout: Iterable[Pair] = (),
    voices: Sequence[Voice] | None = None,
    heldout_voices: Sequence[Voice] | None = None,
    start: dict[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    stop_after: int | None = None,
) -> Vocoder:
    """Train a vocoder and return it; its `save(folder)` writes it.

    `out` gets `metrics.jsonl` (a line every `log_every` updates) and `checkpoint/`. A rerun goes on from the
    checkpoint, and gives bit for bit what an uninterrupted run gives: on a CPU with the same number of threads, alone
    and on two ranks (more add up in an order that may change). On another number of ranks it is the same batches, up to
    rounding. Ranks are those of a process group that the caller has joined; the first alone writes.

    Args:
        pairs: units with their waveform, float32 [N] in -1 … 1 at the spec's rate.
        spec: of the units; the generator's hop and sampling rate must be the spec's.
        config: see `VocoderConfig`.
        out: folder of the run.
        heldout: pairs never trained on; their spectral distance is logged at every checkpoint.
        voices, heldout_voices: whose voice each pair is, where `config.model` has tables of voices (`with_voices`).
        device: what this rank computes on.
        start: weights (folded, as a `Vocoder` has them) to begin with instead of random ones. Only the embeddings
            depend on the tokenizer, so a generator that learnt a voice from other units goes on quickly with these.
        progress: show a bar.
        stop_after: stop, with a checkpoint, after this update as if interrupted; the vocoder so far is returned.

    Raises:
        BadInput: spec, units, waveforms and config do not fit together.
        CheckpointError: `out` holds a run of another config or other data; BadInput: one of another kind.
        Stopped: a signal ended the run; its state is saved.
        TrainingError: no data, or a loss that is not finite.
        TwistError: another process is training in `out`.
    """
    model = config.model
    if (model.hop, model.sampling_rate, model.num_embeddings) != (spec.hop, spec.sample_rate, spec.n_units):
        raise BadInput(
            f"the generator makes {model.hop} samples a frame at {model.sampling_rate} Hz from {model.num_embeddings} "
            f"units; the units have {spec.hop} at {spec.sample_rate} Hz and {spec.n_units}. Change the config."
        )
    if config.rows % place()[1]:
        raise BadInput(f"{place()[1]} ranks cannot share {config.rows} crops evenly: use a number that divides them.")
    shape, named = with_voices(model, voices) if voices else (model, Voices())
    if shape.tables != model.tables:
        raise BadInput(
            f"the generator's config has tables of {_told(model)}, and the clips' voices need {_told(shape)}: make the "
            "config with `with_voices`."
        )
    crops = Crops(pairs, spec, _rows(model, named, voices))
    heldout = list(heldout)
    held_crops = Crops(heldout, spec, _rows(model, named, heldout_voices)) if heldout else None
    rank, ranks = place()
    with held(Path(out), "training") if rank == 0 else nullcontext():
        with Interrupts(again=ranks > 1) as interrupts:
            state = _train(
                crops,
                held_crops,
                spec,
                config,
                Path(out),
                start,
                torch.device(device),
                progress,
                stop_after,
                interrupts,
            )
        synthesizer = state.averaged().cpu()  # a signal from here on ends it at once: a rerun begins here
        fit_durations(synthesizer, crops.units, updates=config.duration_updates, seed=config.seed)
        synthesizer = synthesizer.fold().eval()
    return Vocoder(synthesizer, spec, name=str(out), voices=named)


def _told(shape: InputShape) -> str:
    return ", ".join(f"{table.rows} {table.kind}s" for table in shape.tables) or "no voices"


def _rows(shape: InputShape, named: Voices, voices: Sequence[Voice] | None) -> list[list[int]] | None:
    if not shape.tables:
        return None
    return [
        [named.row(table.kind, voice, rows=table.rows, whose="the vocoder to be trained") for table in shape.tables]
        for voice in voices or ()
    ]


def _train(
    crops: Crops, held_crops: Crops | None, spec: UnitSpec, config: VocoderConfig, out: Path,
    start: dict[str, Tensor] | None, device: torch.device, progress: bool, stop_after: int | None,
    interrupts: Interrupts,
) -> State:  # fmt: skip
    rank, ranks = place()
    identity = {**dataclasses.asdict(config), "layout": LAYOUT, "unit_spec": spec.fingerprint, "data": crops.sha256}
    identity = json.loads(json.dumps(identity))
    state = State(config, device)
    if start is not None:
        identity["start"] = _sha256(start)
        state.begin_with(start)
    require_no_lm_run(out)
    require_replaceable(out / "checkpoint", what="a checkpoint of a vocoder", mark="state.safetensors")
    if (out / "checkpoint").exists():
        state.load(out / "checkpoint", identity)
    log = MetricsLog(out / "metrics.jsonl", keep=state.update or None, every=False, write=rank == 0)
    spectral = SpectralLoss(config.model.sampling_rate).to(device)
    began = time.monotonic()
    last = config.updates if stop_after is None else min(stop_after, config.updates)
    for update in track(range(state.update, last), description="vocoder", enabled=progress and rank == 0):
        batch = crops.batch(
            update, rows=config.rows, frames=config.frames, seed=config.seed, rank=rank, ranks=ranks
        ).to(device)
        losses = _step(state, spectral, batch, config)
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"vocoder training: {', '.join(bad)} not finite at update {update}; lower lr ({config.lr})."
            )
        state.update = update + 1
        signalled = interrupts.agreed()
        whole = state.update == last or state.update % config.checkpoint_every == 0
        if rank == 0 and (whole or state.update % config.log_every == 0):
            line = {"update": state.update, "seconds": round(time.monotonic() - began, 1), **losses}
            if whole and held_crops is not None:
                line["heldout_mel"] = heldout_distance(state.averaged(), held_crops, spectral)
            log.append(line)
        if rank == 0 and (whole or signalled):
            log.sync()
            state.save(out / "checkpoint", identity)
        if signalled:
            raise stopped(signalled, state.update, last, out / "checkpoint")
    return state


def training_step(config: VocoderConfig) -> Callable[[Batch], dict[str, float]]:
    """A function that does update after update on fresh weights and keeps nothing: for timing."""
    state, spectral = State(config, torch.device("cpu")), SpectralLoss(config.model.sampling_rate)
    return lambda batch: _step(state, spectral, batch, config)


def _step(state: State, spectral: SpectralLoss, batch: Batch, config: VocoderConfig) -> dict[str, float]:
    """One update of the generator and, in the second phase, of the critics. Returns the losses, for the log."""
    with full_float32():
        losses = _updated(state, spectral, batch, config)
    values = mean(torch.stack([value.detach().float() for value in losses.values()])).tolist()  # one wait for all
    return {name: round(value, 5) for name, value in zip(losses, values, strict=True)}


def _updated(state: State, spectral: SpectralLoss, batch: Batch, config: VocoderConfig) -> dict[str, Tensor]:
    true = batch.samples
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate(state.update)
    spoken = state.synthesizer(batch.units, batch.voice, trim=TRIM)
    mel, convergence = spectral(spoken, true)
    losses = {"mel": mel, "convergence": convergence}
    loss = mel + convergence
    if state.update >= config.adversarial_from:
        # One pass over true and spoken waveforms together keeps the convolutions large.
        judged = _split(state.critics(torch.cat((true, spoken.detach()))))
        losses["critics"] = critics_loss(*judged)
        state.critics_optimizer.zero_grad(set_to_none=True)
        losses["critics"].backward()
        mean_gradients(state.critics.parameters())
        state.critics_optimizer.step()
        state.critics.requires_grad_(False)
        with torch.no_grad():
            judged_true = state.critics(true)
        adversarial, matching = generator_losses(judged_true, state.critics(spoken))
        state.critics.requires_grad_(True)
        losses |= {"adversarial": adversarial, "matching": matching}
        loss = config.mel_weight * loss + adversarial + config.matching_weight * matching
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    mean_gradients(state.synthesizer.parameters())
    losses["gradient"] = nn.utils.clip_grad_norm_(state.synthesizer.parameters(), 100.0)
    state.optimizer.step()
    state.follow(config.average)
    return losses


def _split(judged: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    halves = [[layer.chunk(2) for layer in judgement] for judgement in judged]
    return [[t for t, _ in j] for j in halves], [[s for _, s in j] for j in halves]
