"""From sound files to unit shards. A rerun does what is missing, no more; killing it loses no finished shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twistlm.compute import choices
from twistlm.corpus.cutting import Failure, Tokenizer, cut
from twistlm.corpus.manifest import Entry, load
from twistlm.corpus.shards import PLACE, Row, ShardWriter, drop, read_placed_facts, read_rows
from twistlm.corpus.sounds import Sounds, look_at, place_of
from twistlm.errors import AudioError, BadInput, TwistError, UrlError, offenders
from twistlm.files.artifacts import cache_folder
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_objects
from twistlm.files.locks import held
from twistlm.files.urls import UrlPath, as_path
from twistlm.progress import task

FAILURES = "failures.jsonl"
NOTES = "notes.jsonl"


class TooManyFailures(TwistError):
    """More clips were unusable than may be; the good ones are stored."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A clip whose file was mended to be read, and how."""

    id: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run of `tokenize` did.

    Attributes:
        out: the folder of the shards.
        n_done: clips written now: tokenized, or given other marks.
        n_skipped: clips that were there already.
        n_replaced: clips of `n_done` that took the place of another of the same id, whose sound or marks were others.
        n_marked: those of `n_replaced` whose sound was the same: they kept their units.
        failures: clips that could not be done; also in `failures.jsonl`.
        notes: what was done to read files that are not as they should be, of clips tokenized now; those of clips that
            were there already are with them in `notes.jsonl`.
    """

    out: Path | UrlPath
    n_done: int
    n_skipped: int
    failures: tuple[Failure, ...]
    n_replaced: int = 0
    n_marked: int = 0
    notes: tuple[Note, ...] = ()


def tokenize(
    source: str | Path | UrlPath | Iterable[Entry],
    out: str | Path | UrlPath,
    tok: Tokenizer,
    *,
    max_failures: float = 0.0,
    shard_clips: int = 200,
    cutter: Callable[[Sequence[Entry], Tokenizer], Generator[Row | Failure]] | None = None,
    progress: bool = False,
) -> Report:
    """Cut every clip of a manifest into units and store them as Parquet shards.

    A clip is skipped when `out` holds it already: same id, speaker, split and text, and the same part of the same sound
    file by name, size and modification time or else by sha256. For a sound inside an archive, name, size and time are
    the archive's and the sha256 is the sound's own: a shard that got more members is read once and its old clips are
    kept. A clip that changed replaces its old row when its shard is written: until then the old one stays. Where only
    the speaker, split or text is another, it keeps its units. Clips of `out` that `source` does not list stay.

    Clips of one file are done together, in the order in which `source` first names the files. Archives are read by one
    thread in that order, one at a time, a few clips ahead of the tokenizer.

    A clip of more than STREAM_SECONDS is given to `tok.stream`, where there is one, and never lies in memory whole. A
    `SpeechTokenizer` hears any clip of more than 34 s in windows: its units are not those of an encoder that hears all
    of it (`SpeechTokenizer.stream` has the measure). Rows appear with their shard, so a killed run begins again the
    clips that were in no shard yet, however long, and never leaves a part of one.

    Folders, manifests and sounds may lie behind URLs that fsspec opens (s3://, gs://, hf://, …): sounds are copied to
    temporary files when their turn comes, shards are written here and then put there whole. Only processes of one
    machine see each other's lock on a URL: let no two machines write to the same one. Where a filesystem tells no times
    of modification, a rerun fetches the sounds again, to compare their sha256.

    Args:
        source: a folder of sound files, a manifest file, or entries.
        out: folder for `shard-00000.parquet` …; `failures.jsonl` and `notes.jsonl` are written beside them when there
            are any, and `choices.json`, which ways of computing were taken (`compute.choices`): a rerun takes the same.
            (Processes of `cut_on_ray` choose for themselves.)
        tok: the tokenizer; it gets each clip at its own sample rate, whole, and alone unless it asks for batches.
        max_failures: share of the clips, 0 … 1, that may fail; the good ones are stored in any case.
        shard_clips: clips per shard (fewer when they are long): what is lost at most when the process is killed.
        cutter: cuts the clips instead of `cut`, somewhere else (`corpus.ray.cut_on_ray`): the shards are the same.
        progress: show a bar.

    Raises:
        UnitSpecMismatch: `out` holds units of another tokenizer.
        BadInput: a broken manifest, or a `max_failures` outside 0 … 1.
        TooManyFailures: more of the clips failed than may.
        TwistError: a full disk; another process is writing to `out`.
        UrlError: the source or `out` lies behind a URL that cannot be listed or written to.
    """
    if not 0 <= max_failures <= 1:
        raise BadInput(f"max_failures is a share in 0 … 1, got {max_failures}.")
    entries, out = _by_file(load(source)), as_path(out)
    with (
        locked(out),
        choices.kept(out / choices.FILE),
        Sounds() as sounds,
        task("tokenize", len(entries), progress) as bar,
    ):
        kept, notes, written = list[Note](), list[Note](), 0
        plan = Plan([], {}, {}, set(), [])

        def note() -> None:  # on disk before the rows are: a rerun does not hear them again
            nonlocal written
            if len(notes) > written:
                _write_lines(kept + notes, out / NOTES)
                written = len(notes)

        def replace(path: Path | UrlPath, ids: Collection[str]) -> None:
            changed = plan.stale.keys() & ids
            drop(out, changed, shards={plan.stale[id] for id in changed} - {path.name})

        with ShardWriter(out, tok.spec, clips=shard_clips, before=note, written=replace) as writer:
            plan = _plan(entries, out, sounds)
            failures = list(plan.lost)
            kept = _kept_notes(out, {entry.id for entry in plan.pending})
            bar.advance(len(entries) - len(plan.pending))
            for row in read_rows(out, plan.marked):
                entry = plan.marked[row.units.id]
                writer.add(dataclasses.replace(row, speaker=entry.speaker, split=entry.split, text=entry.text))
            with closing((cutter or cut)(plan.pending, tok)) as made:
                for found in made:
                    if isinstance(found, Failure):
                        failures.append(found)
                    else:
                        if found.note:
                            notes.append(Note(id=found.units.id, note=found.note))
                        writer.add(found)
                    bar.advance()
        # A clip that is another now and could not be cut: its old units are of another sound. (Of another part of the
        # same one they stay: what was asked for may be a slip.)
        gone = (plan.stale.keys() - plan.elsewhere) & {failure.id for failure in failures[len(plan.lost) :]}
        drop(out, gone, shards={plan.stale[id] for id in gone})
        _write_lines(failures, out / FAILURES)
        _write_lines(kept + notes, out / NOTES)
    if len(failures) > max_failures * len(entries):
        left = f" Of {len(gone)} of them the sound has changed, and their old units are gone." if gone else ""
        raise TooManyFailures(
            f"{len(failures)} of {len(entries)} clips could not be tokenized: {offenders([f.error for f in failures])} "
            f"All are listed in {out / FAILURES}; the good clips are stored.{left} Mend or remove the bad ones and run "
            "the same command again."
        )
    return Report(
        out=out,
        n_done=len(plan.pending) + len(plan.marked) - (len(failures) - len(plan.lost)),
        n_skipped=len(entries) - len(plan.pending) - len(plan.marked) - len(plan.lost),
        failures=tuple(failures),
        n_replaced=len(plan.stale.keys() - {failure.id for failure in failures}),
        n_marked=len(plan.marked),
        notes=tuple(notes),
    )


def _by_file(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with those of one file together, files in the order in which they are first named."""
    first: dict[Path | UrlPath, int] = {}
    for entry in entries:
        first.setdefault(entry.path, len(first))
    return sorted(entries, key=lambda entry: first[entry.path])


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        pending: clips to cut, in order.
        marked: by id, clips whose units stay and whose marks do not.
        stale: by id, of both, in which shard their old row is.
        elsewhere: of those, clips whose old row is of another part or channel of their file.
        lost: clips whose sounds are lost. They are not tried again: the units that were made from them stay, and should
            they be back, they must not get more.
    """

    pending: list[Entry]
    marked: dict[str, Entry]
    stale: dict[str, str]
    elsewhere: set[str]
    lost: list[Failure]


def _plan(entries: Sequence[Entry], out: Path | UrlPath, sounds: Sounds) -> Plan:
    """Look at what is there. Of clips that are there twice (a run was killed as it replaced them) the older go."""
    there: dict[str, tuple[str, dict[str, Any]]] = {}
    old: dict[str, set[str]] = {}
    for shard, fact in read_placed_facts(out):
        if fact["id"] in there:
            old.setdefault(there[fact["id"]][0], set()).add(fact["id"])
        there[fact["id"]] = shard, fact
    for shard, ids in old.items():
        drop(out, ids, shards={shard})
    plan = Plan([], {}, {}, set(), [])
    listed = None
    for entry in entries:
        if isinstance(entry.path, UrlPath) and entry.path.parent != listed:
            listed = entry.path.parent
            with suppress(UrlError):  # who may not list may still read
                listed.iterdir()  # one question for all its files, where the filesystem keeps the answer
        if entry.id not in there:
            plan.pending.append(entry)
            continue
        shard, fact = there[entry.id]
        try:
            same = _is_same(entry, fact, sounds)
        except BadInput as error:
            plan.lost.append(Failure.of(entry, error))
            continue
        if not same:
            plan.pending.append(entry)
            plan.stale[entry.id] = shard
            if _parted(fact)[1] != entry.part:
                plan.elsewhere.add(entry.id)
        elif (entry.speaker, entry.split, entry.text) != (fact["speaker"], fact["split"], fact["text"]):
            plan.marked[entry.id] = entry
            plan.stale[entry.id] = shard
    return plan


def _is_same(entry: Entry, fact: dict[str, Any], sounds: Sounds) -> bool:
    """Whether the units of a clip are of this sound."""
    stat = look_at(entry)
    if isinstance(entry.path, Path) and entry.path.is_dir():
        raise AudioError(f"{entry.path}: is a folder. Check the path.")
    sha256, part, told, place = _parted(fact)
    if part != entry.part:
        return False
    same_size = stat.st_size == fact["source_bytes"]
    # What came out of an archive has times of whole seconds, and clips of one length have one size: ids that are line
    # numbers may then have moved to another file that looks the same.
    same_place = not told or place == place_of(entry)
    if same_size and same_place and 0 <= stat.st_mtime_ns == fact["source_mtime_ns"]:
        return True
    # A copy or a fresh checkout has other times and the same content; an archive may have grown around its members.
    return (same_size or bool(entry.member)) and sounds.fetch(entry).sha256 == sha256


def _parted(fact: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return what a row says of its sound: sha256, part, PLACE where a place is told, and the place."""
    part, told, place = fact["source_sha256"][64:].partition(PLACE)
    return fact["source_sha256"][:64], part, told, place


def _write_lines(items: Sequence[Failure | Note], path: Path | UrlPath) -> None:
    if not items:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary:
        lines = [json.dumps(dataclasses.asdict(item), ensure_ascii=False) for item in items]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _kept_notes(out: Path | UrlPath, done: set[str]) -> list[Note]:
    """Return what earlier runs noted of clips that were not done again."""
    if not (out / NOTES).is_file():
        return []
    shape = {"id": str, "note": str}
    said = [row for _, row in read_objects(out / NOTES, "notes of twist tokenize", shape=shape)]
    return [Note(id=row["id"], note=row["note"]) for row in said if row["id"] not in done]


@contextmanager
def locked(out: Path | UrlPath) -> Iterator[None]:
    """Hold `out` for this process; the lock goes when the process does, however it ends.

    Of a URL, processes of other machines and users do not see the lock.
    """
    lock = None
    if isinstance(out, UrlPath):
        lock = cache_folder() / "locks" / hashlib.sha256(str(out).encode()).hexdigest()[:16]
    with held(out, "writing units", lock=lock):
        yield
