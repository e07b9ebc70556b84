"""Make a vocoder of ours of one that others published."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from twistlm.errors import ArtifactError, BadInput
from twistlm.files import artifacts
from twistlm.files.named import ARTIFACTS
from twistlm.types import UnitSpec
from twistlm.units.catalogue import read_spec
from twistlm.vocoder.catalogue import imported_folder
from twistlm.vocoder.published import Taken, named_voices, names_of, read_published
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voices


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a published vocoder beside its files (`files.named.ARTIFACTS`).

    Attributes:
        tokenizer: whose units it speaks, by the published name; "" where that has to be said.
        voices: of `named_voices`; "" where its files name them, or there is one.
    """

    tokenizer: str = ""
    voices: str = ""


_KM1000 = "mhubert-base-vp_en_es_fr-layer-11-kmeans-1000"
PUBLISHED = {
    **{
        f"{tokenizer}-hifigan": Published(tokenizer=tokenizer)
        for tokenizer in (
            "mhubert-base-25hz-kmeans-500", "hubert-base-ls960-layer-9-kmeans-500",
            "hubert-base-ls960-layer-9-kmeans-expresso-2000", "mhubert-base-vp_mls_cv_8lang-kmeans-2000",
            "mhubert-base-vp_mls_cv_8lang-kmeans-expresso-2000",
        )
    },
    "hubert-base-ls960-kmeans-100-hifigan-lj": Published(tokenizer="hubert-base-ls960-kmeans-100"),
    **{f"{_KM1000}-hifigan-{voice}": Published(tokenizer=_KM1000) for voice in ("lj", "es_css10", "fr_css10")},
    "seamless-m4t-v1-vocoder": Published(voices="seamless-m4t-v1"),
    "seamless-m4t-v2-vocoder": Published(voices="seamless-m4t-v2"),
    "unit-hifigan-hubert-phoneme": Published(),
    "speechbrain-hubert-l6-k100-ljspeech": Published(),
}  # fmt: skip


def take_vocoder(
    source: str,
    out: str | Path | None,
    *,
    tokenizer: str | Path | None,
    config: str | Path | None = None,
    speakers: str | Path | None = None,
    styles: str | Path | None = None,
    voices: str | None = None,
) -> tuple[Vocoder, Taken, str]:
    """Write a published vocoder as a folder of ours; return it, what was read, and its licence.

    Args:
        source: a name of `PUBLISHED` (it is fetched), the folder of its files, or its file of weights.
        out: the folder; one that is there is not touched. None, of a published name: the cache, where `Vocoder.load`
            finds it by that name.
        tokenizer: name or folder of the tokenizer whose units it speaks, or a file like its `spec.json`. Its files do
            not say, so it is believed. None for that of a published name.
        config: its config, where that does not lie beside the weights.
        speakers, styles: text files with the names of its rows, one a line; None: those beside the weights.
        voices: a name of `named_voices`, whose files name none.

    Raises:
        BadInput: the folder is there; nothing says which units; the units do not fit; a kind that cannot be spoken; or
            `source` is a vocoder of ours, which says what it speaks.
        ArtifactError: it could not be fetched, or is damaged.
    """
    known = PUBLISHED.get(source) if not Path(source).exists() else None
    if known is None and not Path(source).exists():
        raise BadInput(
            f"{source!r} is neither a file nor a folder, nor a published vocoder. Published: {', '.join(PUBLISHED)}."
        )
    if out is None and known is None:
        raise BadInput(f"{source} is no published name: say with --out where the vocoder should lie.")
    out = imported_folder(source) if out is None else Path(out)
    if out.exists():
        raise BadInput(f"{out} is there already. Choose another folder, or remove it.")
    if tokenizer is None and not (known and known.tokenizer):
        raise BadInput(
            f"nothing says whose units {source} speaks: name the tokenizer with --tokenizer (a name, a folder, or a "
            "file like its spec.json)."
        )
    folder = artifacts.resolve(source) if known else Path(source)
    if (home := folder if folder.is_dir() else folder.parent).joinpath("unit_spec.json").is_file():
        raise BadInput(
            f"{home} is a vocoder of twistlm already, which says itself whose units and which voices it speaks: name "
            "it with --vocoder, or copy the folder."
        )
    licence = ARTIFACTS[source].licence if known else "as its publisher says"
    taken = read_published(folder, config=config)
    named = _named(taken, speakers, styles, voices or (known.voices if known else ""))
    spec = _fitting(read_spec(tokenizer or (known.tokenizer if known else "")), taken, source)
    with torch.random.fork_rng(devices=[]):
        synthesizer = Synthesizer(taken.shape).fold().eval()
    try:
        synthesizer.take(taken.weights)
    except RuntimeError as error:
        raise ArtifactError(f"the weights of {source} do not fit its config: {error}") from error
    made = Vocoder(synthesizer, spec, name=source, voices=named)
    made.save(out, card=_card(source, taken, licence), half=False)
    return Vocoder.load(out), taken, licence


def _named(taken: Taken, speakers: str | Path | None, styles: str | Path | None, known: str) -> Voices:
    named = taken.voices
    if known:
        listed = named_voices(known)
        languages = named.languages or listed.languages  # what lies beside the weights goes first
        of_language = {name: spoken for name, spoken in listed.of_language.items() if name in languages}
        named = dataclasses.replace(listed, languages=languages, of_language=of_language)
    if speakers is not None:
        named = dataclasses.replace(named, speakers=names_of(speakers, taken.shape.num_speakers))
    if styles is not None:
        named = dataclasses.replace(named, styles=names_of(styles, taken.shape.num_styles))
    return named


def _fitting(spec: UnitSpec, taken: Taken, source: str) -> UnitSpec:
    shape = taken.shape
    found, wanted = (shape.sampling_rate, shape.hop, shape.num_embeddings), (spec.sample_rate, spec.hop, spec.n_units)
    if found != wanted:
        raise BadInput(
            f"{source} is another's: it makes {shape.hop} samples a frame at {shape.sampling_rate} Hz from "
            f"{shape.num_embeddings} units, and the tokenizer's are {spec.hop}, {spec.sample_rate} and {spec.n_units}."
        )
    return spec


def _card(source: str, taken: Taken, licence: str) -> str:
    notes = "".join(f"- {note}\n" for note in taken.notes)
    return (
        f"# {Path(source).name}\n\nTaken over from {source} (layout {taken.layout}).\n\n- Licence: {licence}.\n{notes}"
    )
