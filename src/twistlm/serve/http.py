"""The HTTP protocol: a file in; sound, events or units out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response as Answer

from twistlm.audio.clip import Clip, encoded, resample
from twistlm.errors import BadInput, TwistError
from twistlm.serve import metrics
from twistlm.serve.asking import Continue, Resynth
from twistlm.serve.guard import problem
from twistlm.serve.requests import sound_of, with_form
from twistlm.serve.responses import Event, Response
from twistlm.serve.studio import Studio

router = APIRouter()
AGAIN = {"retry-after": "3"}  # seconds, of an answer that says 503


class Problem(BaseModel):
    """What went wrong."""

    type: str
    code: str
    message: str
    param: str | None = None


class Refused(BaseModel):
    """An answer that says what went wrong, as OpenAI's API words it."""

    error: Problem


class Nothing(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid")


class UnitsOf(BaseModel):
    """The units of a recording."""

    units: list[int]
    frames: list[int]
    seconds: float
    unit_seconds: float
    n_units: int
    unit_spec: str


_WHY = {
    400: "The body is no sound file that can be used, or something asked for is not there.",
    401: "A token is needed.",
    403: "A page of another site asked.",
    408: "The body did not come in time.",
    413: "The body is too large, or the recording too long.",
    421: "The server is not called that.",
    422: "Something asked for is unknown or out of range.",
    429: "Too many requests.",
    503: "Too many listeners: try again in a few seconds.",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refused, "description": why} for code, why in _WHY.items()
}
_SOUND = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "A sound file (wav, flac, ogg, mp3, m4a, webm, …), as it is, or in the field `file` of a form, "
        "in which the parameters may stand too.",
        "content": {
            "application/octet-stream": {"schema": _SOUND},
            "audio/wav": {"schema": _SOUND},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _SOUND}},
            },
        },
    }
}
_WAV: dict[int | str, dict[str, Any]] = {
    200: {"description": "Sound.", "content": {"audio/wav": {"schema": _SOUND}}},
    **_REFUSALS,
}


def studio_of(request: Request) -> Studio:
    return request.app.state.studio


@router.get("/v1/models", summary="Models and voices")
async def models(request: Request) -> dict[str, Any]:
    """What is served: the first model and the first voice are the default."""
    served, limits = studio_of(request).served, studio_of(request).limits
    spec = served.tokenizer.spec
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "owned_by": "twistlm", "description": served.origin.get(name, "")}
            for name in served.models
        ],
        "voices": list(served.voices),
        "examples": [{"id": one.name, "text": one.text} for one in served.examples],
        "transcript": served.asr is not None,
        "sample_rate": served.rate,
        "unit_spec": {"fingerprint": spec.fingerprint, "n_units": spec.n_units, "frame_rate": float(spec.frame_rate)},
        "limits": {"prompt_seconds": limits.prompt_seconds, "seconds": limits.seconds, "bytes": limits.upload_bytes},
    }


@router.post("/v1/continue", summary="Continue a recording", openapi_extra=_BODY, response_class=Answer, responses=_WAV)
async def continue_(request: Request, asked: Annotated[Continue, Query()]) -> Answer:
    """Continue a recording: a wav when it is done, or, with `stream`, server-sent events while it is made.

    The events are those of the WebSocket, one `data:` line of JSON each, from `response.created` to `response.done`, or
    to `error` where it could not be told or kept.
    """
    studio = studio_of(request)
    data, form = await sound_of(request, studio.limits)
    asked = with_form(asked, form)
    if asked.stream and asked.with_prompt:
        raise BadInput("with_prompt is of the wav: with stream leave it out, the recording is yours already.")
    if asked.transcript and not asked.stream:
        raise BadInput("a transcript is told in events: ask for stream too.")
    prompt = await studio.hear_file(data)
    response = Response(studio, prompt, asked, rate=asked.rate, transcript=asked.transcript)
    if asked.stream:
        return StreamingResponse(_lines(response), media_type="text/event-stream")
    last: Event = {}
    gone = asyncio.create_task(_gone(request, response))
    try:
        async for event in response.events():
            last = event
    finally:
        gone.cancel()
    end = response.end
    if end is None or end.reason != "done":
        why = "it ended before it was done." if end is None else end.message
        raise HTTPException(503, f"the continuation is not whole: {why}", AGAIN)
    clip = response.clip
    if asked.with_prompt:
        before = resample(prompt.clip, sample_rate=clip.sample_rate)
        clip = Clip(np.concatenate([before.samples, clip.samples]), clip.sample_rate, id=clip.id)
    told = last["response"]["twist"]
    headers = {
        "x-twist-model": quote(response.model),  # headers are Latin-1
        "x-twist-seed": str(asked.seed),
        "x-twist-units": str(end.units),
        "x-twist-first-sound-seconds": f"{told['first_sound_seconds'] or 0:.3f}",
        "x-twist-real-time-factor": f"{told['real_time_factor'] or 0:.3f}",
    }
    return Answer(_wav(clip), media_type="audio/wav", headers=headers)


@router.post(
    "/v1/resynth", summary="Speak a recording again", openapi_extra=_BODY, response_class=Answer, responses=_WAV
)
async def resynth(request: Request, asked: Annotated[Resynth, Query()]) -> Answer:
    """Speak a recording again from nothing but its units: what a voice makes of them."""
    studio = studio_of(request)
    data, form = await sound_of(request, studio.limits)
    asked = with_form(asked, form)
    studio.served.voice(asked.voice)
    prompt = await studio.hear_file(data)
    clip = await studio.speak_again(prompt, voice=asked.voice, durations=asked.durations)
    return Answer(_wav(clip), media_type="audio/wav")


@router.post("/v1/units", summary="Units of a recording", openapi_extra=_BODY, responses=_REFUSALS)
async def units(request: Request, asked: Annotated[Nothing, Query()]) -> UnitsOf:
    """Cut a recording into units: ids, and how many frames of `unit_seconds` each lasts."""
    studio = studio_of(request)
    data, form = await sound_of(request, studio.limits)
    with_form(asked, form)
    prompt = await studio.hear_file(data)
    spec = prompt.units.spec
    return UnitsOf(
        units=prompt.units.ids.tolist(),
        frames=prompt.units.runs.tolist(),
        seconds=prompt.clip.seconds,
        unit_seconds=float(1 / spec.frame_rate),
        n_units=spec.n_units,
        unit_spec=spec.fingerprint,
    )


@router.get(
    "/v1/examples/{name}",
    summary="A recording to try",
    response_class=FileResponse,
    responses={200: {"content": {"audio/ogg": {"schema": _SOUND}}}, 404: {"model": Refused}},
)
async def example(request: Request, name: str) -> FileResponse:
    """One of the examples of /v1/models, as a sound file."""
    found = next((one for one in studio_of(request).served.examples if one.name == name), None)
    if found is None:
        raise HTTPException(404, "there is no such example.")
    return FileResponse(found.path)


@router.get("/health", summary="Whether it works", responses={503: {"description": "It does not."}})
async def health(request: Request) -> JSONResponse:
    """Whether the engine computes, and how busy it is. Needs no token."""
    engine = studio_of(request).engine
    listeners, waiting = engine.load
    told = {"status": "ok" if engine.alive else "stopped", "listeners": listeners, "waiting": waiting}
    return JSONResponse(told, 200 if engine.alive else 503)


@router.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
async def numbers(request: Request) -> Answer:
    """Counters in Prometheus's text format."""
    return Answer(studio_of(request).metrics.text(), media_type=metrics.CONTENT_TYPE)


async def _lines(response: Response) -> AsyncIterator[str]:
    try:
        async for event in response.events():
            yield _line(event)
    except Exception as error:  # of a disk, of the recogniser
        if isinstance(error, TwistError):
            why = str(error)
        else:
            logging.getLogger("uvicorn.error").error("a response could not be told to its end", exc_info=error)
            why = "the response could not be told to its end: the server's log says why."
        yield _line({"type": "error", **problem(why, code="failed", ours=True)})


def _line(event: Event) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n"


async def _gone(request: Request, response: Response) -> None:
    """Cancel the response when its client has left."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.25)
    response.cancel()


def _wav(clip: Clip) -> bytes:
    return encoded(clip, form="WAV", subtype="PCM_16", name="the continuation")
