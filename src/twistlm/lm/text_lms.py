"""Text LMs by name: an artifact, a folder, a run, or a model of the Hugging Face hub (`OWNER/NAME[@REVISION]`)."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

from twistlm.errors import ArtifactError, BadInput
from twistlm.files import artifacts, named, sources
from twistlm.lm.phases import weights_folder
from twistlm.lm.shapes import PUBLISHED

Prefer = Literal["registry", "hub", "auto"]
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def text_lm_folder(text_lm: str | Path, *, prefer: Prefer = "registry", weights: bool = True) -> Path:
    """Return the folder of a text LM, fetched into the cache where it has to be.

    Args:
        text_lm: the name of an artifact ("smollm2-135m") or of one of the paper's ("opt-125m"), a folder of
            transformers, the folder of a run (its `lm/` is meant), or a model of the hub. Without a revision the newest
            is taken when it is first fetched, and kept; its commit is in `artifacts.provenance`.
        prefer: which source a named artifact comes from first; see `artifacts.resolve`.
        weights: of a model of the hub, fetch them too; else its configuration is enough.

    Raises:
        BadInput: it is none of these.
        ArtifactError: it could not be had: no network, no such model or revision, or one that asks for a login.
    """
    name = str(text_lm)
    folder = Path(text_lm)
    inside = weights_folder(folder) if folder.is_dir() else _bundled(name)
    if inside is not None and (inside / "lowrank.json").is_file():
        raise BadInput(
            f"{name} is a unit LM that is kept as its difference from a text LM, and training begins from whole ones. "
            f'Make it whole first: python -c "from twistlm.lm.folders import load_model; '
            f"load_model('{name}').save('whole')\", and give whole."
        )
    if inside is not None and folder.is_dir():
        return inside
    known = [name for name, artifact in named.ARTIFACTS.items() if artifact.kind == "text-lm"]
    if name in known:
        return artifacts.resolve(name, prefer=prefer)
    if found := _HUB.fullmatch(PUBLISHED.get(name, name)):
        repo, revision = found.groups()
        whole = sources.hub_text_lm(repo, revision, weights=True)
        try:
            if not weights and not artifacts.is_cached(whole):
                return artifacts.resolve(sources.hub_text_lm(repo, revision, weights=False))
            return artifacts.resolve(whole)
        except ArtifactError as error:
            raise ArtifactError(
                f"{name!r} is no folder here, and as a model of the Hugging Face hub it could not be had: {error} Or "
                "download it where the hub can be reached (hf download), and give its folder."
            ) from error
    if name in PUBLISHED:
        raise BadInput(
            f"the weights of {name} are not on the hub under a known name: get {PUBLISHED[name]} as a transformers "
            "folder and give that. A cold start or a plan needs no weights."
        )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise BadInput(
        f"{name!r} is neither a folder nor a known text LM ({', '.join(known)}), nor a model of the hub "
        f"(OWNER/NAME).{hint}"
    )


def _bundled(name: str) -> Path | None:
    """The folder of a bundled model; None where none are there, as before the assets are made."""
    try:
        return artifacts.bundled("lm") / name
    except ArtifactError:
        return None
