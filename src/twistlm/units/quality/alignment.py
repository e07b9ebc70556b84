"""Gold phones: tables of time-aligned phones, and the phone of each frame.

Shapes: F frames.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.finding import KNOWN, has_suffix, visible
from twistlm.errors import BadInput, offenders
from twistlm.files.jsonl import read_objects
from twistlm.files.tables import read_table
from twistlm.units.quality.textgrid import read_textgrid

if TYPE_CHECKING:
    from twistlm.units.encoder import Encoder
    from twistlm.units.tokenizer import SpeechTokenizer

Phone = tuple[str, float, float]  # phone, start s, end s
Alignment = tuple[Phone, ...]

# What common aligners and corpora call stretches without speech.
SILENCE = frozenset({"pau", "sil", "SIL", "<sil>", "sp", "spn", "spn_S", "h#", "#h", "epi", "<eps>", "_", "silence"})

_COLUMNS = ("id", "phone", "start", "end")
_OVERLAP = 1e-3  # s that neighbours may share: tables round their times


def read_alignments(path: str | Path, *, phone_set: str | None = None, tier: str | None = None) -> dict[str, Alignment]:
    """Read the phones of many clips: clip id -> (phone, start s, end s) in order of time.

    Three layouts, told apart by suffix. JSON lines (`.jsonl`): `{"id": …, "phones": [[phone, start, end], …]}`, and
    perhaps `"set"`, the name of the set its phones are of. A table (`.csv`, or `.tsv` with tabs): columns `id`,
    `phone`, `start`, `end`, others are left alone. Praat TextGrids (`.TextGrid`, one clip each, or a folder with such
    files below it, none hidden): the id is the path below the folder without suffix. Intervals of an empty name are no
    phone.

    Args:
        path: the file or folder.
        phone_set: keep the clips of this set only; None when there is only one, or none is named.
        tier: which interval tier of TextGrids; None takes the only one, or the one called phones, phone or MAU.

    Raises:
        BadInput: no such file, another layout, a row that cannot be read, an id that occurs twice, times that are not
            finite, that run backwards or overlap by more than 1 ms, several sets and none chosen, a set or tier
            chosen where there are none, or no phones at all.
    """
    path = Path(path)
    textgrids = path.is_dir() or path.suffix.lower() == ".textgrid"
    if tier is not None and not textgrids:
        raise BadInput(f"{path}: only TextGrids have tiers, of which one is chosen (--tier {tier}).")
    if phone_set is not None and path.suffix.lower() not in (".jsonl", ".json"):
        raise BadInput(f"{path}: only JSON lines name the set of their phones (--phone-set {phone_set}).")
    if textgrids:
        found = _textgrids(path, tier)
    elif not path.is_file():
        raise BadInput(f"{path}: no such alignment: neither a file nor a folder of TextGrids. Check the path.")
    elif path.suffix.lower() in (".jsonl", ".json"):
        found = _json_lines(path, phone_set)
    elif path.suffix.lower() in (".csv", ".tsv"):
        found = _table(path)
    else:
        raise BadInput(f"{path}: alignments are read from .jsonl, .csv, .tsv and .TextGrid, not {path.suffix or path}.")
    alignments = {id: tuple(sorted((p for p in phones if p[0]), key=lambda p: p[1:])) for id, phones in found.items()}
    _check_times(alignments, path)
    if not any(alignments.values()):
        raise BadInput(f"{path}: holds no phones.")
    return alignments


def matched(alignments: Mapping[str, Alignment], ids: Collection[str]) -> dict[str, Alignment]:
    """Return the alignment of each clip that has one: under its id, or under its id without a sound file's suffix.

    Raises:
        BadInput: none of `ids` has one, or two of them would share one.
    """
    names = {id: id if id in alignments else _stem(id) for id in ids}
    found = {id: name for id, name in names.items() if name in alignments}
    if not found:
        raise BadInput(
            f"none of the {len(ids)} clips has an alignment: clips are called {offenders(sorted(ids))}, alignments "
            f"{offenders(sorted(alignments))}. The two must use the same ids."
        )
    if len(set(found.values())) < len(found):
        twice = [name for name in set(found.values()) if list(found.values()).count(name) > 1]
        raise BadInput(f"several clips would share one alignment: {offenders(sorted(twice))}. Use whole ids in both.")
    return {id: alignments[name] for id, name in found.items()}


def receptive_field(encoder: Encoder | SpeechTokenizer) -> int:
    """Samples the first frame of an encoder needs: the shortest clip with a frame, found from `n_frames` alone.

    Of a tokenizer that pads its clips, what is left of it inside the clip: padding is the same on both sides, so half
    of it is the middle of the frame either way.
    """
    low, high = 0, 1
    while encoder.n_frames(high) < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if encoder.n_frames(middle) >= 1 else (middle, high)
    return high


def frame_centres(n_frames: int, *, hop: int, sample_rate: int, receptive: int) -> NDArray[np.float64]:
    """The centre of each frame's receptive field in s: [F]."""
    return (np.arange(n_frames) * hop + receptive / 2) / sample_rate


def phones_at(
    alignment: Sequence[Phone], n_frames: int, *, hop: int, sample_rate: int, receptive: int
) -> NDArray[np.str_]:
    """The phone at the centre of each frame's receptive field: [F]; `""` where the alignment has none.

    Args:
        alignment: (phone, start s, end s), in order.
        n_frames: F.
        hop, sample_rate, receptive: of the encoder, in samples and Hz.
    """
    if not alignment:
        return np.full(n_frames, "")
    centres = frame_centres(n_frames, hop=hop, sample_rate=sample_rate, receptive=receptive)
    ends = np.array([end for _, _, end in alignment])
    starts = np.array([start for _, start, _ in alignment])
    names = np.array([phone for phone, _, _ in alignment])
    index = np.minimum(np.searchsorted(ends, centres, side="right"), len(ends) - 1)
    return np.where((centres >= starts[index]) & (centres < ends[index]), names[index], "")


def _json_lines(path: Path, phone_set: str | None) -> dict[str, list[Phone]]:
    found: dict[str, list[Phone]] = {}
    sets: dict[str, str] = {}
    for number, row in read_objects(path, "phones, one JSON object on each line for a clip"):
        where = f"{path}, line {number}"
        if not isinstance(row.get("id"), str) or not isinstance(row.get("phones"), list):
            raise BadInput(f'{where}: needs "id", a string, and "phones", a list of [phone, start, end].')
        if row["id"] in found:
            raise BadInput(f"{where}: the id {row['id']!r} occurs twice. One line holds all phones of a clip.")
        found[row["id"]] = [_phone(cell, where) for cell in row["phones"]]
        sets[row["id"]] = str(row.get("set", ""))
    known = sorted(set(sets.values()))
    if phone_set is None and len(known) > 1:
        raise BadInput(f"{path}: has phones of {len(known)} sets, which cannot be mixed: choose one of {known}.")
    if phone_set is not None and phone_set not in known:
        raise BadInput(f"{path}: has no phones of the set {phone_set!r}; there are: {known}.")
    return {id: phones for id, phones in found.items() if phone_set in (None, sets[id])}


def _table(path: Path) -> dict[str, list[Phone]]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    found: dict[str, list[Phone]] = {}
    for line, row in read_table(path, "a table of phones", columns=_COLUMNS, separator=separator):
        where = f"{path}, line {line}"
        if not row["id"]:
            raise BadInput(f"{where}: has no id.")
        found.setdefault(row["id"], []).append(_phone([row["phone"], row["start"], row["end"]], where))
    return found


def _textgrids(path: Path, tier: str | None) -> dict[str, list[Phone]]:
    files = visible(path, "**/*", (".textgrid",)) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: no TextGrid files below it. Name a folder that has some, or a .jsonl, .csv or .tsv.")
    home = path if path.is_dir() else path.parent
    return {file.relative_to(home).with_suffix("").as_posix(): read_textgrid(file, tier=tier) for file in files}


def _phone(cell: Any, where: str) -> Phone:
    if not isinstance(cell, list) or len(cell) != 3 or not isinstance(cell[0], str):
        raise BadInput(f"{where}: a phone is [name, start in s, end in s], got {cell!r}.")
    try:
        return cell[0].strip(), float(cell[1]), float(cell[2])
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where}: start and end must be seconds, got {cell[1]!r} and {cell[2]!r}.") from error


def _check_times(alignments: Mapping[str, Alignment], path: Path) -> None:
    wrong: list[str] = []
    for id, phones in alignments.items():
        before = 0.0
        for name, start, end in phones:
            if not (math.isfinite(start) and math.isfinite(end)) or start < 0 or end <= start:
                wrong.append(f"{id}: {name!r} from {start:g} to {end:g} s")
            elif start < before - _OVERLAP:
                wrong.append(f"{id}: {name!r} at {start:g} s begins before its neighbour ends at {before:g} s")
            else:
                before = end
    if wrong:
        raise BadInput(f"{path}: times that cannot be: {offenders(wrong)}. Times are seconds from the clip's start.")


def check_lengths(alignments: Mapping[str, Alignment], seconds: Mapping[str, float], *, slack: float = 0.1) -> None:
    """Raise `BadInput` when phones end more than `slack` s after their clips: they belong to other sounds.

    Silence may: aligners and synthesisers count some at the end that was cut off the sound.
    """
    ends = {id: max((end for name, _, end in a if name not in SILENCE), default=0.0) for id, a in alignments.items()}
    late = [
        f"{id} ({end:.2f} s aligned, {seconds[id]:.2f} s of sound)"
        for id, end in ends.items()
        if end > seconds[id] + slack
    ]
    if late:
        raise BadInput(f"alignments longer than their clips: {offenders(late)}. Do they belong to these sound files?")


def _stem(id: str) -> str:
    return PurePosixPath(id).with_suffix("").as_posix() if has_suffix(id, KNOWN) else id
