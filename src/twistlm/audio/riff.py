"""Headers of wav and au files, as far as a recorder that was killed left them without their sizes."""

from __future__ import annotations

from typing import Literal

from twistlm.audio.window import Window

_UNKNOWN = b"\xff\xff\xff\xff"  # libsndfile reads on to the end


def data_chunk(window: Window) -> tuple[int, int] | None:
    """Return where the sound of a wav file begins and how many bytes its header gives it; None without one."""
    if window.at(0, 4) not in (b"RIFF", b"RIFX", b"RF64") or window.at(8, 4) != b"WAVE":
        return None
    order: Literal["big", "little"] = "big" if window.at(0, 4) == b"RIFX" else "little"
    at = 12
    for _ in range(1000):  # chunks before the sound, of which files have some ten
        head = window.at(at, 8)
        if len(head) < 8:
            return None
        size = int.from_bytes(head[4:], order)
        if head[:4] == b"data":
            return at + 8, size
        at += 8 + size + size % 2
    return None


def unsized(window: Window) -> dict[int, bytes]:
    """Return what must be replaced to read a file whose header says that it is empty, though sound follows.

    Returns:
        Offset -> bytes, of sizes that mean "to the end"; empty where the header is as it should be.
    """
    head = window.at(0, 12)
    if head[:4] in (b".snd", b"dns."):
        order: Literal["big", "little"] = "big" if head[:4] == b".snd" else "little"
        begin = int.from_bytes(head[4:8], order)
        return {8: _UNKNOWN} if head[8:12] == bytes(4) and window.size > begin else {}
    found = data_chunk(window)
    if found is None or found[1] or head[:4] == b"RF64" or window.size <= found[0]:
        return {}
    declared = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little")
    if declared in (window.size - 8, window.size - 9):
        return {}  # finished: chunks of another kind follow a recording of nothing
    return {4: _UNKNOWN, found[0] - 4: _UNKNOWN}
