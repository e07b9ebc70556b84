"""Fit a codebook on a layer of an encoder: a tokenizer of one's own."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.compute.devices import device
from twistlm.compute.threads import in_order
from twistlm.errors import AudioError, BadInput
from twistlm.files.artifacts import bundled
from twistlm.files.jsonl import read_json
from twistlm.files.regular import read_regular
from twistlm.files.replacing import require_replaceable
from twistlm.jobs.speech import RATE, clips_of
from twistlm.types import UnitSpec
from twistlm.units import kmeans
from twistlm.units.encoder import Encoder, SSLEncoder, on
from twistlm.units.folder import save_tokenizer
from twistlm.units.importing import encoder_files
from twistlm.units.pretrained import pretrained

HELDOUT_EVERY = 20  # one clip in so many judges a codebook instead of making it


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What `fit_codebook` made.

    Attributes:
        spec: of the tokenizer.
        n_frames, n_used: frames of the speech, and how many of them the centroids were fitted on.
        n_heard: units that are nearest to at least one of these; the others are dead.
        inertia: mean squared distance of those frames from their centroids.
        heldout_inertia: the same over frames of clips that were held out; None where there was only one clip.
    """

    spec: UnitSpec
    n_frames: int
    n_used: int
    n_heard: int
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
    normalize_input: bool = False,
    padding: int = 0,
    max_frames: int = 500_000,
    progress: bool = False,
) -> Fitted:
    """Fit K centroids on a layer of an encoder and write a whole tokenizer to `out`.

    The speech is read once, and every frame of it has the same chance to be among those that are kept: memory holds
    these and a few clips, however many hours there are. Clips are encoded one a core, or on the GPU where there is
    one; k-means itself is scikit-learn's, on CPUs.

    Args:
        speech: folder of sound files or with a manifest; its split "train" is used.
        encoder: folder with encoder.json and encoder.safetensors, or a bundled encoder's name; or one of others, as
            `units.pretrained.pretrained` takes it: a transformers folder, a fairseq checkpoint, a hub id.
        out: the tokenizer's folder; an earlier tokenizer there is replaced.
        layer: 1-based block whose output is clustered.
        k: units.
        hop: samples between two frames, see `SSLEncoder.load`; None takes the encoder's own.
        seed: of the clustering, and of the choice of frames. Held out is one clip in HELDOUT_EVERY, from the second on.
        normalize_input, padding: as in UnitSpec.
        max_frames: frames used at most, and a tenth as many to judge by.
        progress: show a bar.

    Raises:
        ArtifactError: no such encoder. AudioError: an unusable file. BadInput: fewer frames than units, features that
            are not finite, a hop that the encoder cannot have, something else than a tokenizer in `out`.
    """
    require_replaceable(out, what="a tokenizer", mark="spec.json", inputs=(speech, encoder))
    model, fields, weights = _encoder(encoder, layer=layer, hop=hop, normalize_input=normalize_input)
    if model.n_frames(2 * padding):
        raise BadInput(f"{padding} samples of padding on each side make a frame without any sound: less is needed.")
    model = on(model, device())
    used = kmeans.Sample(max_frames, model.dim, seed=seed)
    heldout = kmeans.Sample(max(1, max_frames // 10), model.dim, seed=seed)
    clips = (clip for _, clip in clips_of(speech, progress=progress))

    def hear(clip: Clip) -> NDArray[np.float32]:
        try:
            features = model(np.pad(clip.samples, padding))
        except AudioError as error:
            raise AudioError(f"clip {clip.id!r}: {error} Leave it out.") from error
        if not np.isfinite(features).all():
            raise BadInput(f"clip {clip.id!r}: its features behind layer {layer} of {encoder} are NaN or infinite.")
        return features

    with closing(in_order(hear, clips)) as made:
        for i, features in enumerate(made):
            (heldout if i % HELDOUT_EVERY == 1 else used).add(features)
    book = kmeans.fit(used.frames, k, seed=seed)
    n_heard = len(np.unique(book.assign(used.frames)))
    inertia = book.inertia(used.frames)
    heldout_inertia = book.inertia(heldout.frames) if heldout.seen else None
    apart = (
        "nothing held out" if heldout_inertia is None else f"{heldout_inertia:.6g} on {len(heldout.frames)} held out"
    )
    spec = save_tokenizer(
        out,
        name=Path(out).name,
        encoder_config=fields,
        encoder_weights=weights,
        layer=layer,
        codebook=book,
        normalize_input=normalize_input,
        sample_rate=RATE,
        hop=model.hop,
        padding=padding,
        card=f"Encoder {Path(encoder).name}, layer {layer}, {k} centroids fitted on {len(used.frames)} frames of "
        f"{used.seen}, seed {seed}. Mean squared distance from the nearest: {inertia:.6g}, {apart}. "
        f"Units heard in these frames: {n_heard} of {k}.\n",
    )
    return Fitted(
        spec=spec,
        n_frames=used.seen + heldout.seen,
        n_used=len(used.frames),
        n_heard=n_heard,
        inertia=inertia,
        heldout_inertia=heldout_inertia,
    )


def _encoder(
    encoder: str | Path, *, layer: int, hop: int | None, normalize_input: bool
) -> tuple[Encoder, dict[str, Any], bytes]:
    """The encoder, and its configuration and weights as a tokenizer's folder holds them."""
    folder = Path(encoder)
    if (folder / "encoder" / "encoder.json").is_file():  # the run that made one
        folder = folder / "encoder"
    if (folder.is_dir() and not (folder / "config.json").is_file()) or not (folder.exists() or "/" in str(encoder)):
        found = folder if folder.is_dir() else bundled(f"encoder/{encoder}")
        ours = SSLEncoder.load(found, layer=layer, normalize_input=normalize_input, hop=hop)
        fields = read_json(found / "encoder.json", "the configuration of an encoder")
        return ours, fields, read_regular(found / "encoder.safetensors", "the weights of an encoder")
    model = pretrained(encoder, layer=layer, normalize_input=normalize_input)
    if hop is not None and hop != model.hop:
        if not isinstance(model, SSLEncoder) or model.hop % hop:
            raise BadInput(f"{encoder} has a frame every {model.hop} samples, which is no multiple of {hop}.")
        model = dataclasses.replace(model, phases=model.hop // hop)
    fields, weights = encoder_files(model)
    return model, fields, weights
