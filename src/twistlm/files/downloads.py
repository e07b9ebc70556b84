"""Downloads that end: bounded in bytes, and given up when hardly anything comes.

Who answers may be broken or hostile: it may send for ever, a byte now and then, less than it said, or a small stream
that unpacks to a large one. Whatever fetches (urllib, pip, the hub's client, fsspec) is watched from outside, by what
it puts on the disk.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO, Literal

from twistlm.errors import ArtifactError

STALL = 60.0  # seconds in which LEAST bytes must come
LEAST = 200_000  # 3 kB/s
START = 120.0  # seconds until the first of them: a client may have to look about first
MOST_UNTOLD = 16 << 30  # bytes of a sound, manifest or shard behind a URL whose server does not say how many it has
_LOOK = 0.2  # seconds between two looks


class Watch:
    """What a download has put below a path, and whether it may go on.

    Args:
        place: the file or folder it writes.
        most: bytes that may come.
    """

    def __init__(self, place: Path, most: int) -> None:
        self.place, self.most, self.stopped = place, most, False
        self._since, self._then = time.monotonic(), 0

    def check(self) -> None:
        """Do nothing for a download that may go on.

        Raises:
            ArtifactError: it is too large or too slow, or was given up elsewhere.
        """
        (there, held), now = _sizes(self.place), time.monotonic()
        if there > self.most:
            raise ArtifactError(
                f"the download was ended: more than the {in_bytes(self.most)} came that it may have. The server sends "
                "something else than it should: get the file another way, or tell who runs the server"
            )
        if held - self._then >= LEAST:
            self._since, self._then = now, held
        if now - self._since > (STALL if there else max(START, STALL)):
            raise ArtifactError(
                f"the download was ended: less than {in_bytes(LEAST)} came in {now - self._since:.0f} s. The network "
                "or the server is too slow or stuck; run the same command again later"
            )
        if self.stopped:
            raise ArtifactError("the download was ended")


def fetch_url(url: str, target: Path, *, most: int) -> None:
    """Write what lies at a web address to `target`.

    Raises:
        ArtifactError: no answer, less or more than was said, too slow, or a form that would have to be unpacked.
        OSError: it cannot be written.
    """

    def work() -> None:
        with target.open("wb") as out:
            for piece in _pieces(url, most):
                out.write(piece)
                out.flush()  # what is on the disk is looked at
                watch.check()

    watch = Watch(target, most)
    try:
        in_thread(work, watch)
    except http.client.HTTPException as error:
        raise ArtifactError(f"the download failed ({error})") from error


def in_thread(work: Callable[[], None], watch: Watch) -> None:
    """Do `work` in a thread and wait for it as long as `watch` allows; what it raises is raised.

    `work` must call `watch.check` now and then, which ends it when it is waited for no longer, after Ctrl-C too. A
    thread that hangs in a read is left behind; it keeps no process from ending.

    Raises:
        ArtifactError: as of `Watch.check`.
    """
    caught = _Caught()

    def run() -> None:
        with caught:
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK)
            if thread.is_alive():
                watch.check()
    finally:
        watch.stopped = True
    if caught.error is not None:
        raise caught.error


def run_watched(
    command: Sequence[str], place: Path, *, most: int, environment: dict[str, str], show: bool = False
) -> tuple[int, str]:
    """Run a command that downloads to below `place`; return its exit code and the end of what it wrote.

    Args:
        command: with its arguments.
        place: what it writes.
        most: bytes that may come.
        environment: of the command.
        show: let its standard error, where bars are drawn, through to ours.

    Raises:
        ArtifactError: as of `Watch.check`; the command is ended.
    """
    watch = Watch(place, most)
    said: list[str] = []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None if show else subprocess.STDOUT,
        text=True, errors="replace", env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    reader = threading.Thread(target=_keep_end, args=(process.stdout, said), daemon=True)
    reader.start()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_LOOK)
                break
            watch.check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)
    return code, "".join(said)


def require_space(place: Path, needed: int, *, variable: str) -> None:
    """Do nothing where `needed` bytes are free; `variable` is what moves the place to another disk.

    Raises:
        ArtifactError: there are fewer.
    """
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ArtifactError(
            f"it has {in_bytes(needed)}, and {in_bytes(free)} are free in {place}: free some space, or set {variable} "
            "to a folder on another disk"
        )


def in_bytes(n: int) -> str:
    """Return a number of bytes as people say it: "3.1 GB"."""
    for name, unit in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= unit:
            return f"{n / unit:.1f} {name}"
    return f"{n} bytes"


class _Caught:
    """Keeps the error that its block raises: a thread's own would be printed and lost."""

    error: BaseException | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> Literal[True]:
        self.error = error
        return True


def _sizes(place: Path) -> tuple[int, int]:
    """Return the bytes of a file or of all below a folder, as their names say and as the disk holds.

    They differ for a client that makes a file in its whole size first and fills it.
    """
    named = held = 0
    with suppress(OSError):  # they come and go meanwhile
        for path in place.rglob("*") if place.is_dir() else [place]:
            with suppress(OSError):
                stat = path.lstat()
                if S_ISREG(stat.st_mode):
                    named += stat.st_size
                    held += getattr(stat, "st_blocks", 0) * 512 or stat.st_size
    return named, held


def _pieces(url: str, most: int) -> Iterator[bytes]:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        packed = answer.headers.get("Content-Encoding", "identity")
        if packed.lower() != "identity":
            raise ArtifactError(f"the server sends it packed ({packed}), which was not asked for: it is not taken")
        told = answer.headers.get("Content-Length", "")
        if told.isdecimal() and int(told) > most:
            raise ArtifactError(f"the server says that it has {in_bytes(int(told))}, and it may have {in_bytes(most)}")
        came = 0
        while piece := answer.read1(1 << 20):  # `read` would wait for all of them, however slowly they come
            came += len(piece)
            yield piece
        if told.isdecimal() and came != int(told):  # http.client takes a closed connection for the end
            raise ArtifactError(f"the download is not whole: {came} of {told} bytes came before the server hung up")


def _keep_end(stream: IO[str], said: list[str], most: int = 100_000) -> None:
    """Read a stream to its end and keep the last of it in `said`."""
    while piece := stream.read(1 << 16):
        said[:] = ["".join(said)[-most:] + piece]
