"""Damage sound files in every way we can think of and read each: a named error or a valid clip, no crash, no hang.

    python runs/fuzz_audio.py --n 10000 --seed 0

Each file is a pure function of (seed, its number): a small wav, flac, ogg, opus, mp3, … and one damage. Processes with
a limit of memory and time read it with `info`, `read` and `decode`, so that a fault of libsndfile ends one of them and
not the run. Prints how many of each outcome as JSON; files that were neither refused by name nor read well are listed,
kept in `--keep`, and make the exit code 1.
"""

from __future__ import annotations

import argparse
import collections
import functools
import io
import json
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile as sf

from twistlm.audio.clip import decode, read
from twistlm.audio.decoding import info
from twistlm.errors import BadInput

SECONDS_A_FILE = 10  # before a worker is taken for hung: the slowest sound file takes a hundredth
MEMORY = 2 << 30  # bytes a worker may map besides what it has at the start

SOURCES = (  # name, libsndfile's format and subtype, rate
    ("16.wav", "WAV", "PCM_16", 16_000), ("24.wav", "WAV", "PCM_24", 44_100), ("f.wav", "WAV", "FLOAT", 16_000),
    ("ulaw.wav", "WAV", "ULAW", 8_000), ("adpcm.wav", "WAV", "IMA_ADPCM", 22_050), ("x.wav", "WAVEX", "PCM_16", 48_000),
    ("16.flac", "FLAC", "PCM_16", 16_000), ("24.flac", "FLAC", "PCM_24", 48_000),
    ("vorbis.ogg", "OGG", "VORBIS", 16_000), ("opus.ogg", "OGG", "OPUS", 24_000), ("opus.opus", "OGG", "OPUS", 16_000),
    ("a.mp3", "MP3", "MPEG_LAYER_III", 16_000), ("b.mp3", "MP3", "MPEG_LAYER_III", 44_100),
    ("a.aiff", "AIFF", "PCM_16", 16_000), ("a.au", "AU", "PCM_16", 16_000), ("a.caf", "CAF", "PCM_16", 16_000),
    ("a.w64", "W64", "PCM_16", 16_000), ("a.sph", "NIST", "PCM_16", 16_000),
)  # fmt: skip
EXTREMES = (0, 1, 2, 7, 255, 0x7FFF, 0x8000, 0xFFFF, 384_001, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)


@functools.cache
def ogg_crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C1_1DB7 if crc & 0x8000_0000 else 0)) & 0xFFFF_FFFF
        table.append(crc)
    return table


def resealed(data: bytes) -> bytes:
    """Return an Ogg file with serial number 1 and right checksums on every page that can be found.

    libsndfile draws serials from the clock; and with wrong checksums the codec behind them would see no damage.
    """
    out, table, at = bytearray(data), ogg_crc_table(), 0
    while (at := out.find(b"OggS", at)) >= 0 and at + 27 <= len(out):
        n_segments = out[at + 26]
        end = at + 27 + n_segments + sum(out[at + 27 : at + 27 + n_segments])
        out[at + 14 : at + 18] = struct.pack("<I", 1)
        out[at + 22 : at + 26] = bytes(4)
        crc = 0
        for byte in out[at:end]:
            crc = (crc << 8 & 0xFFFF_FFFF) ^ table[crc >> 24 ^ byte]
        out[at + 22 : at + 26] = struct.pack("<I", crc)
        at = max(min(end, len(out)), at + 27)
    return bytes(out)


@functools.cache
def source(index: int, channels: int, seconds: float) -> bytes:
    """Return a whole sound file: noise and a tone, the same bytes each time."""
    _, form, subtype, rate = SOURCES[index]
    rng = np.random.default_rng((index, channels))
    time = np.arange(int(seconds * rate))[:, None] / rate
    sound = 0.3 * np.sin(2 * np.pi * 300 * (1 + np.arange(channels)) * time) + rng.normal(
        0, 0.02, (len(time), channels)
    )
    file = io.BytesIO()
    sf.write(file, sound, rate, format=form, subtype=subtype)
    data = file.getvalue()
    if subtype == "FLOAT":  # the time of writing stands in its chunk of peaks
        at = data.index(b"PEAK") + 12
        data = data[:at] + bytes(4) + data[at + 4 :]
    return resealed(data) if form == "OGG" else data


def flipped(data: bytes, rng: np.random.Generator, first: int, last: int) -> bytes:
    out = bytearray(data)
    for at in rng.integers(first, max(first + 1, min(last, len(out))), 2 ** int(rng.integers(0, 7))):
        out[min(at, len(out) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwritten(data: bytes, rng: np.random.Generator, last: int) -> bytes:
    """Put one to three extreme numbers into the header: absurd rates, sizes, counts of channels, of bits, of bytes."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        form = str(rng.choice(["<I", ">I", "<H", ">H", "<Q", ">Q"]))
        value = int(rng.choice(EXTREMES)) % (1 << 8 * struct.calcsize(form))
        at = int(rng.integers(0, min(last, len(out)) - 8) // 2 * 2)
        out[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(out)


def spliced(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out, double, blank or replace a stretch."""
    first, last = sorted(int(n) for n in rng.integers(0, len(data), 2))
    stretch = data[first:last]
    middles = (b"", stretch * 2, bytes(len(stretch)), rng.bytes(len(stretch)), rng.bytes(int(rng.integers(1, 5000))))
    return data[:first] + middles[int(rng.integers(len(middles)))] + data[last:]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "whole": lambda data, _: data,
    "truncated": lambda data, rng: data[: int(rng.integers(0, len(data)))],
    "stump": lambda data, rng: data[: int(rng.integers(0, 100))],
    "header flipped": lambda data, rng: flipped(data, rng, 0, 128),
    "body flipped": lambda data, rng: flipped(data, rng, 64, len(data)),
    "header overwritten": lambda data, rng: overwritten(data, rng, 100),
    "start overwritten": lambda data, rng: overwritten(data, rng, 600),
    "spliced": spliced,
    "joined": lambda data, rng: data[: len(data) // 2] + source(int(rng.integers(len(SOURCES))), 1, 0.5),
    "junk before": lambda data, rng: rng.bytes(int(rng.integers(1, 5000))) + data,
    "junk behind": lambda data, rng: data + rng.bytes(int(rng.integers(1, 5000))),
    "noise": lambda _, rng: rng.bytes(int(rng.integers(0, 20_000))),
    "magic and noise": lambda data, rng: data[: int(rng.integers(4, 64))] + rng.bytes(int(rng.integers(0, 5000))),
    "zero length": lambda *_: b"",
}  # fmt: skip


def make(seed: int, index: int) -> tuple[str, str, bytes]:
    """Return the damage, the file's name and its bytes."""
    rng = np.random.default_rng((seed, index))
    kind = int(rng.integers(len(SOURCES)))
    name, form, *_ = SOURCES[kind]
    damage = str(rng.choice(list(DAMAGES)))
    data = DAMAGES[damage](source(kind, int(rng.integers(1, 3)), float(rng.choice([0.3, 1.0]))), rng)
    if form == "OGG" and rng.random() < 0.5:
        data = resealed(data)
    if rng.random() < 0.15:
        name = f"{name}.{rng.choice(['wav', 'flac', 'ogg', 'opus', 'mp3', 'aiff', 'sph', 'raw', 'txt'])}"
    return damage, f"{index:05d}-{name}", data


def outcome(name: str, data: bytes, folder: Path) -> str:
    """Return "valid", "refused" (by every reader, by name), or what is wrong."""
    path = folder / name
    path.write_bytes(data)
    ends = []
    for reader in (info, read, lambda path: decode(path.read_bytes(), name=path.name)):
        try:
            ends.append(reader(path))
        except BadInput as error:
            if name not in str(error):
                return f"the error does not name the file: {error}"
            ends.append(str(error))
        except Exception as error:  # noqa: BLE001  what must not happen is what is looked for
            return f"{type(error).__name__}: {error}"
    path.unlink()
    header, *clips = ends
    if not isinstance(header, str) and not (header[0] >= 0 and header[1] > 0 and header[2] > 0):
        return f"info gives {header}"
    one, two = clips
    if isinstance(one, str) != isinstance(two, str):
        return f"read and decode differ: {one}, {two}"
    if isinstance(one, str):
        return "refused"
    if isinstance(header, str):
        return f"info refuses what is read: {header}"
    good = one.samples.dtype == np.float32 and one.samples.ndim == 1 and len(one.samples) and one.sample_rate == 16_000
    if not (good and np.isfinite(one.samples).all()):
        return "not a valid clip"
    return "valid" if np.array_equal(one.samples, two.samples) else "read and decode differ"


def work(pipe, seed: int, folder: Path) -> None:
    """Read files whose numbers come through the pipe until it closes."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the mp3 decoder talks
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        damage, name, data = make(seed, index)
        pipe.send((damage, outcome(name, data, folder)))


class Worker(threading.local):
    """One process for each thread, begun again when it dies."""

    process = None

    def __call__(self, index: int, seed: int, folder: Path) -> tuple[str, str]:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs, seed, folder), daemon=True)
            self.process.start()
            theirs.close()
            self.pipe.send(index)
            self.pipe.poll(60)  # it imports first
        else:
            self.pipe.send(index)
        try:
            if self.pipe.poll(SECONDS_A_FILE):
                return self.pipe.recv()
            end = f"hang: more than {SECONDS_A_FILE} s"
        except EOFError:
            self.process.join()
            end = f"crash: exit code {self.process.exitcode}"
        self.process.kill()
        self.process = None
        return make(seed, index)[0], end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    args = parser.parse_args()
    worker, counts, wrong = Worker(), collections.defaultdict(collections.Counter), {}
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda index: worker(index, args.seed, Path(temporary)), range(args.n))
        for index, (damage, end) in enumerate(results):
            well = end in ("valid", "refused")
            counts[damage][end if well else "wrong"] += 1
            if not well:
                _, name, data = make(args.seed, index)
                wrong[name] = f"{damage}: {end}"
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / name).write_bytes(data)
    total = sum(counts.values(), collections.Counter())
    print(json.dumps({"total": total, "by damage": {d: counts[d] for d in DAMAGES}, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
