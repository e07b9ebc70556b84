"""What one server works with, and what it does beside continuing: hear, speak again, write down."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.compute.memory import give_back_now
from twistlm.compute.threads import apart
from twistlm.errors import TwistError
from twistlm.lm.continuation import begin
from twistlm.serve.engine import Busy, End, Engine
from twistlm.serve.limits import Limits
from twistlm.serve.metrics import Metrics
from twistlm.serve.models import Served, decoded, heard, pcm
from twistlm.types import Units
from twistlm.vocoder.vocoder import Durations

Result = TypeVar("Result")

# Of a rehearsal: seconds of noise that are heard, one short and one long; units of the prompt and of its continuation.
_REHEARSED, _PROMPT, _CONTINUED = (1.0, 6.0), 32, 8
NAME = "the recording"  # what one that was sent is called: never by a name that came with it


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A recording that was heard."""

    clip: Clip
    units: Units
    item_id: str


class Studio:
    """Models, the engine, the limits, and threads for all that is not continuing; `limits.hearing` may wait for those.

    Attributes:
        served: models and voices.
        engine: continues.
        limits: what one caller may ask.
        metrics: what is counted.
        workers: the threads.
        kept: folder in which everything is kept; None keeps nothing.
        telling: how many responses are being told to their clients.
        stopping: when set, nobody waits any longer for a recording to be heard.
        failed: why it could not be made ready.
    """

    def __init__(self, served: Served, engine: Engine, limits: Limits, *, kept: Path | None = None) -> None:
        self.served, self.engine, self.limits, self.kept = served, engine, limits, kept
        self.metrics = Metrics(engine)
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="hearing")
        self.telling = 0
        self.stopping = asyncio.Event()
        self.failed: TwistError | None = None
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keeping")
        self._under_way = 0  # on the workers, or waiting for one

    def keep(self, work: Callable[[], None]) -> Future[None]:
        """Begin to keep something, from any thread; what goes wrong is in the log, whoever waits for it or not."""
        keeping = self._keeper.submit(work)
        keeping.add_done_callback(_complain)
        return keeping

    def close(self) -> None:
        """Stop the engine and the threads; returns when all that is to be kept is on the disk."""
        self.engine.close()
        self._keeper.shutdown()
        self.workers.shutdown(cancel_futures=True)

    def rehearse(self) -> None:
        """Hear, continue and speak once: what is tried or made at first use is then there before the first listener.

        Returns when every model has continued once; its end is not looked at.
        """
        served, spec = self.served, self.served.tokenizer.spec
        room = [lm.max_tokens - _CONTINUED - 1 for lm in served.models.values() if lm.max_tokens is not None]
        n = max(1, min([_PROMPT, *room]))
        ids = np.arange(n) % spec.n_units  # none twice in a row, as of any deduplicated prompt
        prompt = Units(ids.astype(np.uint16), np.ones(n, dtype=np.int32), spec)

        def hear_and_speak() -> None:
            noise = np.random.default_rng(0).normal(scale=0.1, size=round(max(_REHEARSED) * served.rate))
            for seconds in _REHEARSED:
                heard(served, Clip(noise[: round(seconds * served.rate)].astype(np.float32), served.rate))
            for voice in served.voices:
                served.resynthesise(prompt, voice=voice, durations="given")

        apart(hear_and_speak)
        ended: queue.SimpleQueue[End] = queue.SimpleQueue()
        for name, lm in served.models.items():
            asked = begin(lm, prompt, temperature=1.0, seed=0, max_units=_CONTINUED, stop_at_end=False)
            for voice in served.voices:
                stream = served.stream(voice, prompt)
                self.engine.submit(name, asked, stream, lambda one: ended.put(one) if isinstance(one, End) else None)
                ended.get()
        give_back_now()  # of loading, and of what was tried

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

    async def speak_again(self, prompt: Prompt, *, voice: str | None, durations: Durations) -> Clip:
        """Speak a recording from its units. Raises Busy: too much else is to be done."""
        return await self._aside(
            lambda: apart(lambda: self.served.resynthesise(prompt.units, voice=voice, durations=durations))
        )

    async def written_down(self, clip: Clip) -> str:
        """Return what is said in a clip, "" without a recogniser; it waits, as what it is of was made already."""
        asr = self.served.asr
        return "" if asr is None else await self._aside(lambda: asr.transcribe(clip), whatever_waits=True)

    async def _hear(self, read: Callable[[], Clip]) -> Prompt:
        def work() -> Prompt:
            clip = read()
            return Prompt(clip, apart(lambda: heard(self.served, clip)), new_id("item"))

        return await self._aside(work)

    async def _aside(self, work: Callable[[], Result], *, whatever_waits: bool = False) -> Result:
        """Return `work()`, done on one of the threads.

        Raises:
            Busy: as much as may waits for them already; or, unless `whatever_waits`, the server stops meanwhile.
        """
        if self._under_way >= self.limits.hearing and not whatever_waits:
            raise Busy(f"{self._under_way} recordings are being heard already: try again in a few seconds.")
        self._under_way += 1
        working = asyncio.get_running_loop().run_in_executor(self.workers, work)
        working.add_done_callback(self._done)
        if not whatever_waits:
            stopping = asyncio.ensure_future(self.stopping.wait())
            try:
                await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
            if not working.done():
                raise Busy("the server is stopping.")
        return await asyncio.shield(working)  # its thread works on when the client leaves: it counts until it is done

    def _done(self, working: asyncio.Future[Result]) -> None:
        self._under_way -= 1
        if not working.cancelled():
            working.exception()  # looked at, so that one nobody waits for any more is not complained about


def _complain(keeping: Future[None]) -> None:
    if (error := keeping.exception()) is not None:
        logging.getLogger("uvicorn.error").error("a continuation could not be kept: %s", error, exc_info=error)


def new_id(kind: str) -> str:
    """Return a name that nobody can guess."""
    return f"{kind}_{secrets.token_hex(10)}"
