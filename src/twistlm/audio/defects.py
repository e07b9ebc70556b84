"""What can be wrong with a sound file, said the same way whoever finds it."""

from __future__ import annotations

from twistlm.errors import AudioError


def empty(path: object) -> AudioError:
    return AudioError(f"{path}: empty: it holds no samples. An interrupted recording or copy: make it again.")


def truncated(path: object, what: str) -> AudioError:
    return AudioError(f"{path}: truncated: {what} are there. An interrupted copy or download; fetch it again.")


def not_finite(name: str) -> AudioError:
    return AudioError(f"{name}: has NaN or infinite samples. Whatever wrote it overflowed: make it again.")


def unreadable(path: object, detail: str) -> AudioError:
    return AudioError(
        f"{path}: not a sound file, or corrupt ({detail.strip().rstrip('.')}). Convert it again, or leave it out; wav, "
        "flac, ogg (vorbis, opus), mp3, m4a, aac, webm, wma and amr are read, and no file without a header."
    )


def no_channel(path: object, channel: int, n_channels: int) -> AudioError:
    has = "one channel" if n_channels == 1 else f"{n_channels} channels"
    return AudioError(f"{path}: has {has}: there is no channel {channel}. Channels are counted from 1.")


def channels_cancel(path: object, n_channels: int, decibel: float) -> AudioError:
    return AudioError(
        f"{path}: the channels cancel: each is heard alone, their mean is {decibel:.0f} dB quieter, as where one is "
        f"the other with its sign turned (crossed wires); choose one with --channel, 1 to {n_channels}."
    )
