"""Folders that a command writes as a whole: only an earlier one of its own may be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twistlm.errors import BadInput


def require_replaceable(
    folder: str | Path, *, what: str, mark: str, inputs: Sequence[str | Path] = (), holds: str = ""
) -> None:
    """Do nothing where `folder` is missing, empty, or an earlier `what`; to be called before long work begins.

    Args:
        folder: what will be replaced.
        what: "a tokenizer", for the error.
        mark: a file by which one is known.
        inputs: folders and files that are read meanwhile; names that are no paths (of bundled things) do no harm.
        holds: a text in `mark` by which it is told from the same file of other things.

    Raises:
        BadInput: something else lies there, or an input does.
    """
    folder = Path(folder)
    if folder.exists() and folder.samefile(Path.cwd()):
        raise BadInput(f"{folder} is the folder that this runs in, which would be replaced as a whole. Name another.")
    for source in map(Path, inputs):
        if source.exists() and source.resolve().is_relative_to(folder.resolve()):
            raise BadInput(
                f"{folder} would be replaced as a whole, and {source} in it is what is read. Choose another folder."
            )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    known = (folder / mark).is_file() and holds in (folder / mark).read_text(errors="replace")
    if not known:
        raise BadInput(
            f"{folder} is there and is not {what} (which has a {mark}): it would be replaced as a whole. Choose "
            "another folder, or remove it."
        )


def require_no_lm_run(folder: str | Path) -> None:
    """Do nothing where `folder` is not that of a run of `twist train`: other trainings begin its metrics.jsonl anew.

    Raises:
        BadInput: it is.
    """
    record = Path(folder) / "config.json"
    if record.is_file() and '"run_fingerprint"' in record.read_text(errors="replace"):
        raise BadInput(f"{folder} holds the run of a language model (twist train). Train in another folder.")
