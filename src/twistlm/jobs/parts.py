"""Which tokenizer and vocoder a model needs: found by its UnitSpec, so that nobody has to name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twistlm.corpus.shards import read_spec as spec_of_shard
from twistlm.corpus.shards import shard_paths
from twistlm.errors import BadInput, TwistError
from twistlm.files.jsonl import read_json
from twistlm.files.known import Known, known
from twistlm.files.named import DEFAULT_TOKENIZER
from twistlm.lm.folders import lm_folder, model_spec, run_folder
from twistlm.types import UnitSpec
from twistlm.units import catalogue as tokenizers
from twistlm.vocoder import catalogue as vocoders


@dataclass(frozen=True)
class Parts:
    """What goes with units of one spec.

    Attributes:
        spec: what the units are.
        tokenizer, vocoder: which are taken; None where none was asked for.
    """

    spec: UnitSpec
    tokenizer: Known | None = None
    vocoder: Known | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The parts as `--json` tells them: each with its name, its folder and how it was found."""
        both = {"tokenizer": self.tokenizer, "vocoder": self.vocoder}
        return {kind: part.facts for kind, part in both.items() if part is not None}

    def __str__(self) -> str:
        both = {"tokenizer": self.tokenizer, "vocoder": self.vocoder}
        return ", ".join(f"{kind} {part}" for kind, part in both.items() if part is not None)


def tokenizer_for(
    spec: UnitSpec,
    *,
    whose: str,
    given: str | Path | None = None,
    search: Sequence[str | Path] = (),
    named: str | Path | None = None,
) -> Known:
    """Return the tokenizer that makes units of `spec`.

    Args:
        spec: what the units are.
        whose: whose they are, in words.
        given: the name or folder that a flag overrides the search with; it must be of these units.
        search, named: as of `tokenizer_of`.

    Raises:
        BadInput: none is here; says what would do. UnitSpecMismatch: the given one makes other units.
        ArtifactError: a published one could not be fetched.
    """
    if given is not None:
        spec.require(tokenizers.read_spec(given), mine=whose, theirs=f"the tokenizer {given}")
        return Known(str(given), tokenizers.tokenizer_folder(given), "given")
    found = tokenizers.tokenizer_of(spec, search=search, named=named)
    if found is None:
        raise BadInput(
            f"no tokenizer here makes the units of {whose}: {_told(spec)}. {_looked('tokenizer', search)} Give "
            "--tokenizer with its folder, or --search with a folder above it."
        )
    return found


def vocoder_for(
    spec: UnitSpec,
    *,
    whose: str,
    source: str,
    given: str | Path | None = None,
    search: Sequence[str | Path] = (),
    named: str | Path | None = None,
) -> Known:
    """Return a vocoder that speaks units of `spec`; `source` is the option with which `twist vocoder train` makes one.

    Other Args, Raises: as `tokenizer_for`.
    """
    if given is not None:
        spec.require(vocoders.read_spec(given), mine=whose, theirs=f"the vocoder {given}")
        return Known(str(given), vocoders.vocoder_folder(given), "given")
    found = vocoders.vocoder_of(spec, search=search, named=named)
    if found is None:
        raise BadInput(
            f"no vocoder here speaks the units of {whose}: {_told(spec)}. {_looked('vocoder', search)} Give --vocoder "
            "with its folder, or --search with a folder above it; or make one: "
            f"twist vocoder train SPEECH {source} --out RUN --updates N."
        )
    return found


def parts_of_model(
    model: str | Path,
    *,
    tokenizer: str | Path | None = None,
    vocoder: str | Path | None = None,
    speaks: bool,
    search: Sequence[str | Path] = (),
) -> Parts:
    """Return what a model hears with and, if it `speaks`, what it speaks with.

    Raises:
        CheckpointError: no model is there. Otherwise as `tokenizer_for`.
    """
    spec, whose, run = model_spec(model), f"the model {model}", named_by_run(model)
    # The vocoder first: it never has to be fetched, so what is missing is said at once.
    voc = None
    if speaks:
        source = f"--units-of {model}"
        voc = vocoder_for(spec, whose=whose, source=source, given=vocoder, search=search, named=run.get("vocoder"))
    tok = tokenizer_for(spec, whose=whose, given=tokenizer, search=search, named=run.get("tokenizer"))
    return Parts(spec, tok, voc)


def parts_without_model(
    *,
    tokenizer: str | Path | None,
    vocoder: str | Path | None,
    units_of: str | Path | None = None,
    search: Sequence[str | Path] = (),
) -> Parts:
    """Return tokenizer and vocoder for sound that belongs to no model.

    The units are those of `units_of` (a model, a run or a folder of units), else of the tokenizer, else of the vocoder,
    else of the default tokenizer.

    Raises:
        As `parts_of_model`.
    """
    if tokenizer is None and units_of is None and vocoder is not None:
        spec, whose = vocoders.read_spec(vocoder), f"the vocoder {vocoder}"
        tok = tokenizer_for(spec, whose=whose, search=search)
        return Parts(spec, tok, Known(str(vocoder), vocoders.vocoder_folder(vocoder), "given"))
    tok = tokenizer_without_model(tokenizer=tokenizer, units_of=units_of, search=search)
    whose, source = f"the tokenizer {tok.name}", f"--tokenizer {tok.name}"
    spec = tokenizers.read_spec(tok.folder)
    return Parts(spec, tok, vocoder_for(spec, whose=whose, source=source, given=vocoder, search=search))


def tokenizer_without_model(
    *, tokenizer: str | Path | None, units_of: str | Path | None, search: Sequence[str | Path] = ()
) -> Known:
    """Return the tokenizer of `units_of` (a model, a run or a folder of units), or the one given, or the default one.

    Raises:
        As `tokenizer_for`.
    """
    if units_of is not None:
        return tokenizer_for(spec_of(units_of), whose=f"{units_of}", given=tokenizer, search=search)
    place = "the default" if tokenizer is None else "given"
    return Known(
        str(tokenizer or DEFAULT_TOKENIZER), tokenizers.tokenizer_folder(tokenizer or DEFAULT_TOKENIZER), place
    )


def tokenizer_for_more(out: str | Path, *, tokenizer: str | Path | None, search: Sequence[str | Path] = ()) -> Known:
    """Return the tokenizer for clips that are to be added to `out`: the given one, else that of the units there.

    Raises:
        As `tokenizer_for`.
    """
    shards = shard_paths(out) if tokenizer is None else []
    if shards:
        return tokenizer_for(spec_of_shard(shards[0]), whose=f"the units in {out}", search=search)
    return tokenizer_without_model(tokenizer=tokenizer, units_of=None, search=search)


def tokenizers_of(fingerprints: Iterable[str], *, search: Sequence[str | Path] = ()) -> dict[str, str]:
    """Return, for each UnitSpec's fingerprint, the tokenizer here that makes such units; "" where none does."""
    found = {spec.fingerprint: one.name for one, spec in tokenizers.tokenizers(search=search)}
    return {fingerprint: found.get(fingerprint, "") for fingerprint in sorted(set(fingerprints))}


def spec_of(folder: str | Path) -> UnitSpec:
    """Return what the units of a folder are: of a model or run, of units, of a tokenizer or vocoder.

    Raises:
        BadInput: it says nothing of units.
    """
    folder = Path(folder)
    if shards := shard_paths(folder):
        return spec_of_shard(shards[0])
    if (folder / "spec.json").is_file():
        return tokenizers.read_spec(folder)
    if (lm_folder(folder) / "unit_spec.json").is_file():
        return model_spec(folder)
    raise BadInput(f"{folder} does not say what its units are: it is no model, run, folder of units or tokenizer.")


def named_by_run(model: str | Path) -> dict[str, str]:
    """Return what the quickstart that a model belongs to names as its tokenizer and vocoder; nothing for others."""
    results = run_folder(model).absolute().parent / "results.json"
    try:
        shape = {"config": {"tokenizer": str, "vocoder": str}}
        return read_json(results, "the results of a quickstart", shape=shape)["config"]
    except TwistError:  # only a hint: what is found is held against the spec
        return {}


def _told(spec: UnitSpec) -> str:
    return f"{spec.n_units} units of {spec.encoder} at {float(spec.frame_rate):g} Hz, spec {spec.fingerprint}"


def _looked(kind: Any, search: Sequence[str | Path]) -> str:
    places = [one.name for one in known(kind) if one.place == "bundled"]
    below = f", below {', '.join(map(str, search))}" if search else ""
    return f"Bundled here: {', '.join(places)}; looked in the cache{below} too."
