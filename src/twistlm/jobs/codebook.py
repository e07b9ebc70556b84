"""Fit a codebook on a layer of an encoder: a tokenizer of one's own."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from twistlm.compute.threads import in_order
from twistlm.files.artifacts import bundled
from twistlm.files.jsonl import read_json
from twistlm.jobs.speech import RATE, clips_of
from twistlm.types import UnitSpec
from twistlm.units import kmeans
from twistlm.units.encoder import SSLEncoder
from twistlm.units.folder import save_tokenizer

HELDOUT_EVERY = 20  # one clip in so many judges a codebook instead of making it


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
    clips = (clip.samples for _, clip in clips_of(speech, progress=progress))
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
        encoder_config=read_json(folder / "encoder.json", "the configuration of an encoder"),
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
