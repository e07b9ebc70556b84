"""Folders of runs and text LMs on disk: where in them the weights lie, and what makes them what they are."""

from __future__ import annotations

from pathlib import Path

from twistlm.errors import BadInput
from twistlm.files.regular import file_sha256


def weights_folder(folder: str | Path) -> Path:
    """Return where the weights of a model lie: a run's folder stands for its `lm/`, the last it went on to (`phases`).

    Raises:
        BadInput: the folder is that of a whole quickstart, which has two models.
    """
    folder = Path(folder)
    if not (folder / "lm").is_dir() and (
        both := [folder / s for s in ("warm", "cold") if (folder / s / "lm").is_dir()]
    ):
        raise BadInput(f"{folder} is a whole quickstart: name one of its models, {' or '.join(map(str, both))}.")
    return phases(folder)[-1] / "lm" if (folder / "lm").is_dir() else folder


def phases(run: str | Path) -> list[Path]:
    """Return the folders of a run and of what it went on to by `twist train --more` (`more-1`, …), finished ones alone.

    The run's own is the first in any case.
    """
    found = [Path(run)]
    while ((more := Path(run) / f"more-{len(found)}") / "result.json").is_file():
        found.append(more)
    return found


def text_lm_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file that makes a text LM what it is: its configuration and its weights."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    files = [folder / "config.json", *weights]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def text_lm_weights(folder: Path) -> dict[str, str]:
    """Return the sha256 of each of those files that hold weights."""
    return {name: sha256 for name, sha256 in text_lm_files(folder).items() if name != "config.json"}
