"""A job cut into stages that each finish once: what is done is on disk with a hash of what it was made from.

Killed at any moment, the next run takes finished stages from disk and begins the unfinished one again (or goes on
inside it, where its work can). Nothing depends on how often it was killed, except the clock.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from twistlm.errors import BadInput, offenders
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json

Values = dict[str, Any]
_MARK = "stages"
_RECORD = {"key?": str, "done?": bool, "value?": dict, "seconds?": {str: float}, "peak_rss_gb?": float}
_HEARTBEAT = 5.0  # seconds between two notes of the time spent: at most this much is lost when killed


class Stages:
    """The stages of one job in one folder.

    Attributes:
        out: the job's folder.
        seconds: stage -> seconds spent on it, over all runs.
        peak_rss_gb: the most memory any run held, in 1e9 bytes.
    """

    def __init__(self, out: str | Path) -> None:
        """Open the folder, which must be new, empty or of an earlier run of this job.

        Raises:
            BadInput: it holds other things, which a stage might overwrite.
        """
        self.out = Path(out)
        if self.out.exists() and not self.out.is_dir():
            raise BadInput(f"{self.out} is a file: name a folder for the results.")
        if self.out.is_dir() and not (self.out / _MARK).is_dir() and any(self.out.iterdir()):
            raise BadInput(
                f"{self.out} is neither empty nor the folder of an earlier quickstart: its files might be overwritten. "
                "Name a new folder with --out."
            )
        (self.out / _MARK).mkdir(parents=True, exist_ok=True)
        timings = self._read("timings.json") or {}
        self.seconds: dict[str, float] = timings.get("seconds", {})
        self.peak_rss_gb: float = timings.get("peak_rss_gb", 0.0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that two runs never write in it at once.

        Raises:
            BadInput: another run holds it.
        """
        lock = FileLock(self.out / _MARK / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(f"another run is working in {self.out}: wait for it, or name another folder.") from None
        try:
            yield
        finally:
            lock.release()

    def run(
        self,
        name: str,
        made_from: Values,
        work: Callable[[], Values],
        *,
        folder: Path | None = None,
        others: Sequence[str] = (),
    ) -> Values:
        """Return what `work` gives, from disk when it was made from the same things before.

        Args:
            name: of the stage.
            made_from: everything the result depends on; plain JSON values.
            work: does it; returns plain JSON values.
            folder: what `work` writes into. Removed first when it was begun from other things; left for `work` to go on
                with when it was begun from the same. Where it is gone, the work is done again.
            others: patterns of what others put into `folder`, which is not removed with it.

        Raises:
            BadInput: `folder` would have to be removed and holds things of others.
        """
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        mark = f"{_MARK}/{name}.json"
        record = self._read(mark)
        begun = {"key": key, "done": False, "made_from": made_from}
        if record is None or record["key"] != key:
            if folder is not None and folder.exists():
                if foreign := sorted(str(path) for pattern in others for path in folder.glob(pattern)):
                    raise BadInput(
                        f"{folder} would be made anew, since what it is made from has changed, and holds what was made "
                        f"of it since: {offenders(foreign)}. Name another folder with --out, or move these away."
                    )
                # Killed while it is removed, neither its old settings nor the new ones may take what is left for whole.
                self._write(mark, {"key": "", "done": False, "made_from": {}})
                shutil.rmtree(folder)
            self.seconds.pop(name, None)
            self._write(mark, begun)
        elif record["done"]:
            if folder is None or folder.is_dir():
                return record["value"]
            self._write(mark, begun)
        with self._timed(name):
            # Through JSON, so that a resumed run sees the very values (lists for tuples) that the first one saw.
            value = json.loads(json.dumps(work()))
        if folder is not None:
            folder.mkdir(exist_ok=True)  # a stage may have had nothing to write
        self._write(mark, {"key": key, "done": True, "made_from": made_from, "value": value})
        return value

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        before, started, ended = self.seconds.get(name, 0.0), time.monotonic(), threading.Event()

        def note() -> None:
            self.seconds[name] = before + time.monotonic() - started
            self.peak_rss_gb = max(self.peak_rss_gb, peak_rss() / 1e9)
            self._write("timings.json", {"seconds": self.seconds, "peak_rss_gb": self.peak_rss_gb})

        def beat() -> None:
            while not ended.wait(_HEARTBEAT):
                note()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            note()

    def _read(self, name: str) -> Values | None:
        path = self.out / name
        if not path.exists():
            return None
        fix = "Remove it, and what it stands for is done again."
        found: Values = read_json(path, "the record of a stage, or timings", shape=_RECORD, nan=True, fix=fix)
        return found

    def _write(self, name: str, values: Values) -> None:
        with atomic_write(self.out / name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def peak_rss() -> int:
    """Return the most memory this process ever held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent process held before it became us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
