"""The files that hold a model's weights: which ones, and what tensors lie in them. Pickles are opened, never run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from twistlm.errors import BadInput, CheckpointError, offenders
from twistlm.files.jsonl import read_json
from twistlm.files.regular import open_kind
from twistlm.files.torch_files import Tensor, plain, read_torch

_POINTER = b"version https://git-lfs.github.com/spec/"
_SAFE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Stored(NamedTuple):
    """A tensor in a file: its shape, and its type as safetensors names it ("F32")."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, as transformers chooses among those of a folder.

    Raises:
        CheckpointError: there are none, one is missing or a pointer of Git LFS, or an index cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = [folder / name]
        elif index.is_file():
            found = read_json(index, "the index of a model's weights", error=CheckpointError).get("weight_map")
            if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
                raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor.")
            files = [folder / Path(file).name for file in dict.fromkeys(found.values())]
        else:
            continue
        if lost := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(f"{folder} is incomplete: {index.name} names {offenders(lost)}. Copy them as well.")
        for file in files:
            refuse_pointer(file)
        return files
    parts = sorted(folder.glob("model-*-of-*.safetensors"))  # whose index was lost: their names count them
    counts = {part.stem.rpartition("-")[2] for part in parts}
    if len(counts) == 1 and (count := counts.pop()).isdecimal():
        if lost := sorted(
            {f"model-{i:05}-of-{count}.safetensors" for i in range(1, int(count) + 1)} - {part.name for part in parts}
        ):
            raise CheckpointError(f"{folder} lacks the weights in {offenders(lost)}. Copy them as well.")
        for part in parts:
            refuse_pointer(part)
        return parts
    raise CheckpointError(
        f"{folder} is not a complete causal LM folder: it has neither model.safetensors nor pytorch_model.bin, whole "
        "or in parts with an index. Download or save the model again, with its weights."
    )


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return name -> shape and type of every tensor in the weight files; of safetensors only headers are read.

    Raises:
        CheckpointError: as `weight_files`, or a file is damaged.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (it cannot be iterated over)
                        part = opened.get_slice(name)
                        found[name] = Stored(tuple(part.get_shape()), part.get_dtype())
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
        else:
            for name, value in _read_pickle(file).items():
                found[name] = Stored(tuple(value.shape), _SAFE_NAMES.get(value.dtype, str(value.dtype)))
    return found


def read_state(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor in the weight files of a folder, by name.

    Raises:
        CheckpointError: as `stored_tensors`.
    """
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as opened:
                    names = opened.keys()
                    state |= {name: opened.get_tensor(name) for name in names}
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
        else:
            state |= _read_pickle(file)
    return state


def refuse_pointer(file: Path) -> None:
    with open_kind(file, "a file of a model", error=CheckpointError) as opened:
        head = opened.read(len(_POINTER))
    if head == _POINTER:
        raise CheckpointError(
            f"{file} is a pointer of Git LFS, not the file itself: run `git lfs pull` in the clone it came from, or "
            "download the file."
        )


_PICKLE = "{} holds more than tensors, and only tensors are read: nothing in it was run. Get the model as safetensors."


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Read a `.bin` by torch's restricted reader, which opens tensors and runs nothing.

    First by ours, whose steps are counted: torch's can be kept busy for ever, or be brought down.
    """
    try:
        found = read_torch(file)
    except BadInput as error:
        if str(error).startswith("it is no whole"):
            raise CheckpointError(f"{file} is damaged, or no file of weights: {error}. Get it again.") from error
        raise CheckpointError(f"{_PICKLE.format(file)} ({error}.)") from error
    if not isinstance(found, dict) or not all(isinstance(plain(value), Tensor) for value in found.values()):
        raise CheckpointError(_PICKLE.format(file))
    del found
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # if it cannot be read, that is said
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_PICKLE.format(file)) from error
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged, or no file of weights: {first_line(error)}. Get it again."
        ) from error
    return dict(state)


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file.parent} is not a complete causal LM folder: {file.name} is damaged, or no file of weights "
        f"({first_line(error)[:-1]}). Get it again."
    )


def first_line(error: BaseException) -> str:
    """The first paragraph of a message, without what it advises of options that twistlm does not have."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
