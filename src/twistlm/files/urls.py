"""Files behind URLs (s3://, gs://, hf://, memory://, …): as much of `pathlib.Path` as sounds and shards need.

fsspec does the work: which protocols there are, what each needs installed, and how one logs in, are its matters.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from io import BufferedReader
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

from twistlm.errors import ArtifactError, BadInput, TwistError, UrlError
from twistlm.files.downloads import MOST_UNTOLD, Watch, in_thread, require_space

_URL = re.compile(r"[A-Za-z][\w+.-]+://")
_CHAINED = re.compile(r"(?<!^)::(?![a-z][a-z0-9+.-]*://)")  # "zip://a.zip::s3://b/c" is two URLs
_FOLDED = re.compile(r"[A-Za-z][\w+.-]+:/[^/]")  # what `Path` makes of a URL


def as_path(place: str | Path | UrlPath, *, below: Path | UrlPath | None = None) -> Path | UrlPath:
    """Return the path, local or behind a URL, that a text names; file:// names a local one.

    Args:
        place: absolute, or relative to `below`, or to where the process stands.
        below: a folder.

    Raises:
        BadInput: a protocol that fsspec does not know, or whose package is not installed; a URL that `Path` has taken
            a slash from.
    """
    if isinstance(place, UrlPath):
        return place
    text = str(place)
    if isinstance(place, Path) and _FOLDED.match(text):
        raise BadInput(
            f"{text}: a URL that became a path and lost a slash. Give URLs as text; not every verb takes them."
        )
    if isinstance(place, Path) or not _URL.match(text):
        if isinstance(below, UrlPath) and not text.startswith("/"):
            return below / text
        return below / text if isinstance(below, Path) else Path(place)
    path = UrlPath(text)
    local = path.local()
    return path if local is None else local


@dataclass(frozen=True)
class Stat:
    """What `UrlPath.stat` knows of a file: bytes, and ns since 1970, each -1 where the filesystem does not say."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class UrlPath:
    """A file or folder behind a URL. Methods do as those of `pathlib.Path`; nothing is asked before one is called.

    Raises, from each that asks: FileNotFoundError, IsADirectoryError as a `Path`; UrlError for all else that goes wrong
    on the way there. A missing package and an unknown protocol are BadInput.
    """

    url: str

    def __post_init__(self) -> None:
        if _CHAINED.search(self.url):  # the rest would be lost: x::1 and x::2 are both x
            raise BadInput(f"{self.url}: fsspec takes :: for the border between two URLs. Rename it.")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> UrlPath:
        return UrlPath(self._start + name)

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> UrlPath:
        return UrlPath(self.url.rstrip("/").rpartition("/")[0] + "/")

    def absolute(self) -> UrlPath:
        return self

    def below(self, folder: UrlPath) -> str | None:
        """Return the path from `folder` to here, "a/b.wav", or None when this is not below it."""
        return self.url.removeprefix(folder._start) if self.url.startswith(folder._start) else None

    def local(self) -> Path | None:
        """Return the path on this machine that the URL names, if it names one."""
        from fsspec.implementations.local import LocalFileSystem

        with self._asked("opened") as (fs, path):
            return Path(path) if isinstance(fs, LocalFileSystem) else None

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def is_file(self) -> bool:
        return self._kind() == "file"

    def stat(self) -> Stat:
        with self._asked("looked at", FileNotFoundError) as (fs, path):
            fact = fs.info(path)
            try:
                changed = fs.modified(path) if fact["type"] == "file" else None
            except NotImplementedError:
                changed = None
        if fact["type"] != "file":
            raise IsADirectoryError(f"{self} is a folder")
        size = -1 if fact.get("size") is None else int(fact["size"])
        if changed is None:
            return Stat(size, -1)
        changed = changed if changed.tzinfo else changed.replace(tzinfo=UTC)
        return Stat(size, round(changed.timestamp() * 1e6) * 1000)

    def version(self) -> str:
        """Return what is the same for as long as the file is."""
        with self._asked("looked at") as (fs, path):
            return str(fs.checksum(path))

    def iterdir(self) -> list[UrlPath]:
        """Return what is in the folder now, sorted; a folder that is not there is an empty one."""
        return sorted(self / PurePosixPath(fact["name"]).name for fact in self._listed(""))

    def find(self) -> list[UrlPath]:
        """Return every file below the folder, sorted."""
        # Not fsspec's own `find`, which leaves out silently what it fails to list.
        found, folders = [], [""]
        while folders:
            folder = folders.pop()
            for fact in self._listed(folder):
                name = f"{folder}{PurePosixPath(fact['name']).name}"
                if fact["type"] == "directory":
                    folders.append(f"{name}/")
                else:
                    found.append(self / name)
        return sorted(found)

    def read_text(self, encoding: str = "utf-8") -> str:
        with self.open() as file:
            return file.read().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> BufferedReader:
        """Fetch the file, and return the copy, opened for reading; it goes when it is closed."""
        return self.fetched().open(mode)

    def fetched(self) -> Fetched:
        """Return the same path, but with its file fetched when it is first opened, and kept while the object is."""
        return Fetched(self.url)

    def put(self, file: Path) -> None:
        """Copy a file there. It appears whole or not at all, under the name of this path: first it has another one."""
        with self._asked("written") as (fs, path):
            if set(path) & {*"*?["}:
                raise BadInput(f"{self}: fsspec takes *, ? and [ for patterns where it writes. Use another name.")
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/.tmp-{secrets.token_hex(4)}-{name}"
            fs.put_file(str(file), temporary)
            fs.mv(temporary, path)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._asked("removed", FileNotFoundError) as (fs, path):
                fs.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @property
    def _start(self) -> str:
        """How the URLs of all that lies below it begin."""
        return self.url if self.url.endswith("/") else f"{self.url}/"

    def _kind(self) -> str:
        try:
            with self._asked("looked at", FileNotFoundError) as (fs, path):
                return str(fs.info(path)["type"])
        except FileNotFoundError:
            return ""

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            with self._asked("listed", FileNotFoundError) as (fs, path):
                path = f"{path.rstrip('/')}/{folder}".rstrip("/")
                fs.invalidate_cache(path)
                facts = fs.ls(path, detail=True)
                return [fact for fact in facts if fact["name"].strip("/") != path.strip("/")]  # stores list themselves
        except FileNotFoundError:
            return []

    @contextmanager
    def _asked(self, what: str, *expected: type[Exception]) -> Iterator[tuple[Any, str]]:
        """Yield fsspec's filesystem and path; what it raises unexpectedly becomes an error that names the URL."""
        import fsspec

        with _Named(f"{self}: could not be {what}", expected):
            try:
                fs, path = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise BadInput(
                    f"{self}: {error}. fsspec opens URLs; many protocols need a package of theirs."
                ) from error
            yield fs, path


class Fetched(UrlPath):
    """A UrlPath whose file is fetched when it is first opened; the copy is kept as long as this object is."""

    _lock: threading.Lock
    _copy: Path | None

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.__dict__.update(_lock=threading.Lock(), _copy=None)  # frozen for others

    def fetched(self) -> Fetched:
        return self

    def open(self, mode: Literal["rb"] = "rb") -> BufferedReader:
        with self._lock:  # by one thread, for all of them
            copy = self._copy or self._fetch()
            self.__dict__["_copy"] = copy
        return copy.open(mode)

    @cached_property
    def sha256(self) -> str:
        """64 hex digits over the file."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _fetch(self) -> Path:
        descriptor, name = tempfile.mkstemp(prefix="twistlm-", suffix=self.suffix)
        os.close(descriptor)
        remove = weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with ExitStack() as stack:
            stack.callback(remove)
            with self._asked("fetched", FileNotFoundError, IsADirectoryError) as (fs, path):
                try:
                    _get(fs, path, Path(name))
                except ArtifactError as error:
                    raise UrlError(f"{self}: could not be fetched: {error}.") from error
            stack.pop_all()
        return Path(name)


def _get(fs: Any, path: str, target: Path) -> None:
    """Copy a file of a filesystem to `target`, bounded by the size that the filesystem says it has, and in time."""
    from fsspec.callbacks import Callback

    told = fs.info(path).get("size")
    if told is not None:
        require_space(target.parent, told, variable="TMPDIR")

    class Checked(Callback):
        def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002  as fsspec calls it
            watch.check()

    watch = Watch(target, MOST_UNTOLD if told is None else told)
    in_thread(lambda: fs.get_file(path, str(target), callback=Checked()), watch)
    if told is not None and (came := target.stat().st_size) != told:
        raise OSError(f"{came} bytes came, and it has {told}")


class _Named:
    """Turns an error of a filesystem into a UrlError.

    A class and not an `except`: each filesystem raises types of its own, which cannot all be known here.
    """

    def __init__(self, what: str, expected: tuple[type[Exception], ...]) -> None:
        self.what = what
        self.expected: tuple[type[Exception], ...] = (TwistError, *expected)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, self.expected):
            raise UrlError(
                f"{self.what} ({type(error).__name__}: {error}). Check the address, the network and the login, and run "
                "the same command again."
            ) from error
