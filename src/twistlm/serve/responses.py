"""One continuation as a sequence of events, in the names of OpenAI's Realtime API; WebSocket and HTTP send the same.

What that API has no name for begins with `twist.`: the place in the queue, units, and the numbers at the end.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from twistlm.audio.clip import Clip
from twistlm.errors import BadInput, TwistError
from twistlm.lm.continuation import begin
from twistlm.serve.asking import USUAL_SECONDS, Sampling
from twistlm.serve.engine import End, Listener, Piece
from twistlm.serve.keeping import keep
from twistlm.serve.studio import Prompt, Studio, new_id
from twistlm.types import Units

Event = dict[str, Any]
_STATUS = {"done": "completed", "cancelled": "cancelled", "late": "incomplete", "failed": "failed"}
_ASK_AGAIN = 0.5  # seconds between two looks at the queue


class Response:
    """One continuation that is being made.

    Attributes:
        id: of the response.
        sound: float32 pieces that were made, at `rate` Hz.
        units: unit ids that were made.
        end: how it ended; None before it did.
    """

    def __init__(
        self, studio: Studio, prompt: Prompt, asked: Sampling, *, rate: int | None = None, transcript: bool = False
    ) -> None:
        """Queue the continuation; used on the event loop.

        Raises:
            BadInput: a model, a voice or a length that there is not. Busy: the queue is full.
        """
        served, longest = studio.served, studio.limits.seconds
        seconds = min(USUAL_SECONDS, longest) if asked.seconds is None else asked.seconds
        self.studio, self.prompt, self.asked = studio, prompt, asked.model_copy(update={"seconds": seconds})
        self.id, self.item_id, self.transcript = new_id("resp"), new_id("item"), transcript
        name, lm = served.model(asked.model)
        if seconds > longest:
            raise BadInput(f"seconds is {seconds:g}; at most {longest:g} are made here.")
        self.voice = served.voice(asked.voice)
        self.model, self.rate = name, rate or self.voice.sample_rate
        self.sound: list[NDArray[np.float32]] = []
        self.units: list[int] = []
        self.end: End | None = None
        continuation = begin(
            lm,
            prompt.units,
            temperature=asked.temperature,
            seed=asked.seed,
            seconds=max(seconds, _unit_seconds(prompt.units)),
            top_k=asked.top_k,
            stop_at_end=False,
        )
        self._stream = served.stream(asked.voice, prompt.units)
        self._told: asyncio.Queue[Piece | End] = asyncio.Queue()
        self._kept: Future[None] | None = None
        loop = asyncio.get_running_loop()

        made: list[Piece] = []

        def deliver(one: Piece | End) -> None:
            # Counted and kept here, not where it is told: nobody may be there to be told.
            if isinstance(one, End):
                studio.metrics.ended(one, sample_rate=self.voice.sample_rate)
                self._kept = self._keep(made, one)
            elif studio.kept is not None:
                made.append(one)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._told.put_nowait, one)

        self._listener: Listener = studio.engine.submit(name, continuation, self._stream, deliver)

    def cancel(self) -> None:
        """Stop it; its last events still come."""
        self.studio.engine.cancel(self._listener)

    async def events(self) -> AsyncIterator[Event]:
        """Yield everything that is to be told, from `response.created` to `response.done`.

        When the consumer stops early, the continuation is cancelled.
        """
        self.studio.telling += 1
        try:
            async for event in self._events():
                yield event
        finally:
            self.studio.telling -= 1
            if self.end is None:
                self.cancel()

    async def _events(self) -> AsyncIterator[Event]:
        place = {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}
        item = {"id": self.item_id, "object": "realtime.item", "type": "message", "role": "assistant"}
        yield {"type": "response.created", "response": self._told_of("in_progress")}
        yield {
            "type": "response.output_item.added",
            "response_id": self.id,
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        }
        yield {"type": "response.content_part.added", **place, "part": {"type": "audio"}}
        resampler = None
        if self.rate != self.voice.sample_rate:
            resampler = soxr.ResampleStream(self.voice.sample_rate, self.rate, 1, dtype="float32")
        position = decided = 0
        while self.end is None:
            try:
                one = await asyncio.wait_for(self._told.get(), _ASK_AGAIN)
            except TimeoutError:
                self.studio.engine.tend()
                before = self.studio.engine.position(self._listener) + (self._listener.began is None)
                if before != position:
                    position = before
                    yield {"type": "twist.queued", "response_id": self.id, "position": position}
                continue
            if isinstance(one, End):
                self.end = one
                break
            if len(one.ids):
                self.units += one.ids.tolist()
                frames = self._stream.lasting[decided : len(self.units)]
                decided += len(frames)
                yield {"type": "twist.units.delta", "response_id": self.id, "units": one.ids.tolist(), "frames": frames}
            samples = one.samples if resampler is None else resampler.resample_chunk(one.samples)
            if len(samples):
                yield self._delta(place, samples)
        if resampler is not None and len(rest := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
            yield self._delta(place, rest)
        end = self.end
        yield {"type": "response.output_audio.done", **place}
        if self.transcript and self.studio.served.asr is not None and self.sound:
            text = await self.studio.written_down(self.clip)
            yield {"type": "response.output_audio_transcript.done", **place, "transcript": text}
        yield {"type": "response.content_part.done", **place, "part": {"type": "audio"}}
        status = "completed" if end.reason == "done" else "incomplete"
        yield {
            "type": "response.output_item.done",
            "response_id": self.id,
            "output_index": 0,
            "item": {**item, "status": status, "content": [{"type": "output_audio"}]},
        }
        if self._kept is not None:
            try:
                await asyncio.wrap_future(self._kept)
            except Exception as error:
                raise TwistError("the server could not keep the continuation: its log says why.") from error
        yield {"type": "response.done", "response": self._told_of(_STATUS[end.reason])}

    def _keep(self, made: Sequence[Piece], end: End) -> Future[None] | None:
        """Begin to keep what was made, at the voice's own rate, where that is asked for."""
        folder = self.studio.kept
        samples = [piece.samples for piece in made if len(piece.samples)]
        if folder is None or not samples:
            return None
        sound = Clip(np.concatenate(samples), self.voice.sample_rate, id=self.id)
        units = [unit for piece in made for unit in piece.ids.tolist()]
        record = {**self.asked.model_dump(), "model": self.model, "units": units, "end": end.reason}
        return self.studio.keep(lambda: keep(folder, self.prompt.clip, sound, record))

    @property
    def clip(self) -> Clip:
        """What was made so far."""
        return Clip(np.concatenate([np.zeros(0, np.float32), *self.sound]), self.rate, id=self.id)

    def _delta(self, place: Event, samples: NDArray[np.float32]) -> Event:
        self.sound.append(samples)
        return {"type": "response.output_audio.delta", **place, "delta": base64.b64encode(pcm16(samples)).decode()}

    def _told_of(self, status: str) -> Event:
        told: Event = {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": None,
            "output": [self.item_id],
            "audio": {"output": {"format": {"type": "audio/pcm", "rate": self.rate}, "voice": self.asked.voice}},
            "twist": {**self.asked.model_dump(), "model": self.model},
        }
        if (end := self.end) is not None:
            seconds = end.samples / self.voice.sample_rate
            if end.message:
                told["status_details"] = {"type": _STATUS[end.reason], "reason": end.message}
            told["usage"] = {"input_units": len(self.prompt.units), "output_units": end.units}
            told["twist"] |= {
                "waited_seconds": end.waited,
                "first_sound_seconds": end.first,
                "computed_seconds": end.worked,
                "sound_seconds": seconds,
                "real_time_factor": end.worked / seconds if seconds else None,
                "units": self.units,
                "frames": self._stream.lasting[: len(self.units)],
                "unit_seconds": float(1 / self.voice.spec.frame_rate),
            }
        return told


def _unit_seconds(prompt: Units) -> float:
    """Return how long one unit lasts on average: no continuation is shorter."""
    frames = float(prompt.runs.mean()) if prompt.spec.deduplicate and len(prompt) else 1.0
    return frames / float(prompt.spec.frame_rate)


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return little-endian 16-bit samples; what is outside -1 … 1 is clipped."""
    return (np.clip(samples, -1, 1) * 32_767).round().astype("<i2").tobytes()
