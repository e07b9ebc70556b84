"""What one worker does: read clips, cut them into units, give a row or a failure for each. It writes nothing.

On CPUs each core takes a clip. A GPU, which one clip does not fill, takes batches of clips of about one length, while
threads read the next ones (`_by_batch`). Units are the same either way.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from twistlm.audio.clip import Clip, check
from twistlm.audio.decoding import info
from twistlm.compute.batching import batches
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.corpus.shards import PLACE, Row
from twistlm.corpus.sounds import Sound, Sounds, place_of
from twistlm.errors import BadInput
from twistlm.files.urls import UrlPath
from twistlm.types import Units, UnitSpec

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")

STREAM_SECONDS = 600  # longer clips are read and cut window by window; their units are the same
POOL_CLIPS, POOL_BATCHES = 1024, 8  # clips, or batches' worth of sound, among which those of one length are looked for
_AT_ONCE = 2  # batches: one is prepared while the other is computed


class Tokenizer(Protocol):
    """What is needed of a `SpeechTokenizer`; anyone's works that several threads may call at once."""

    @property
    def spec(self) -> UnitSpec: ...

    def __call__(self, clip: Clip, /) -> Units: ...


@runtime_checkable
class Streaming(Protocol):
    """What a tokenizer may have besides, to cut a clip in memory that does not grow with it."""

    def stream(
        self, path: Path | UrlPath, /, *, start: float = 0.0, seconds: float | None = None, channel: int | None = None
    ) -> Units: ...


@runtime_checkable
class Batching(Tokenizer, Protocol):
    """What a tokenizer may have besides, to be given several clips at once."""

    @property
    def batch_seconds(self) -> float:
        """Seconds of sound, padding counted, that fill its device; 0 where a clip a core is as fast."""

    def require(self, clip: Clip, /) -> None:
        """Raise AudioError where the clip cannot be cut."""

    def batch(self, clips: Sequence[Clip], /) -> list[Units]: ...


@runtime_checkable
class Movable(Protocol):
    """What a tokenizer may have besides, to compute on another device."""

    def on(self, device: torch.device, /) -> Tokenizer: ...


@runtime_checkable
class Portable(Protocol):
    """What a tokenizer may have besides, to be sent to another process: what makes it there, which pickles."""

    def portable(self) -> Callable[[], Tokenizer]: ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A clip that could not be tokenized, and why."""

    id: str
    path: str
    error: str

    @classmethod
    def of(cls, entry: Entry, error: BadInput) -> Failure:
        return cls(id=entry.id, path=f"{entry.path}{entry.part}", error=str(error))


def cut(entries: Sequence[Entry], tok: Tokenizer) -> Generator[Row | Failure]:
    """Cut clips into units: a row or a failure for each, in their order.

    It knows of no other clips, so any share of a job's clips can be cut anywhere, and the rows be written by whoever
    holds the folder. Clips of one archive should come together.
    """
    with Sounds() as sounds:
        fetched = (_fetch(entry, sounds) for entry in entries)  # by this thread, when its turn comes
        if isinstance(tok, Batching) and tok.batch_seconds:
            yield from _by_batch(fetched, tok, ahead=_ahead(entries, 2 * POOL_BATCHES * tok.batch_seconds))
        else:
            with closing(in_order(lambda sound: _cut_one(sound, tok), fetched)) as made:
                yield from made


def _fetch(entry: Entry, sounds: Sounds) -> Sound | Failure:
    return _or_failure(entry, lambda: sounds.fetch(entry))


def _or_failure(entry: Entry, work: Callable[[], Made]) -> Made | Failure:
    try:
        return work()
    except BadInput as error:
        return Failure.of(entry, error)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """A sound whose length is known: its clip, or None where it is to be read window by window."""

    sound: Sound
    clip: Clip | None
    seconds: float
    note: str
    sha256: str

    def row(self, units: Units) -> Row:
        entry = self.sound.entry
        return Row(
            units=dataclasses.replace(units, id=entry.id),
            seconds=self.seconds,
            speaker=entry.speaker,
            split=entry.split,
            text=entry.text,
            source_bytes=self.sound.n_bytes,
            source_mtime_ns=self.sound.mtime_ns,
            source_sha256=self.sha256 + entry.part + PLACE + place_of(entry),
            note=self.note,
        )


def _open(sound: Sound, tok: Tokenizer) -> _Opened:
    entry = sound.entry
    may_be_long = entry.start is None or (entry.seconds or 0.0) > STREAM_SECONDS
    if sound.data is None and isinstance(tok, Streaming) and may_be_long:
        held = info(sound.file)
        length = held.seconds if entry.start is None else entry.seconds or 0.0
        if length > STREAM_SECONDS:
            return _Opened(sound=sound, clip=None, seconds=length, note=held.note, sha256=sound.sha256)
    clip = sound.clip(sample_rate=tok.spec.sample_rate)
    check(clip)
    return _Opened(sound=sound, clip=clip, seconds=clip.seconds, note=clip.note, sha256=sound.sha256)


def _alone(opened: _Opened, tok: Tokenizer) -> Row:
    if opened.clip is not None:
        return opened.row(tok(opened.clip))
    assert isinstance(tok, Streaming)
    entry = opened.sound.entry
    part = None if entry.start is None else entry.seconds
    file, start = opened.sound.file, entry.start or 0.0
    return opened.row(tok.stream(file, start=start, seconds=part, channel=entry.channel))


def _cut_one(sound: Sound | Failure, tok: Tokenizer) -> Row | Failure:
    if isinstance(sound, Failure):
        return sound
    return _or_failure(sound.entry, lambda: _alone(_open(sound, tok), tok))


def _ahead(entries: Sequence[Entry], seconds: float) -> int:
    """Return how many clips may be read ahead: about so many seconds of sound, where their lengths are told."""
    known = [min(entry.seconds, STREAM_SECONDS) for entry in entries if entry.seconds]
    return int(np.clip(seconds / np.mean(known), 16, POOL_CLIPS)) if known else POOL_CLIPS // 4


def _by_batch(fetched: Iterable[Sound | Failure], tok: Batching, *, ahead: int) -> Iterator[Row | Failure]:
    """Cut as `_cut_one` does, in batches, while other threads read what comes next, so many `ahead`."""

    def ready(sound: Sound) -> _Opened:
        opened = _open(sound, tok)
        if opened.clip is not None:
            tok.require(opened.clip)
        return opened

    def read(sound: Sound | Failure) -> _Opened | Failure:
        return sound if isinstance(sound, Failure) else _or_failure(sound.entry, lambda: ready(sound))

    with closing(in_order(read, fetched, ahead=ahead)) as reading, ThreadPoolExecutor(_AT_ONCE) as cutters:
        begun: deque[_Pool] = deque()
        try:
            for pool in _pools(reading, POOL_BATCHES * tok.batch_seconds):
                begun.append(_Pool(pool, tok, cutters))
                if len(begun) > 1:  # while one is waited for, the GPU has the next
                    yield from begun.popleft().rows()
            while begun:
                yield from begun.popleft().rows()
        finally:
            cutters.shutdown(cancel_futures=True)


class _Pool:
    """Clips that are being cut, in batches of about one length."""

    def __init__(self, opened: Sequence[_Opened | Failure], tok: Batching, cutters: ThreadPoolExecutor) -> None:
        self._opened, self._tok = opened, tok
        places = [i for i, each in enumerate(opened) if isinstance(each, _Opened) and each.clip is not None]
        clips = [each.clip for each in opened if isinstance(each, _Opened) and each.clip is not None]
        self._batches: list[tuple[list[int], Future[list[Units]]]] = []
        for batch in batches([clip.seconds for clip in clips], tok.batch_seconds):
            self._batches.append(([places[j] for j in batch], cutters.submit(tok.batch, [clips[j] for j in batch])))

    def rows(self) -> Iterator[Row | Failure]:
        """Wait for them; a row or a failure for each, in their order."""
        done: dict[int, Row | Failure] = {}
        for i, each in enumerate(self._opened):
            if isinstance(each, Failure):
                done[i] = each
            elif each.clip is None:
                done[i] = _or_failure(each.sound.entry, partial(_alone, each, self._tok))
        for places, future in self._batches:
            for i, units in zip(places, future.result(), strict=True):
                each = self._opened[i]
                assert isinstance(each, _Opened)
                done[i] = each.row(units)
        yield from (done[i] for i in range(len(self._opened)))


def _pools(reading: Iterable[_Opened | Failure], seconds: float) -> Iterator[list[Any]]:
    """Group what was read until POOL_CLIPS of it, or so many seconds, are together."""
    pool: list[_Opened | Failure] = []
    held = 0.0
    for each in reading:
        pool.append(each)
        held += each.clip.seconds if isinstance(each, _Opened) and each.clip is not None else 0.0
        if len(pool) == POOL_CLIPS or held >= seconds:
            yield pool
            pool, held = [], 0.0
    if pool:
        yield pool
