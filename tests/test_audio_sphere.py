"""SPHERE files compressed with shorten: the samples that were compressed, and clear errors for what is not decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from twistlm.audio.clip import decode, read
from twistlm.audio.decoding import info
from twistlm.errors import AudioError

RATE = 16_000
PCM, ULAW = "pcm,embedded-shorten-v2.00", "ulaw,embedded-shorten-v2.00"


class Bits:
    """A stream of Rice codes, the highest bit of each byte first, filled up to whole words of 32 bits."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def code(self, value: int, width: int) -> None:
        self.parts.append("0" * (value >> width) + "1" + (f"{value % (1 << width):0{width}b}" if width else ""))

    def number(self, value: int) -> None:
        width = value.bit_length()
        self.code(width, 2)
        self.code(value, width)

    def signed(self, value: int, width: int) -> None:
        self.code(2 * value if value >= 0 else -2 * value - 1, width + 1)

    def data(self) -> bytes:
        text = "".join(self.parts)
        bits = text + "0" * (-len(text) % 32)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def shorten(samples: NDArray[np.int16], *, kind: int = 3, block: int = 256, skip: bytes = b"", width: int = 9) -> bytes:
    """Compress samples [N, C], each as its difference to the one before it: what version 2 calls DIFF1."""
    n_samples, channels = samples.shape
    bits, last, size = Bits(), [0] * channels, block
    for value in (kind, channels, block, 0, 0, len(skip)):
        bits.number(value)
    bits.parts += [f"{byte:08b}" for byte in skip]
    for at in range(0, n_samples, block):
        part = samples[at : at + block].astype(int)
        if len(part) != size:
            size = len(part)
            bits.code(5, 2)  # another size of block
            bits.number(size)
        for channel in range(channels):
            bits.code(1, 2)  # DIFF1
            bits.code(width, 3)
            for value in part[:, channel].tolist():
                bits.signed(value - last[channel], width)
                last[channel] = value
    bits.code(4, 2)  # the end
    return b"ajkg\2" + bits.data()


def sphere(body: bytes, samples: NDArray[np.int16], *, rate: int = RATE, coding: str = PCM) -> bytes:
    said = {
        "sample_count": f"-i {len(samples)}", "channel_count": f"-i {samples.shape[1]}", "sample_rate": f"-i {rate}",
        "sample_n_bytes": "-i 2", "sample_byte_format": "-s2 10", "sample_coding": f"-s{len(coding)} {coding}",
    }  # fmt: skip
    lines = ["NIST_1A", "   1024", *(f"{name} {value}" for name, value in said.items()), "end_head", ""]
    return "\n".join(lines).encode().ljust(1024) + body


def noise(n_samples: int, channels: int, *, seed: int = 0) -> NDArray[np.int16]:
    steps = np.random.default_rng(seed).normal(0, 300, (n_samples, channels))
    return np.clip(np.cumsum(steps, 0), -32768, 32767).astype(np.int16)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3000), st.integers(1, 2), st.sampled_from([3, 5]), st.sampled_from([64, 256, 1000]),
    st.binary(max_size=5), st.sampled_from([8_000, 16_000, 44_100]),
)  # fmt: skip
def test_every_sample_that_was_compressed(n: int, channels: int, kind: int, block: int, skip: bytes, rate: int) -> None:
    samples = noise(n, channels)
    data = sphere(shorten(samples, kind=kind, block=block, skip=skip), samples, rate=rate)
    for channel in range(channels):
        clip = decode(data, name="a.sph", sample_rate=None, channel=channel + 1)
        assert clip.sample_rate == rate and np.array_equal(clip.samples * 32768, samples[:, channel])


def test_a_file_a_part_of_it_and_its_header(tmp_path: Path) -> None:
    samples = noise(3 * RATE, 2)
    path = tmp_path / "a.wv1"
    path.write_bytes(sphere(shorten(samples), samples))
    assert info(path)[:3] == (3.0, RATE, 2)
    part = read(path, start=1.5, seconds=0.5, channel=2)
    assert np.array_equal(part.samples * 32768, samples[24_000:32_000, 1])


def test_a_header_that_counts_too_few_or_too_many() -> None:
    samples = noise(2 * RATE, 1)
    body = shorten(samples)
    few = sphere(body, samples[:RATE])
    assert len(decode(few, name="a.sph", sample_rate=None).samples) == 2 * RATE, "sound is never lost unsaid"
    many = sphere(body, np.concatenate([samples] * 2))
    with pytest.raises(AudioError, match=r"truncated: 2\.00 of 4\.00 s"):
        decode(many, name="a.sph")


def test_what_cannot_be_decoded_says_what_to_do() -> None:
    samples = noise(2 * RATE, 1)
    whole = sphere(shorten(samples), samples)
    for data, message in (
        (sphere(shorten(samples, kind=8), samples, coding=ULAW), r"no telephone codes. Unpack .* `sph2pipe -p -f wav"),
        (whole[:20_000], r"truncated|corrupt"),
        (whole[:1024], "no stream of shorten"),
        (whole[:1030], "do not end|not found"),
        (whole.replace(b"channel_count -i 1", b"channel_count -i 2"), "2 and 1 channels"),
        (whole.replace(b"sample_count -i", b"sample_sum -i  "), "'sample_count'"),
        (sphere(b"", samples, coding="pcm,embedded-shortpack-v0"), "not a sound file, or corrupt"),
    ):  # fmt: skip
        with pytest.raises(AudioError, match=message):
            decode(data, name="a.sph")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_streams_are_errors_or_sound_and_nothing_else(data: st.DataObject) -> None:
    samples = noise(2000, 1)
    damaged = bytearray(sphere(shorten(samples), samples))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(16, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(damaged), name="a.sph")
    except AudioError as error:
        assert "a.sph" in str(error)
