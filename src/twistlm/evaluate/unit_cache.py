"""One tokenizer pass for all suites and models: units kept by what the sound is and what a unit is.

A cache is a folder of unit shards for each UnitSpec, whose clips are named by the sha256 of their sound file. A sound
that stands in two suites, under two names, is cut once; a sound that changed is another sound. Shards are sealed: one
that is not what was written is removed and its clips are cut again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from twistlm.audio.clip import Clip
from twistlm.compute.batching import batches
from twistlm.compute.threads import in_order
from twistlm.corpus.cutting import Batching
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.shards import Row, ShardWriter, shard_paths
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.evaluate.suites.sounds import load, read_bytes, sample_rate
from twistlm.evaluate.suites.suite import Suite
from twistlm.files.sealed import is_sealed, remove, seal
from twistlm.progress import track
from twistlm.types import Units

if TYPE_CHECKING:
    from twistlm.units.tokenizer import SpeechTokenizer

Thing = TypeVar("Thing")

_POOL = 256  # clips among which those of one length are looked for
# On a CPU a core takes so many sounds at a time, and those of at most so many seconds (words) as one batch: faster than
# each by itself (benchmarks/tokenize_clips.py), which longer ones are not.
_SOME, _SHORT = 8, 1.5


@dataclass(frozen=True, eq=False)
class SpokenSuite:
    """A suite and its units.

    Attributes:
        suite: as it was opened.
        units: clip id -> Units.
        checksum: sha256 (64 hex digits) over every pair, what it is averaged by, and the bytes of both its sounds.
        n_cut: clips that were not in the cache.
    """

    suite: Suite
    units: Mapping[str, Units]
    checksum: str
    n_cut: int


def tokenize_suite(suite: Suite, tok: SpeechTokenizer, *, cache: str | Path, progress: bool = False) -> SpokenSuite:
    """Return the units of every clip of `suite`, cutting only those that `cache` does not hold.

    Killed, it goes on from the last whole shard. Every sound is read in any case: its bytes are its name.

    Raises:
        BadInput: sounds of different sample rates in one suite.
        AudioError: sounds are missing, damaged, or too short for one unit; the first five are named. What could be cut
            is in the cache.
    """
    rate = tok.spec.sample_rate
    digests: dict[str, str] = {}
    rates: dict[str, int] = {}
    # Sounds in tables are sorted so that each part of a table is read once.
    clips = sorted(suite.wanted(), key=lambda i: (str(type(suite.clips[i])), suite.clips[i]))
    bad: list[str] = []
    for i in track(clips, description=f"sounds of {suite.name}", enabled=progress):
        try:
            data = read_bytes(suite.clips[i])
            rates[i] = sample_rate(data, suite.clips[i])
        except AudioError as error:
            bad.append(str(error))
            continue
        digests[i] = hashlib.sha256(data).hexdigest()
    _refuse(suite, bad)
    _refuse_mixed(suite, rates)

    folder = Path(cache) / tok.spec.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for path in shard_paths(folder):
            if not is_sealed(path):
                remove(path)
        held = set(open_corpus(folder, split=None).ids) if shard_paths(folder) else set()
        first = {digest: i for i, digest in reversed(digests.items()) if digest not in held}
        todo = [i for i in clips if first.get(digests[i]) == i]

        def row(i: str, clip: Clip, units: Units) -> Row:
            named = dataclasses.replace(units, id=digests[i])
            return Row(units=named, seconds=clip.seconds, source_sha256=digests[i])

        def cut(clip: Clip) -> Units | AudioError:
            try:
                return tok(clip)
            except AudioError as error:
                return error

        def cut_some(some: Sequence[str]) -> list[Row | AudioError]:
            clips = {i: read(i) for i in some}
            good = {i: clip for i, clip in clips.items() if not isinstance(clip, AudioError)}
            short = [i for i, clip in good.items() if clip.seconds <= _SHORT]
            units: dict[str, Units | AudioError] = {}
            if len(short) > 1 and isinstance(tok, Batching):
                units |= zip(short, tok.batch([good[i] for i in short]), strict=True)
            units |= {i: cut(clip) for i, clip in good.items() if i not in units}
            units |= {i: error for i, error in clips.items() if isinstance(error, AudioError)}
            return [of if isinstance(of := units[i], AudioError) else row(i, good[i], of) for i in some]

        def by_some() -> Generator[Row | AudioError]:
            """A core takes some, one behind the other."""
            with closing(in_order(cut_some, _batched(todo, _SOME))) as made:
                for rows in made:
                    yield from rows

        def by_batch() -> Generator[Row | AudioError]:
            """Clips of about one length go to a GPU together, while threads read the next."""
            with closing(in_order(read, todo, ahead=_POOL)) as reading:
                for pool in _batched(zip(todo, reading, strict=True), _POOL):
                    yield from (found for _, found in pool if isinstance(found, AudioError))
                    good = [(i, clip) for i, clip in pool if not isinstance(clip, AudioError)]
                    for which in batches([clip.seconds for _, clip in good], tok.batch_seconds):
                        together = [good[n] for n in which]
                        for (i, clip), units in zip(together, tok.batch([c for _, c in together]), strict=True):
                            yield row(i, clip, units)

        def read(i: str) -> Clip | AudioError:
            try:
                clip = load(suite.clips[i], sample_rate=rate, id=i)
                if isinstance(tok, Batching):
                    tok.require(clip)
                return clip
            except AudioError as error:
                return error

        made = by_batch() if getattr(tok, "batch_seconds", 0) else by_some()
        with (
            ShardWriter(folder, tok.spec, written=lambda path, _: seal(Path(str(path)))) as writer,
            closing(made) as rows,
        ):
            shown = progress and bool(todo)
            for found in track(rows, description=f"units of {suite.name}", total=len(todo), enabled=shown):
                if isinstance(found, AudioError):
                    bad.append(str(found))
                else:
                    writer.add(found)
        _refuse(suite, bad)
        corpus = open_corpus(folder, split=None)
    place = {digest: n for n, digest in enumerate(corpus.ids)}
    units = {i: dataclasses.replace(corpus[place[digest]], id=i) for i, digest in digests.items()}
    return SpokenSuite(suite, units, _checksum(suite, digests), len(todo))


def _batched(items: Iterable[Thing], n: int) -> Iterator[list[Thing]]:
    iterator = iter(items)
    while some := list(islice(iterator, n)):
        yield some


def _refuse(suite: Suite, bad: list[str]) -> None:
    if bad:
        raise AudioError(
            f"{suite.name}: {len(bad)} of {len(suite.wanted())} sounds cannot be used: {offenders(bad)} "
            "A score over part of a benchmark is another benchmark."
        )


def _refuse_mixed(suite: Suite, rates: Mapping[str, int]) -> None:
    counts = Counter(rates.values()).most_common()
    if len(counts) > 1:
        odd = [f"{suite.clips[i]} ({rates[i]} Hz)" for i in sorted(rates) if rates[i] != counts[0][0]]
        raise BadInput(
            f"{suite.name}: {len(odd)} of {len(rates)} sounds are not at {counts[0][0]} Hz as the others are: "
            f"{offenders(odd)}. Resampled sounds differ from the others in more than what is said: get a whole "
            "copy of one release."
        )


def _checksum(suite: Suite, digests: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for pair in sorted(suite.pairs, key=lambda p: p.id):
        groups = [f"{name}={of[pair.id]}" for name, of in sorted(suite.facets.items()) if pair.id in of]
        fields = [pair.id, suite.clusters[pair.id], *groups, digests[pair.positive], digests[pair.negative]]
        digest.update(("\t".join(fields) + "\n").encode())
    return digest.hexdigest()
