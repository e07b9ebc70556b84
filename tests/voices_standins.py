"""A voice that needs no program: a tone whose pitch and length follow from what is said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from twistlm.audio.clip import Clip


@dataclass
class Hummer:
    name: str = "hum"
    identity: str = "hummer 1"
    said: list[object] = field(default_factory=list)

    def speak(self, text: str) -> Clip:
        return self._hum(text, 0.1 + 0.004 * len(text))

    def speak_phones(self, phones) -> Clip:
        return self._hum(" ".join(phones), 0.06 * len(phones))

    def _hum(self, what: str, seconds: float) -> Clip:
        self.said.append(what)
        pitch = 100 + hashlib.sha256(f"{self.identity}{what}".encode()).digest()[0]
        t = np.arange(round(seconds * 8000)) / 8000
        silence = np.zeros(800 + 10 * (pitch % 30))
        return Clip(np.concatenate([silence, 0.3 * np.sin(2 * np.pi * pitch * t), silence]).astype(np.float32), 8000)


@dataclass
class Talker:
    """Takes no phones."""

    name: str = "talk"
    identity: str = "talker"

    def speak(self, text: str) -> Clip:
        return Hummer().speak(text)
