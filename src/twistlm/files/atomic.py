"""How files reach the disk whole.

Everything twistlm writes goes through `atomic_write` or `atomic_folder`: a reader, or a rerun after kill -9, sees the
old thing or the new thing and never half of one. What grows line by line (a log) is written inside `writing`. Either
way a write that the system refuses is one `TwistError` that names the file, whoever was writing: Python, C++ or Rust.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from twistlm.errors import TwistError
from twistlm.files.urls import UrlPath

# What the system says of a disk, and not of a name that is wrong.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ENXIO, errno.ENODEV, errno.ESTALE)
_RUST = re.compile(r"\(os error (\d+)\)")  # how Rust's libraries (safetensors) end the text of theirs
_UMASK = os.umask(0o077)
os.umask(_UMASK)
_COPIED = re.compile(r"\[Errno (\d+)\]")  # how each of those of `shutil.copytree` begins


class Atomic:
    """Yield a temporary path beside `path`; on success make it durable and rename it, on an error remove it.

    A class and not a generator, so that the error can be looked at without catching it: libraries report a full disk as
    OSError, RuntimeError or their own type.
    """

    def __init__(self, path: str | Path, *, folder: bool) -> None:
        self.path = Path(path)
        self.folder = folder

    def __enter__(self) -> Path:
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            remove_stale(parent, name=self.path.name)
            # The name keeps its suffix (writers choose a format by it), starts with a dot (listings skip it) and says
            # which process owns it (the leftovers of a killed one can be told from a neighbour's work).
            self.temporary = parent / f".tmp-{_node()}-{os.getpid()}-{secrets.token_hex(4)}-{self.path.name}"
            if self.folder:
                self.temporary.mkdir()
        except OSError as error:
            raise write_error(self.path, error) from error
        return self.temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                try:
                    _make_durable(self.temporary)
                    _move_over(self.temporary, self.path)
                except OSError as failed:
                    raise write_error(self.path, failed) from failed
            elif (failed_write := _refusal(error, self.temporary)) is not None:
                raise write_error(self.path, failed_write) from error
        finally:
            _remove(self.temporary)


class Upload:
    """As `Atomic`, for a file behind a URL: it is written on this machine and then put there, whole."""

    def __init__(self, path: UrlPath) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory(prefix="twistlm-")
        return Path(self.folder.name) / self.path.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.folder as folder:
            if error is None:
                self.path.put(Path(folder) / self.path.name)
            elif (failed_write := _refusal(error, Path(folder))) is not None:
                raise write_error(Path(folder) / self.path.name, failed_write) from error


def atomic_write(path: str | Path | UrlPath) -> Atomic | Upload:
    """Write a file whole or not at all: `with atomic_write(path) as temporary: temporary.write_bytes(...)`.

    Yields a path in the same folder (created when missing) with the same suffix, not yet existing. When the block ends
    well the file is flushed to disk and renamed over `path`; when it raises, nothing is left and `path` is untouched.
    For a `UrlPath`, the path yielded lies in a temporary folder of this machine.

    Raises:
        TwistError: the disk is full (says how much is free), a quota is used up, or the system refuses to write.
        UrlError: the file could not be put behind its URL.
    """
    return Upload(path) if isinstance(path, UrlPath) else Atomic(path, folder=False)


def atomic_folder(path: str | Path) -> Atomic:
    """Write a folder whole or not at all: `with atomic_folder(path) as temporary: (temporary / "a").write_text(...)`.

    Yields an existing empty folder beside `path`. A folder already at `path` is swapped out in one step on Linux; where
    the system cannot exchange two names there is one moment in which `path` does not exist.

    Raises:
        TwistError: the disk is full (says how much is free), a quota is used up, or the system refuses to write.
    """
    return Atomic(path, folder=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise what the system says inside the block as an error that names `path`: for what is not written whole.

    Raises:
        TwistError: as `atomic_write`.
    """
    try:
        yield
    except TwistError:  # of which some are OSErrors
        raise
    except OSError as error:
        raise write_error(Path(path), error) from error


def _node() -> str:
    return "".join(c for c in platform.node() if c.isalnum())[:32] or "host"


def remove_stale(folder: Path, *, name: str | None = None) -> None:
    """Remove what killed processes of this machine left in `folder` while they wrote: all of it, or `name` alone."""
    prefix = f".tmp-{_node()}-"
    for entry in os.scandir(folder):
        if not entry.name.startswith(prefix):
            continue
        pid, _, rest = entry.name.removeprefix(prefix).partition("-")
        if name in (None, rest[9:]) and pid.isdigit() and not _is_alive(int(pid)):
            _remove(Path(entry.path))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):  # it stays for `remove_stale`: what happened before is what is to be said
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    """fsync a file, or every file and folder below a folder; weights get the permissions that other new files have."""
    inner = [Path(top) / name for top, _, names in os.walk(path) for name in names] if path.is_dir() else []
    folders = [Path(top) for top, _, _ in os.walk(path)] if path.is_dir() else []
    for item in [*inner, *reversed(folders)] or [path]:
        if item.suffix == ".safetensors":  # the library lets nobody else read what it writes
            item.chmod(0o666 & ~_UMASK)
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_over(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        if not _exchange(temporary, path):
            old = temporary.with_name(f"{temporary.name}.old")
            path.rename(old)
            temporary.rename(path)
            _remove(old)
        # After an exchange the old folder has the temporary name, and leaves with it.
    else:
        temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux renameat2 with RENAME_EXCHANGE); False where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return libc.renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0


def is_disk_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return not isinstance(error, TwistError) and (full or "no space left on device" in str(error).lower())


def _refusal(error: BaseException, temporary: Path) -> OSError | None:
    """Return what the system said, if `error` comes from writing at or below `temporary`; None for all else.

    Libraries report a refused write as OSError with or without a name and a number, RuntimeError, or their own type.
    """
    if isinstance(error, TwistError):
        return None
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        return error if Path(os.fsdecode(error.filename)).is_relative_to(temporary) else None
    if isinstance(error, OSError) and error.errno in _OF_DISKS:
        return error
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # (from, to, what the system said) each
        told = [_COPIED.match(said) for *_, said in error.args[0] if str(temporary) in said]
        return next((OSError(int(found[1]), os.strerror(int(found[1]))) for found in told if found), None)
    if (found := _RUST.search(str(error))) and int(found[1]) in _OF_DISKS:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if is_disk_full(error) else None


def write_error(path: Path, error: OSError) -> TwistError:
    """Return the error that says that `path` could not be written, and why."""
    match error.errno:
        case errno.ENOSPC:
            try:
                free = f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
            except OSError:
                free = "free space unknown"
            return TwistError(
                f"the disk is full: could not write {path} ({free}). Nothing was left half-written; "
                "free some space, or write to another disk, and run the same command again."
            )
        case errno.EDQUOT:
            return TwistError(
                f"the quota is used up: could not write {path} ({os.strerror(errno.EDQUOT)}). Nothing was left "
                "half-written; remove files of yours, or write elsewhere, and run the same command again."
            )
        case number:
            why = os.strerror(number) if number else str(error)
            return TwistError(
                f"could not write {path}: {why}. Check that its folder is one you may write to and that its disk is in "
                "order, and run the same command again; nothing was left half-written."
            )
