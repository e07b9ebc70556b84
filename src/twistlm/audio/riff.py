"""Headers of wav, au and caf files, as far as a recorder left them without sizes, or with such as are not true."""

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


def is_joined(window: Window) -> bool:
    """Return whether another file begins where an au or caf file ends by its own sizes (others libsndfile refuses)."""
    head = window.at(0, 12)
    if head[:4] in (b".snd", b"dns."):
        order: Literal["big", "little"] = "big" if head[:4] == b".snd" else "little"
        return window.at(int.from_bytes(head[4:8], order) + int.from_bytes(head[8:12], order), 4) == head[:4]
    at = 8 if head[:4] == b"caff" else window.size
    for _ in range(1000):  # chunks, of which files have some ten
        if at + 12 > window.size:  # also by a size that means "to the end"
            return False
        chunk = window.at(at, 12)
        if chunk[:4] == b"caff":
            return True
        at += 12 + int.from_bytes(chunk[4:], "big")
    return False


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


def stale(window: Window, *, least: int) -> dict[int, bytes]:
    """Return what must be replaced to read a wav file whose header gives it less sound than follows.

    That is of a recorder that wrote its sizes once and was killed, or of more than 4 GB, whose sizes came round to a
    small number. Sound is taken for what follows only where it is no chunk, is not silence, and is left out of the
    size of the whole as well.

    Args:
        window: the file.
        least: bytes that must follow, a second of sound; 0: of a kind whose seconds have no size.

    Returns:
        As `unsized`.
    """
    found = data_chunk(window)
    if found is None or not least or window.at(0, 4) == b"RF64" or not 0 < found[1] < window.size:
        return {}
    end = found[0] + found[1] + found[1] % 2
    behind = window.at(end, 4096)
    declared = int.from_bytes(window.at(4, 4), "big" if window.at(0, 4) == b"RIFX" else "little") + 8
    if window.size - end < least or declared > end + (window.size - end) // 2:
        return {}
    named = behind[:4].isascii() and behind[:4].decode("ascii", "replace").isprintable()
    silent = sum(map(bool, behind)) < len(behind) // 8
    return {} if named or silent else {4: _UNKNOWN, found[0] - 4: _UNKNOWN}


def counted(window: Window) -> tuple[int, int] | None:
    """Return how many bytes of sound an RF64 file declares, and how many there are; None of other files."""
    if window.at(0, 4) != b"RF64" or window.at(12, 4) != b"ds64" or (found := data_chunk(window)) is None:
        return None
    declared = int.from_bytes(window.at(28, 8), "little")
    return (declared, window.size - found[0]) if 0 < declared < 1 << 62 else None
