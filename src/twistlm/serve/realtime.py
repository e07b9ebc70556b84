"""The WebSocket protocol: recordings in, sound out, in the event names of OpenAI's Realtime API.

    client                              server
                                        session.created
    session.update                      session.updated
    input_audio_buffer.append …
    input_audio_buffer.commit           input_audio_buffer.committed, conversation.item.added, twist.prompt
    response.create                     response.created … response.output_audio.delta … response.done
    response.cancel                     … response.done (cancelled)
    input_audio_buffer.clear            input_audio_buffer.cleared
                                        error

Where it is another thing than a conversation: a response continues the last recording that was committed, and may be
asked for again with other settings. Appended audio is mono 16-bit PCM at the session's rate, or one whole sound file
when the session says so.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from twistlm.errors import BadInput, TwistError
from twistlm.serve.asking import USUAL_SECONDS, Rate, Sampling
from twistlm.serve.engine import Busy
from twistlm.serve.responses import Event, Response, pcm16
from twistlm.serve.studio import Prompt, Studio, new_id

router = APIRouter()
PROTOCOL = "realtime"


class _Loose(BaseModel):
    """What other clients of this API send and we do not know is no error."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Format(_Loose):
    """`audio/pcm` at a rate, or `audio/file`: a whole sound file of any kind."""

    type: Literal["audio/pcm", "audio/file"] = "audio/pcm"
    rate: Rate = 24_000


class Input(_Loose):
    format: Format = Format()


class Output(_Loose):
    format: Format = Format()
    voice: str | None = Field(default=None, max_length=200)


class Audio(_Loose):
    input: Input = Input()
    output: Output = Output()


class Session(_Loose):
    """What a session is set to; `twist` holds what other clients do not know."""

    audio: Audio = Audio()
    twist: Sampling = Sampling()
    transcript: bool = False
    echo: bool = False  # send the recording back, as it was heard


class _Event(_Loose):
    event_id: str | None = Field(default=None, max_length=200)


class Update(_Event):
    type: Literal["session.update"]
    session: dict[str, Any]


class Append(_Event):
    type: Literal["input_audio_buffer.append"]
    audio: str


class Commit(_Event):
    type: Literal["input_audio_buffer.commit"]


class Clear(_Event):
    type: Literal["input_audio_buffer.clear"]


class Asked(_Loose):
    twist: Sampling | None = None
    audio: Audio | None = None


class Create(_Event):
    type: Literal["response.create"]
    response: Asked | None = None


class Cancel(_Event):
    type: Literal["response.cancel"]
    response_id: str | None = Field(default=None, max_length=200)


Told = Annotated[Update | Append | Commit | Clear | Create | Cancel, Field(discriminator="type")]
_TOLD: TypeAdapter[Told] = TypeAdapter(Told)
_KINDS = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(Told)[0])}


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """Serve one client until it leaves, or says nothing for too long."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    await Conversation(socket, socket.app.state.studio).run()


class Conversation:
    """One client."""

    def __init__(self, socket: WebSocket, studio: Studio) -> None:
        self.socket, self.studio = socket, studio
        model = socket.query_params.get("model")
        usual = min(USUAL_SECONDS, studio.limits.seconds)
        self.session = Session(twist=Sampling(model=model[:200] if model else None, seconds=usual))
        self.held = bytearray()
        self.prompt: Prompt | None = None
        self.responses: dict[str, tuple[Response, asyncio.Task[None]]] = {}
        self._sending = asyncio.Lock()
        self._id = new_id("sess")

    async def run(self) -> None:
        """Answer until the end."""
        try:
            try:
                told = self._told()
            except BadInput as error:  # the address names a model that is not here
                await self._refuse("invalid_request", str(error), None, param="model")
                await self.socket.close(1008, "there is no such model.")
                return
            await self._send({"type": "session.created", "session": told})
            while True:
                try:
                    message = await asyncio.wait_for(self.socket.receive(), self.studio.limits.idle_seconds)
                except TimeoutError:
                    if self.responses:
                        continue
                    await self.socket.close(1000, "nothing was said for too long.")
                    return
                if message["type"] == "websocket.disconnect":
                    return
                await self._take(message.get("text"))
        except (WebSocketDisconnect, TimeoutError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self.socket.application_state is WebSocketState.CONNECTED:
                raise  # not the one for a socket that is closed
        finally:
            for response, task in list(self.responses.values()):
                response.cancel()
                task.cancel()

    async def _take(self, text: str | None) -> None:
        event_id = None
        try:
            if text is None:
                raise BadInput("frames are text: one JSON object each.")
            try:
                raw = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"not JSON: {error}.") from error
            given = raw.get("event_id") if isinstance(raw, dict) else None
            event_id = given if isinstance(given, str) and len(given) <= 200 else None
            await self._do(_TOLD.validate_python(raw))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"] if str(part) not in _KINDS) or "type"
            await self._refuse("invalid_value", f"{where}: {first['msg']}", event_id, param=where)
        except Busy as error:
            await self._refuse("busy", str(error), event_id, kind="server_error")
        except TwistError as error:
            await self._refuse("invalid_request", str(error), event_id)

    async def _do(self, told: Told) -> None:
        match told:
            case Update():
                session = self._changed(told.session)
                self._check(session)
                if session.audio.input != self.session.audio.input and self.held:
                    self.held.clear()  # it is of the other kind
                    await self._send({"type": "input_audio_buffer.cleared"})
                self.session = session
                await self._send({"type": "session.updated", "session": self._told()})
            case Append():
                self._append(told.audio)
            case Clear():
                self.held.clear()
                await self._send({"type": "input_audio_buffer.cleared"})
            case Commit():
                await self._commit()
            case Create():
                self._create(told.response or Asked())
            case Cancel():
                self._cancel(told.response_id)

    def _changed(self, told: dict[str, Any]) -> Session:
        """Return the session with what it is to be set to; of two names for one thing the one that is told counts."""
        # What is no object is refused here, before its parts are looked at.
        changed = Session.model_validate(_merged(self.session.model_dump(), told)).model_dump()
        ours = _branch(told, "twist")
        if isinstance(told.get("model"), str) and "model" not in ours:
            changed["twist"] |= {"model": told["model"]}
        if "voice" in _branch(told, "audio", "output"):
            changed["twist"] |= {"voice": None}
        elif "voice" in ours:
            changed["audio"]["output"] |= {"voice": None}
        return Session.model_validate(changed)

    def _check(self, session: Session) -> None:
        self.studio.served.model(session.twist.model)
        for name in (session.audio.output.voice, session.twist.voice):
            self.studio.served.voice(name)
        if session.audio.output.format.type != "audio/pcm":
            raise BadInput("sound is sent as audio/pcm.")

    def _append(self, audio: str) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput(f"audio is no base64: {error}.") from error
        limits, form = self.studio.limits, self.session.audio.input.format
        most = limits.upload_bytes
        if form.type == "audio/pcm":
            most = min(most, 2 * round(limits.prompt_seconds * form.rate))
        if len(self.held) + len(data) > most:
            self.held.clear()
            raise BadInput(f"more than {most} bytes of audio: {limits.prompt_seconds:g} s are heard. It was cleared.")
        self.held += data

    async def _commit(self) -> None:
        data, form = bytes(self.held), self.session.audio.input.format
        before = None if self.prompt is None else self.prompt.item_id
        try:
            if not data:
                raise BadInput("there is no audio: append some before the commit.")
            if form.type == "audio/pcm":
                prompt = await self.studio.hear_pcm(data, rate=form.rate)
            else:
                prompt = await self.studio.hear_file(data)
        except BaseException as error:
            if not isinstance(error, Busy):  # else it was not heard, and may be committed again as it is
                self.held.clear()
            self.prompt = None  # nobody means the one before it
            raise
        self.held.clear()
        self.prompt = prompt
        await self._send(
            {"type": "input_audio_buffer.committed", "previous_item_id": before, "item_id": prompt.item_id}
        )
        item = {"id": prompt.item_id, "object": "realtime.item", "type": "message", "role": "user"}
        content = [{"type": "input_audio", "transcript": None}]
        await self._send(
            {
                "type": "conversation.item.added",
                "previous_item_id": before,
                "item": {**item, "status": "completed", "content": content},
            }
        )
        echo = base64.b64encode(pcm16(prompt.clip.samples)).decode() if self.session.echo else None
        await self._send(
            {
                "type": "twist.prompt",
                "item_id": prompt.item_id,
                "seconds": prompt.clip.seconds,
                "units": prompt.units.ids.tolist(),
                "frames": prompt.units.runs.tolist(),
                "unit_seconds": float(1 / prompt.units.spec.frame_rate),
                "note": prompt.clip.note,
                "rate": prompt.clip.sample_rate,
                "audio": echo,
            }
        )

    def _create(self, asked: Asked) -> None:
        if self.prompt is None:
            raise BadInput("there is nothing to continue: append audio and commit it first.")
        if len(self.responses) >= self.studio.limits.responses:
            raise Busy(f"{len(self.responses)} responses are being made already: cancel one, or wait.")
        given = {name: value for name, value in asked.model_dump(exclude_unset=True).items() if value is not None}
        session = Session.model_validate(_merged(self.session.model_dump(), given))
        self._check(session)
        sampling, output = session.twist, session.audio.output
        if output.voice is not None and (asked.twist is None or asked.twist.voice is None):
            sampling = sampling.model_copy(update={"voice": output.voice})
        response = Response(
            self.studio, self.prompt, sampling, rate=output.format.rate, transcript=self.session.transcript
        )
        self.responses[response.id] = response, asyncio.create_task(self._tell(response))

    def _cancel(self, response_id: str | None) -> None:
        chosen = list(self.responses) if response_id is None else [response_id]
        if not chosen or chosen[0] not in self.responses:
            raise BadInput("there is no such response to cancel.")
        for one in chosen:
            self.responses[one][0].cancel()

    async def _tell(self, response: Response) -> None:
        try:
            async for event in response.events():
                if event["type"] == "response.done":
                    del self.responses[response.id]  # whoever hears that it is done may ask for another one at once
                await self._send(event)
        except (WebSocketDisconnect, TimeoutError):
            response.cancel()  # the client has left, or does not take what it is sent
            if self._connected:
                await self.socket.close(1008, "what was sent was not received in time.")
        except (RuntimeError, OSError, ValueError, TwistError):  # of the recogniser, of a disk
            response.cancel()
            if self._connected:  # else it is of a socket that is closed
                await self.socket.close(1011, "the response could not be told to its end.")
                raise  # into the log
        finally:
            self.responses.pop(response.id, None)

    @property
    def _connected(self) -> bool:
        states = self.socket.application_state, self.socket.client_state
        return states == (WebSocketState.CONNECTED, WebSocketState.CONNECTED)

    async def _send(self, event: Event) -> None:
        text = json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))
        async with self._sending, asyncio.timeout(self.studio.limits.send_seconds):
            await self.socket.send_text(text)

    async def _refuse(
        self,
        code: str,
        why: str,
        event_id: str | None,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        told = {"type": kind, "code": code, "message": why, "param": param, "event_id": event_id}
        await self._send({"type": "error", "error": told})

    def _told(self) -> Event:
        return {
            "id": self._id,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.studio.served.model(self.session.twist.model)[0],
            "output_modalities": ["audio"],
            **self.session.model_dump(),
        }


def _branch(told: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return what is told below these names; nothing where it is no object."""
    for name in names:
        below = told.get(name)
        told = below if isinstance(below, dict) else {}
    return told


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return settings changed by others, branch by branch."""
    return old | {
        key: _merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
        for key, value in new.items()
    }
