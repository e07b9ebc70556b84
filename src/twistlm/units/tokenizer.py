"""Clip to units: encode, assign, deduplicate. A clip's units never depend on what is encoded beside it."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from twistlm.audio.clip import Clip, check_level
from twistlm.audio.stream import Survey, blocks, spans, survey
from twistlm.compute.memory import in_halves
from twistlm.compute.underway import heard
from twistlm.errors import ArtifactError, AudioError, BadInput, TwistError, UnitSpecMismatch
from twistlm.files.regular import file_sha256
from twistlm.files.urls import UrlPath, as_path
from twistlm.types import Units, UnitSpec
from twistlm.units.catalogue import read_spec, tokenizer_folder
from twistlm.units.encoder import Encoder, Tensors, Windowed, on
from twistlm.units.folder import encoder_folder
from twistlm.units.kmeans import Codebook
from twistlm.units.on_gpu import DeviceCodebook, Settled
from twistlm.units.pretrained import load_encoder
from twistlm.units.runs import dedup

# How far, as a share of its length, a frame's features may lie from those of the clip alone when it is encoded in a
# batch (float32). tests/test_units_batch.py holds every family to half of this.
BATCH_ROUNDING = 1e-5
GPU_SECONDS = 480.0  # not yet tried on one; HuBERT base's widest features are 0.3 GB for so many


@dataclass(frozen=True, eq=False)
class SpeechTokenizer:
    """An encoder, a codebook, and the spec that says exactly what their units are.

    Attributes:
        encoder: maps samples [N] to features [F, D].
        codebook: K centroids in the encoder's feature space.
        spec: what a unit is.
        source: the name or whole path it was loaded by; "" where it was made in memory.
    """

    encoder: Encoder
    codebook: Codebook
    spec: UnitSpec
    source: str = ""

    def __call__(self, clip: Clip) -> Units:
        """Units of one clip, deduplicated when the spec says so. The clip is not changed.

        One of more than 34 s (30 s for Whisper's encoder) is encoded in windows, see `stream`: its units are not those
        of an encoder that hears all of it.

        Raises:
            AudioError: another sample rate than the spec's, shorter than one frame, or not finite.
        """
        return self._units(self.frames(clip), id=clip.id)

    def frames(self, clip: Clip) -> NDArray[np.uint16]:
        """One unit a frame, uint16 [F]."""
        self._check(clip)
        samples = self._padded(clip.samples)
        if self._is_long(len(clip.samples)):
            return self._by_window([samples], survey([samples]), name=clip.id)
        return self._alone(clip)

    def features(self, clip: Clip) -> NDArray[np.float32]:
        """What the units are the nearest centroids of: float32 [F, D].

        Raises:
            AudioError: as for the units of a clip. BadInput: features that are not finite.
        """
        self._check(clip)
        return self._finite(self._features(clip), name=clip.id)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples`, exact for every length: those of the clip and its padding."""
        return self.encoder.n_frames(n_samples + 2 * self.spec.padding)

    def stream(
        self,
        path: str | Path | UrlPath,
        *,
        start: float = 0.0,
        seconds: float | None = None,
        channel: int | None = None,
    ) -> Units:
        """Units of a sound file of any length, frame by frame those of `tok(Clip.read(path))`, in bounded memory.

        **Units of a long file are not those of an encoder that hears all of it.** Of a 120 s clip, only 77 % of frames
        had the same unit in windows as in one piece (third mini-25hz encoder, docs/results/speed.md), far
        from the seams as near them, since attention over 120 s moves every frame. Where that matters, cut files
        into short clips first (`twist manifest --vad`).

        The file is read twice, in blocks: first for its length, level, mean and variance, which encoders of normalised
        input need before the first frame; then window by window. Only the units grow with its length, two bytes
        a frame.

        Seams: a long clip is encoded in windows of 30 s (26 s for Whisper's encoder), each with 2 s of sound before and
        behind it whose frames are dropped, so that each frame comes from exactly one window, and runs go on across
        seams. Whether a clip is long follows from its length alone, so it has one form, however it is read. What
        differs from encoding it in one piece: the group norm over time of base models and the floor of Whisper's
        log-mel are those of each window, and what reaches further than 2 s ends there: attention, and the outer 0.56 s
        of a positional convolution over 128 frames at 25 Hz.

        Args:
            path: the file, or its URL; its name without suffix becomes the id.
            start, seconds: a part of it, see `audio.stream.blocks`.
            channel: which one is heard, from 1; None mixes them.

        Raises:
            AudioError: as `audio.clip.read` and `audio.clip.check`; or the file changed while it was read.
            BadInput: a start or length out of range.
        """
        path, rate = as_path(path), self.spec.sample_rate
        path = path.fetched() if isinstance(path, UrlPath) else path  # once for both readings
        silence = np.zeros(self.spec.padding, np.float32)
        sound = blocks(path, sample_rate=rate, start=start, seconds=seconds, channel=channel)
        clip = survey(chain([silence], sound, [silence]))
        n_samples = clip.n_samples - 2 * self.spec.padding
        check_level(n_samples, clip.peak, sample_rate=rate, name=str(path))
        again = blocks(path, sample_rate=rate, start=start, seconds=seconds, channel=channel)
        if not self._is_long(n_samples):
            return self(Clip(np.concatenate(list(again)), rate, id=path.stem))
        return self._units(self._by_window(chain([silence], again, [silence]), clip, name=str(path)), id=path.stem)

    def batch(self, clips: Iterable[Clip]) -> list[Units]:
        """Units of several clips, encoded together: the same as `[tok(clip) for clip in clips]`, in that order.

        In a batch sums are rounded in another order, which moves features by about a millionth. Where a frame lies so
        near the border between two units that this could decide, which is rare, its clip is encoded
        once more, alone. Clips of similar length make the best batches.

        Raises:
            AudioError: as for one clip; the first bad clip is named.
        """
        clips = list(clips)
        for clip in clips:
            self.require(clip)
        short = [clip for clip in clips if not self._is_long(len(clip.samples))]
        padded = [self._padded(clip.samples) for clip in short]
        if self._book is None:
            found = map(self._settled, short, self.encoder.batch(padded))
        else:
            found = map(self._settled_there, short, in_halves(self._settle, padded) if padded else [])
        frames = [self.frames(clip) if self._is_long(len(clip.samples)) else next(found) for clip in clips]
        return [self._units(each, id=clip.id) for clip, each in zip(clips, frames, strict=True)]

    def require(self, clip: Clip) -> None:
        """Do nothing for a clip that can be cut.

        Raises:
            AudioError: as for one clip.
        """
        self._check(clip)
        if self.n_frames(len(clip.samples)) == 0:
            self.frames(clip)  # says so

    @property
    def batch_seconds(self) -> float:
        """Seconds of sound, padding counted, that fill the device; 0 on a CPU, where batches are no faster."""
        device = getattr(getattr(self.encoder, "model", None), "device", None)
        return 0.0 if device is None or device.type == "cpu" else GPU_SECONDS

    def on(self, device: torch.device) -> SpeechTokenizer:
        """This tokenizer, computing on `device` if its encoder is one of ours. This one stays where it is."""
        moved = on(self.encoder, device)
        return self if moved is self.encoder else dataclasses.replace(self, encoder=moved)

    def portable(self) -> Loader:
        """What makes this tokenizer in another process, on its CPU: its name or folder. Encoders do not pickle.

        Raises:
            BadInput: it was made in memory.
        """
        if not self.source:
            raise BadInput(
                "this tokenizer was made in memory, and other processes can only load one from its folder: save it "
                "(save_tokenizer, import_tokenizer), then SpeechTokenizer.load(folder)."
            )
        return Loader(source=self.source, spec=self.spec)

    def _settled(self, clip: Clip, features: NDArray[np.float32]) -> NDArray[np.uint16]:
        features = self._finite(features, name=clip.id)
        if self.codebook.near_ties(features, relative=BATCH_ROUNDING).any():
            features = self._features(clip)
        return self._nearest(features, name=clip.id)

    def _alone(self, clip: Clip) -> NDArray[np.uint16]:
        """One unit a frame of a clip of one window, encoded with no other."""
        if self._book is None:
            return self._nearest(self._features(clip), name=clip.id)
        try:
            [settled] = self._settle([self._padded(clip.samples)])
        except AudioError as error:
            raise AudioError(f"clip {clip.id!r}: {error}") from error
        return self._whole(clip, settled)

    @cached_property
    def _book(self) -> DeviceCodebook | None:
        """The codebook on the encoder's GPU; None where it computes on a CPU, or is somebody else's."""
        device = getattr(getattr(self.encoder, "model", None), "device", None)
        if device is None or device.type == "cpu" or not isinstance(self.encoder, Tensors):
            return None
        return DeviceCodebook.of(self.codebook, device)

    def _settle(self, clips: Sequence[NDArray[np.float32]]) -> list[Settled]:
        assert self._book is not None and isinstance(self.encoder, Tensors)
        return self._book.settle(self.encoder.features(clips), relative=BATCH_ROUNDING)

    def _settled_there(self, clip: Clip, settled: Settled) -> NDArray[np.uint16]:
        return self._alone(clip) if settled.tied and not settled.bad else self._whole(clip, settled)

    def _whole(self, clip: Clip, settled: Settled) -> NDArray[np.uint16]:
        if settled.bad:
            raise self._not_finite(settled.bad, len(settled.ids), clip.id)
        return settled.ids

    def _padded(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(samples, self.spec.padding) if self.spec.padding else samples

    def _features(self, clip: Clip) -> NDArray[np.float32]:
        try:
            return self.encoder(self._padded(clip.samples))
        except AudioError as error:
            raise AudioError(f"clip {clip.id!r}: {error}") from error

    def _nearest(self, features: NDArray[np.float32], *, name: str) -> NDArray[np.uint16]:
        return self.codebook.assign(self._finite(features, name=name))

    def _finite(self, features: NDArray[np.float32], *, name: str) -> NDArray[np.float32]:
        if not np.isfinite(features).all():  # the nearest centroid of NaN would be unit 0
            raise self._not_finite(int((~np.isfinite(features).all(1)).sum()), len(features), name)
        return features

    def _not_finite(self, n_bad: int, n_frames: int, name: str) -> BadInput:
        return BadInput(
            f"clip {name!r}: {n_bad} of {n_frames} frames are NaN or infinite behind layer {self.spec.layer} "
            f"of {self.spec.encoder}: the encoder overflows or is damaged. Fetch or train its weights again."
        )

    def _is_long(self, n_samples: int) -> bool:
        """Whether a clip, given its length without padding, is encoded in windows."""
        return isinstance(self.encoder, Windowed) and len(self.encoder.windows(n_samples + 2 * self.spec.padding)) > 1

    def _by_window(self, pieces: Iterable[NDArray[np.float32]], clip: Survey, *, name: str) -> NDArray[np.uint16]:
        """One unit a frame of a long clip, uint16 [F]; features are let go with their window. `pieces` are padded."""
        assert isinstance(self.encoder, Windowed)
        windows = self.encoder.windows(clip.n_samples)
        sounds = spans(pieces, [(w.start, w.stop) for w in windows], name=name)
        found = []
        for w, sound in zip(windows, sounds, strict=True):
            found.append(self._nearest(self.encoder.encode_window(sound, clip=clip)[w.kept], name=name))
            rate = self.spec.sample_rate
            heard(len(found[-1]) * self.spec.hop / rate, of=clip.n_samples / rate)
        return np.concatenate(found)

    def _units(self, frames: NDArray[np.uint16], *, id: str) -> Units:
        ids, runs = dedup(frames) if self.spec.deduplicate else (frames, np.ones(len(frames), np.int32))
        return Units(ids, runs, self.spec, id)

    def _check(self, clip: Clip) -> None:
        if clip.sample_rate != self.spec.sample_rate:
            raise AudioError(
                f"clip {clip.id!r} is at {clip.sample_rate} Hz, {self.spec.encoder} hears {self.spec.sample_rate} Hz: "
                f"read it with Clip.read(path, sample_rate={self.spec.sample_rate}), which resamples."
            )
        if not np.isfinite(clip.samples).all():
            raise AudioError(f"clip {clip.id!r} has samples that are NaN or infinite; the file is damaged.")

    @classmethod
    def load(cls, name_or_folder: str | Path) -> SpeechTokenizer:
        """Load a bundled or published tokenizer by name, or any tokenizer folder; files are checked against the spec.

        A published one (`units.published.PUBLISHED`) is fetched and made into a tokenizer folder of the cache when it
        is first asked for.

        Raises:
            BadInput: no such name or folder.
            ArtifactError: files missing, or a published tokenizer could not be fetched.
            UnitSpecMismatch: a file's sha256 is not the one in `spec.json`.
        """
        folder = tokenizer_folder(name_or_folder)
        spec = read_spec(folder)
        encoder_at = encoder_folder(folder, spec)
        for file, expected in (
            (encoder_at / "encoder.safetensors", spec.encoder_sha256),
            (folder / "codebook.safetensors", spec.centroids_sha256),
        ):
            if not file.is_file():
                raise ArtifactError(f"{folder} is not a whole tokenizer: {file.name} is missing.")
            found = file_sha256(file)
            if found != expected:
                raise UnitSpecMismatch(
                    f"{file} has sha256 {found[:16]}… but {folder / 'spec.json'} says {expected[:16]}…: "
                    "the file is damaged or belongs to another tokenizer. Restore the folder as a whole."
                )
        encoder = load_encoder(encoder_at, layer=spec.layer, normalize_input=spec.normalize_input, hop=spec.hop)
        codebook = Codebook.load(folder / "codebook.safetensors")
        facts: tuple[tuple[str, object, object], ...] = (
            ("hop of the encoder", encoder.hop, spec.hop),
            ("sample rate of the encoder", encoder.sample_rate, spec.sample_rate),
            ("tap", "block_output", spec.tap),
            ("number of centroids", codebook.n_units, spec.n_units),
            ("width of the codebook", codebook.dim, encoder.dim),
        )
        for what, there, said in facts:
            if there != said:
                by = "the encoder" if what.startswith("width") else "its spec.json"
                raise UnitSpecMismatch(f"{folder}: the {what} is {there!r}, {by} says {said!r}. Restore the folder.")
        if encoder.n_frames(2 * spec.padding):
            raise UnitSpecMismatch(
                f"{folder}: {spec.padding} samples of padding on each side make a frame of {spec.encoder} without any "
                "sound: less is needed."
            )
        source = str(name_or_folder)
        return cls(encoder, codebook, spec, str(Path(source).absolute()) if Path(source).is_dir() else source)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads a tokenizer where it is called: what is sent to another process instead of the tokenizer.

    Attributes:
        source: name or folder.
        spec: what its units must be.
    """

    source: str
    spec: UnitSpec

    def __call__(self) -> SpeechTokenizer:
        """Return the tokenizer.

        Raises:
            TwistError: it is not there, or is another one.
        """
        where = platform.node()
        try:
            tok = SpeechTokenizer.load(self.source)
        except TwistError as error:
            raise TwistError(f"on the worker {where}: {error} Every worker must see the tokenizer there.") from error
        self.spec.require(tok.spec, mine="the tokenizer here", theirs=f"{self.source} on the worker {where}")
        return tok
