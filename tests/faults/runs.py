"""One run of a command in a fork of this process, with or without a fault, and which promises it broke."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Each is a fault at one call: an error that the system gives (ENOSPC+ from then on, as on a disk that stays full), a
# write that takes half of its bytes and says so, SIGKILL instead of the call, or in the middle of a write.
MODES = ("ENOSPC", "EIO", "EDQUOT", "short", "torn", "KILL")
MORE_MODES = ("ENOSPC+", "EINTR", "EACCES", "EROFS", "EMFILE")
_HOW = ("short", "torn", "KILL")  # the others name an errno
PATIENCE = 300.0  # seconds until a run counts as hung; or SLOWER times an undisturbed one, on a busy machine
SLOWER = 30.0


def fault(mode: str, n: int) -> str:
    """Return the fault at call `n` as faults.c reads it; 0 only counts."""
    if mode in _HOW:
        return f"n={n};how={mode.lower()}"
    return f"n={n};errno={mode.rstrip('+')};sticky={int(mode.endswith('+'))}"


@dataclass(frozen=True)
class Scenario:
    """A command and what it needs.

    Attributes:
        prepare: makes its inputs in the folder, without faults.
        command: the arguments of `twist`, relative to the folder; or what to do there instead.
        content: what of the folder must be the same whatever happened before; plain values.
        hook: called in the process of the command before it begins: makes things small.
    """

    prepare: Callable[[Path], None]
    command: list[str] | Callable[[Path], None]
    content: Callable[[Path], Any]
    hook: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Ran:
    """How a run ended: `code` is None when it hung; `failed` of the `counted` calls failed, first of all `what`."""

    code: int | None
    err: str
    seconds: float
    counted: int
    failed: int
    what: str


def run(
    library: Path, scenario: Scenario, folder: Path, faults: str | None, logs: Path, *, patience: float,
    kill_after: float | None = None,
) -> Ran:  # fmt: skip
    """Run a scenario's command in `folder`, `patience` seconds at most; with `faults`, as of `fault`, or without."""
    began = time.monotonic()
    child = start(library, scenario, folder, faults, logs)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return finish(child, logs, began, patience)


def start(library: Path, scenario: Scenario, folder: Path, faults: str | None, logs: Path) -> int:
    logs.mkdir(parents=True, exist_ok=True)
    state = logs / "state"
    state.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))  # a test may have others
            os.chdir(folder)
            (folder / "tmp").mkdir(exist_ok=True)
            os.environ.update(TWISTLM_CACHE=str(folder / "cache"), TMPDIR=str(folder / "tmp"))
            tempfile.tempdir = None
            scenario.hook(folder)
            if faults is not None:
                spec = f"dir={folder};state={state};{faults}"
                os.environ.update(FAULTS=spec, LD_PRELOAD=str(library))
                ctypes.CDLL(str(library)).faults_arm(spec.encode())
            code = main(scenario.command, folder)
        finally:
            os._exit(code)
    return child


def finish(child: int, logs: Path, began: float, patience: float) -> Ran:
    code = wait(child, patience)
    counted, failed, what = _state(logs / "state")
    return Ran(code, (logs / "err").read_text(errors="replace"), time.monotonic() - began, counted, failed, what)


def main(command: list[str] | Callable[[Path], None], folder: Path) -> int:
    """Do what a process of this command would, and return its exit code."""
    try:
        if callable(command):
            command(folder)
        else:
            from twistlm.cli.main import main as twist

            sys.argv = ["twist", *command]
            twist()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  as Python itself does at the top
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a fork: it leaves no caches and no threads behind."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001
            sys.__excepthook__(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    if wait(child, 4 * PATIENCE) != 0:
        raise RuntimeError("the inputs could not be made")


def wait(child: int, patience: float) -> int | None:
    """Return the exit code of a child, or None when it had to be ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _state(path: Path) -> tuple[int, int, str]:
    if not path.exists() or len(data := path.read_bytes()) < 16:
        return 0, 0, ""
    counted, failed = (int.from_bytes(data[i : i + 8], "little") for i in (0, 8))
    return counted, failed, data[16:].split(b"\0")[0].decode(errors="replace")


def judge(ran: Ran, mode: str, same: Callable[[], bool]) -> list[str]:
    """Return which promises the run itself broke; see `faults.__main__`."""
    if ran.code is None:
        return ["hang"]
    if mode in ("torn", "KILL") and ran.code == -signal.SIGKILL:
        return []
    if ran.code == 0:
        return [] if same() else ["silent"]
    broken = []
    text = ran.err.strip()
    if ran.code not in (1, 2):
        broken.append("code")
    flat = " ".join(text.lower().split())
    if "traceback" in flat or "should not happen" in flat:
        broken.append("traceback")
    elif len(re.findall(r"^error:\s", text, re.MULTILINE)) != 1 or "\n\n" in text:
        broken.append("unclear")
    if mode not in _HOW:
        reason = os.strerror(getattr(errno, mode.rstrip("+"))).lower()
        if not any(words in flat for words in (reason, "disk is full", "quota is used up")):
            broken.append("cause")
    return broken


def leftovers(folder: Path) -> list[str]:
    """Return what a finished run should not leave: temporary files, and folders of finished cells of a study."""
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".tmp-")]
    found += [str(p.relative_to(folder)) for p in folder.glob("study/cells/*")]
    # .ses is onnxruntime's own, which the voice activity detector loads.
    return found + [f"tmp/{p.name}" for p in (folder / "tmp").iterdir() if p.name != ".ses"]


def copy(template: Path, folder: Path) -> None:
    """Make `folder` what `template` is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
