"""espeak-ng through its library, which tells when it says each phone (the program does not).

The structures and numbers are those of `speak_lib.h` (espeak-ng 1.51). One synthesis at a time a process: the library
keeps global state.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

import numpy as np
from numpy.typing import NDArray

from twistlm.errors import ArtifactError

RETRIEVAL, PHONEME_EVENTS = 1, 1  # output to the callback; an option of espeak_Initialize
RATE, PITCH = 1, 3  # parameters
UTF8, BY_CHARACTER = 1, 1
END_OF_EVENTS, PHONEME = 0, 7  # kinds of event


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    ]  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its sample rate in Hz."""
    name = ctypes.util.find_library("espeak-ng")
    if name is None:
        raise ArtifactError("the library of espeak-ng is missing: apt install espeak-ng")
    library = ctypes.CDLL(name)
    rate = library.espeak_Initialize(RETRIEVAL, 0, None, PHONEME_EVENTS)
    if rate <= 0:
        raise ArtifactError("espeak-ng's library does not start: apt install espeak-ng-data")
    return library, rate


def say(
    voice: str, text: str, *, words_per_minute: int, pitch: int
) -> tuple[NDArray[np.float32], int, list[tuple[str, float, float]]]:
    """Samples [N] of `voice` ("en-us+m3") saying `text`, their rate in Hz, and each phone with start and end in
    seconds. Phones have espeak's names, which differ a little between accents; pauses are "_:" and the like.

    Args:
        pitch: 0 … 99; 50 is the voice's own.
    """
    library, rate = _library()
    parts: list[NDArray[np.int16]] = []
    marks: list[tuple[str, float]] = []

    def receive(wave, count, events):  # type: ignore[no-untyped-def]
        if wave and count > 0:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while events[at].type != END_OF_EVENTS:
            if events[at].type == PHONEME:
                marks.append((events[at].id.string.decode(), events[at].audio_position / 1000))
            at += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ArtifactError(f"espeak-ng has no voice {voice!r}")
    library.espeak_SetParameter(RATE, words_per_minute, 0)
    library.espeak_SetParameter(PITCH, pitch, 0)
    encoded = text.encode() + b"\0"
    if library.espeak_Synth(encoded, len(encoded), 0, BY_CHARACTER, 0, UTF8, None, None) != 0:
        raise ArtifactError(f"espeak-ng could not say {text[:60]!r}")
    library.espeak_Synchronize()
    samples = np.concatenate(parts).astype(np.float32) / 32768 if parts else np.zeros(0, np.float32)
    ends = [start for _, start in marks[1:]] + [len(samples) / rate]
    return samples, rate, [(name, start, end) for (name, start), end in zip(marks, ends, strict=True) if end > start]
