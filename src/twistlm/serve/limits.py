"""What one caller may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

from twistlm.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on size and time; the queue and the time of computing are `engine.Room`'s.

    Attributes:
        upload_bytes: of a request's body, and of what a WebSocket's input buffer holds.
        prompt_seconds: of sound that is heard.
        seconds: of a continuation.
        head_seconds: in which the head of a request must have come, from the connection or the last answer on.
        upload_seconds: in which a body must have come.
        decode_seconds: in which a sound file must be decoded.
        idle_seconds: that a WebSocket may say nothing.
        send_seconds: that a client may take to receive what is sent, before it is given up.
        requests_per_minute: of one address; 0 is no limit.
        connections: requests and WebSockets open at once.
        responses: continuations at once of one WebSocket.
        hearing: recordings that are decoded and tokenized, spoken again or written down, or wait for it, at once.
    """

    upload_bytes: int = 20_000_000
    prompt_seconds: float = 30.0
    seconds: float = 60.0
    head_seconds: float = 20.0
    upload_seconds: float = 60.0
    decode_seconds: float = 20.0
    idle_seconds: float = 120.0
    send_seconds: float = 20.0
    requests_per_minute: int = 120
    connections: int = 64
    responses: int = 2
    hearing: int = 8

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "prompt_seconds", "seconds", "upload_seconds", "decode_seconds", "connections"):
            if getattr(self, name) <= 0:
                raise BadInput(f"the limit {name} is {getattr(self, name)}; it must be positive.")
