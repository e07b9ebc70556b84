"""Which of several ways to compute the same thing is faster here: found by trying them, noted, and kept.

No flag of a CPU says it: one with bf16 instructions may multiply bf16 at half of float32's rate, and the library that
is faster on one make is slower on another. So the first time that a choice is due, each way computes the same small
piece a few times in turn, and the fastest is taken from then on, for that piece and number of threads. The
plain way (the first of WAYS) stays unless another is faster by a margin, so that noise does not decide.

Ways may round differently. Where that could move a number that must come again, `kept` holds the choices in a file; a
machine's own are remembered from one process to the next (`remembered`). The environment variable TWISTLM_CHOICES makes
choices by name, for tests and to repeat what another machine did: `TWISTLM_CHOICES=products=mkl,drafts=none`. What it
does not name is timed, and nothing is remembered then.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twistlm.compute import remembered
from twistlm.compute.waiting import BUSY, beside
from twistlm.errors import CheckpointError, ConfigError
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import check_shape, read_json
from twistlm.files.urls import UrlPath

FILE = "choices.json"  # beside the results of a job
VARIABLE = "TWISTLM_CHOICES"
MARGIN = 1.05  # how many times as fast another way must be, where no caller asks for more
WAYS: Mapping[str, tuple[str, ...]] = {
    "precision": ("float32", "bf16"),  # of the products of training, where the setting is "auto"
    "products": ("mkl", "onednn"),  # whose float32 products inference uses
    "drafts": ("none", "int8"),  # whether one continuation is drafted with int8 weights
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was taken.

    Attributes:
        took: one of the ways.
        because: "timed", "timed before on this machine", "asked for" (by the environment), or "the only way here".
        seconds: way -> what it took for the same piece of work; a caller may add times of parts. Empty when not timed.
    """

    took: str
    because: str
    seconds: Mapping[str, float] = field(default_factory=dict)

    def in_words(self) -> str:
        """Say why, in a few words."""
        if not self.seconds:
            return self.because
        return f"{self.because}: {', '.join(f'{way} {1e3 * s:.3g} ms' for way, s in self.seconds.items())}"

    def to_dict(self) -> dict[str, Any]:
        return {"took": self.took, "because": self.because, "seconds": dict(self.seconds)}


_FIX = "Remove it to have them made anew."
_SHAPE = {"took": str, "because": str, "seconds": {str: float}}

_made: dict[str, Choice] = {}  # of this process
_kept: list[_Kept] = []
_around: ContextVar[tuple[_Kept, ...]] = ContextVar("kept", default=())  # those of this thread's own jobs
_lock = threading.RLock()


def choose(
    kind: str,
    what: str,
    measure: Callable[[], Mapping[str, float]],
    *,
    possible: bool = True,
    asked: bool = True,
    margin: float = MARGIN,
) -> Choice:
    """Return the choice of this kind for `what`, made now if it never was.

    Args:
        kind: one of WAYS.
        what: the piece of work and the number of threads, in words; the same words are the same choice.
        measure: times the ways (`race`); called at most once, and while it runs no other choice is made.
        possible: False where only the plain way works.
        asked: whether the environment is asked first.
        margin: how many times as fast as the plain way another must be; more than two trials of one thing differ by
            where the ways round differently and the numbers must come again.

    Raises:
        ConfigError: TWISTLM_CHOICES names no known choice or way.
    """
    key = f"{kind}: {what}"
    found = _innermost().get(key)
    if found is not None:
        return found
    with _lock:
        plain = WAYS[kind][0]
        found = _known(key) or _made.get(key)
        if found is None and not possible:
            found = Choice(took=plain, because="the only way here")
        if found is None and asked and (way := asked_for(kind)):
            found = Choice(took=way, because="asked for")
        if found is None:
            found = _remembered(key)
        if found is None:
            others = beside()
            seconds = {way: float(f"{s:.3g}") for way, s in measure().items()}
            fastest = min((way for way in WAYS[kind] if way in seconds), key=seconds.__getitem__)
            took = fastest if seconds[fastest] * margin < seconds[plain] else plain
            found = Choice(took=took, because="timed", seconds=seconds)
            if others() < BUSY and not os.environ.get(VARIABLE):
                remembered.remember({key: found.to_dict()})
        _made.setdefault(key, found)
        for one in _seen():
            one.add(key, found)
    return found


def _remembered(key: str) -> Choice | None:
    """Return a choice that an earlier process made on this machine, unless the environment makes choices."""
    fields = {} if os.environ.get(VARIABLE) else remembered.recalled().get(key, {})
    try:
        found = Choice(took=fields["took"], because="timed before on this machine", seconds=dict(fields["seconds"]))
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.took in WAYS[key.partition(":")[0]] else None


def _known(key: str) -> Choice | None:
    """Return a choice that is made already, the innermost first; where nothing is kept, of this process."""
    seen = _seen()
    return next((one.choices[key] for one in reversed(seen) if key in one.choices), None) if seen else _made.get(key)


def _seen() -> Sequence[_Kept]:
    """Return the blocks of `kept` around this, the innermost last; to a thread without its starter's context, all."""
    return [one for one in _around.get() if one in _kept] or _kept


def _innermost() -> Mapping[str, Choice]:
    return seen[-1].choices if (seen := _seen()) else _made


def known(kind: str, what: str) -> Choice | None:
    """Return the choice of this kind for `what` if it is made already, or the environment makes it."""
    found = _known(f"{kind}: {what}")
    if found is None and (way := asked_for(kind)):
        return Choice(took=way, because="asked for")
    return found


def asked_for(kind: str) -> str | None:
    """Return the way that the environment names for this kind of choice; None when it names none.

    Raises:
        ConfigError: TWISTLM_CHOICES names no known choice or way.
    """
    given = os.environ.get(VARIABLE, "")
    return _parsed(given).get(kind) if given else None


def _parsed(given: str) -> dict[str, str]:
    found = {}
    for part in filter(None, (p.strip() for p in given.split(","))):
        kind, _, way = part.partition("=")
        if way not in WAYS.get(kind, ()):
            known_ones = "; ".join(f"{kind}={'|'.join(ways)}" for kind, ways in WAYS.items())
            raise ConfigError(f"{VARIABLE} says {part!r}, which is no choice. Known: {known_ones}.")
        found[kind] = way
    return found


def race(ways: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, float]:
    """Return the least seconds of each way, tried in turn until `seconds` are over, three times at least.

    What ran first, slower for that, is not counted. A way that is three times slower than another is not tried further.
    The least and not the mean: other processes only ever add to it. Where torch computes on this thread alone, its own
    seconds on the CPU count, to which they add least.
    """
    import torch

    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begun, best = time.perf_counter(), dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()
    for rounds in range(30):
        for name, way in ways.items():
            if rounds and best[name] > 3 * min(best.values()):
                continue
            started = clock()
            way()
            best[name] = min(best[name], clock() - started)
        if rounds > 1 and time.perf_counter() - begun > seconds:
            break
    return best


def made() -> dict[str, dict[str, Any]]:
    """Return every choice of this process, or of the innermost `kept`, for JSON: "kind: what" -> the choice."""
    return {key: choice.to_dict() for key, choice in sorted(_innermost().items())}


@contextmanager
def kept(path: Path | UrlPath, *, write: bool = True) -> Iterator[None]:
    """Inside the block, choices that stand in `path` hold, and new ones are written there as they are made.

    A file that was begun on another machine, or at another moment, decides: what is computed inside then comes again.
    Threads that are started inside see it too, and of blocks in each other the innermost is asked first and all note
    what is new: the stage of a job has what the job has, and may stand alone. Jobs in two threads have nothing to do
    with each other's (a thread of neither, that was not given its starter's context, sees both, the later first).

    Args:
        path: a JSON file; need not be there.
        write: whether this process writes it.

    Raises:
        CheckpointError: the file is damaged.
    """
    stored = read_json(path, "the choices of a run", fix=_FIX, error=CheckpointError) if path.is_file() else {}
    for key, fields in stored.items():
        check_shape(fields, _SHAPE, where=f"{path}: {key}", kind="a choice", fix=_FIX, error=CheckpointError)
        if fields["took"] not in WAYS.get(key.partition(":")[0], ()):
            raise CheckpointError(f"{path}: {key} took {fields['took']!r}, which is no way to do it. {_FIX}")
    named = ("took", "because", "seconds")  # a later version may have more
    choices = {key: Choice(**{name: fields[name] for name in named}) for key, fields in stored.items()}
    mine = _Kept(path, choices, write)
    before = _around.get()
    _kept.append(mine)
    _around.set((*before, mine))
    try:
        yield
    finally:
        _around.set(before)
        _kept.remove(mine)


@dataclass(frozen=True, eq=False)
class _Kept:
    path: Path | UrlPath
    choices: dict[str, Choice]
    write: bool

    def add(self, key: str, choice: Choice) -> None:
        if key in self.choices:
            return
        self.choices[key] = choice
        if self.write:
            with atomic_write(self.path) as temporary:
                content = {key: choice.to_dict() for key, choice in sorted(self.choices.items())}
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
