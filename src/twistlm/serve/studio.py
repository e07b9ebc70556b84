"""What one server works with, and what it has heard."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twistlm.audio.clip import Clip
from twistlm.serve.engine import Busy, Engine
from twistlm.serve.limits import Limits
from twistlm.serve.metrics import Metrics
from twistlm.serve.models import Served, decoded, heard, pcm
from twistlm.types import Units

NAME = "the recording"  # what one that was sent is called: never by a name that came with it


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A recording that was heard."""

    clip: Clip
    units: Units
    item_id: str


class Studio:
    """Models, the engine, the limits, and threads on which recordings are heard.

    Attributes:
        served: models and voices.
        engine: continues.
        limits: what one caller may ask.
        metrics: what is counted.
        workers: the threads.
        kept: folder in which everything is kept; None keeps nothing.
    """

    def __init__(self, served: Served, engine: Engine, limits: Limits, *, kept: Path | None = None) -> None:
        self.served, self.engine, self.limits, self.kept = served, engine, limits, kept
        self.metrics = Metrics(engine)
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="hearing")
        self._hearing = 0

    async def hear_file(self, data: bytes) -> Prompt:
        """Hear a sound file.

        Raises:
            AudioError: no usable sound, or too much. Busy: too many recordings are being heard.
        """
        return await self._hear(lambda: decoded(data, name=NAME, rate=self.served.rate, limits=self.limits))

    async def hear_pcm(self, data: bytes, *, rate: int) -> Prompt:
        """Hear 16-bit samples at `rate` Hz. Raises as `hear_file`."""
        heard_at = self.served.rate
        return await self._hear(lambda: pcm(data, name=NAME, sent_rate=rate, rate=heard_at, limits=self.limits))

    async def _hear(self, read: Callable[[], Clip]) -> Prompt:
        if self._hearing >= self.limits.hearing:
            raise Busy(f"{self._hearing} recordings are being heard already: try again in a few seconds.")

        def work() -> Prompt:
            clip = read()
            return Prompt(clip, heard(self.served, clip), new_id("item"))

        self._hearing += 1
        working = asyncio.get_running_loop().run_in_executor(self.workers, work)
        working.add_done_callback(self._heard)
        return await asyncio.shield(working)  # its thread works on when the client leaves: it counts until it is done

    def _heard(self, working: asyncio.Future[Prompt]) -> None:
        self._hearing -= 1
        if not working.cancelled():
            working.exception()  # looked at, so that one nobody waits for any more is not complained about


def new_id(kind: str) -> str:
    """Return a name that nobody can guess."""
    return f"{kind}_{secrets.token_hex(10)}"
