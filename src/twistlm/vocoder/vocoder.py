"""A trained unit vocoder: units in, speech out. Refuses units of another tokenizer.

Shapes: R units, F frames, N samples.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from twistlm.audio.clip import Clip
from twistlm.compute.devices import full_float32, send
from twistlm.compute.threads import in_order
from twistlm.compute.underway import heard
from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.atomic import atomic_folder
from twistlm.files.configs import read_unit_spec
from twistlm.files.regular import require_regular_files
from twistlm.files.replacing import require_replaceable
from twistlm.files.text import read_text
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.catalogue import vocoder_folder
from twistlm.vocoder.configs import read_shape
from twistlm.vocoder.durations import durations as frames_of
from twistlm.vocoder.generator import Reach
from twistlm.vocoder.streaming import Stream
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.voices import Voice, Voices, read_voices
from twistlm.vocoder.windows import through

CHUNK = 250  # frames spoken at once; bounds the memory of an hour of units
CHUNK_UNITS = 4096  # units whose durations are predicted at once
MOST = {"cpu": 0, "cuda": 8_000}  # frames of a batch; on a CPU batches gain nothing, so a clip a core goes alone

NO_VOICES, ANY = Voices(), Voice()

Durations = Literal["given", "predicted"]


class Vocoder:
    """Speak units. `Vocoder.load(name_or_folder)` reads one, `train_vocoder` makes one.

    `voc(units, durations=…)` speaks one clip, `voc.batch(many, durations=…)` many, and `voc.stream(ids, …)` or
    `voc.open_stream(…)` speak while units arrive. All give the same samples, up to float32 rounding.

    Attributes:
        synthesizer: the network; nothing here knows which generator it has.
        spec: the units it speaks.
        name: what it is called in messages.
        voices: its languages, speakers and styles by name; empty when it has one voice.
        voice: what is taken where a call leaves it open.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        spec: UnitSpec,
        *,
        name: str,
        voices: Voices = NO_VOICES,
        voice: Voice = ANY,
    ) -> None:
        """Take a folded network in eval mode.

        Raises:
            BadInput: the network makes another rate, hop or number of units than `spec` says, or has no row for one of
                its voices.
        """
        shape = synthesizer.shape
        if (shape.sampling_rate, shape.hop, shape.num_embeddings) != (spec.sample_rate, spec.hop, spec.n_units):
            raise BadInput(
                f"the vocoder {name} makes {shape.hop} samples a frame at {shape.sampling_rate} Hz from "
                f"{shape.num_embeddings} units, but its unit spec says {spec.hop}, {spec.sample_rate} and "
                f"{spec.n_units}."
            )
        voices.require_rows(languages=shape.num_languages, speakers=shape.num_speakers, styles=shape.num_styles)
        self.synthesizer = synthesizer
        self.spec = spec
        self.name = name
        self.voices = voices
        self.voice = voice
        # In float64, so that no rounding of products of other shapes (a batch, a stream) turns a duration another way.
        self._pace = None if synthesizer.dur_predictor is None else copy.deepcopy(synthesizer.dur_predictor).double()

    @property
    def sample_rate(self) -> int:
        """Hz, of what it speaks."""
        return self.synthesizer.shape.sampling_rate

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.synthesizer.dict.weight.device

    @property
    def predicts_durations(self) -> bool:
        """Whether `durations="predicted"` can be had: it has a predictor, and its units are deduplicated."""
        return self.spec.deduplicate and self.synthesizer.dur_predictor is not None

    def on(self, device: torch.device | str) -> Vocoder:
        """This vocoder, computing on `device`. This one stays where it is."""
        device = torch.device(device)
        if self.device == device:
            return self
        moved = copy.deepcopy(self.synthesizer).to(device)
        return Vocoder(moved, self.spec, name=self.name, voices=self.voices, voice=self.voice)

    def speaking_as(self, *, speaker: str | None = None, style: str | None = None, language: str | None = None) -> Self:
        """This vocoder (the same network) with a voice that goes without saying; None leaves what it was.

        Raises:
            BadInput: it was not trained on that name.
        """
        voice = Voice(language=language, speaker=speaker, style=style).over(self.voice)
        for table in self.synthesizer.shape.tables:
            if getattr(voice, table.kind) is not None:
                self.voices.row(table.kind, voice, rows=table.rows, whose=f"the vocoder {self.name}")
        self._require_one_voice(Voice(language=language, speaker=speaker, style=style))
        return type(self)(self.synthesizer, self.spec, name=self.name, voices=self.voices, voice=voice)

    @classmethod
    def load(cls, name_or_folder: str | Path) -> Self:
        """Read a bundled vocoder by name ("mini-25hz-500"), a published one that was taken over, or one from a folder.

        Raises:
            BadInput: no such name or folder; or a published one that `twist vocoder import` did not take over yet.
            ArtifactError: there is none, or a file of it is missing, damaged or does not fit its config.
        """
        folder = vocoder_folder(name_or_folder)
        try:
            require_regular_files(folder, "a vocoder")
            spec = read_unit_spec(folder / "unit_spec.json", "the units of a vocoder")
            shape = read_shape(read_text(folder / "config.json", "the shape of a vocoder"))
            weights = load_file(folder / "model.safetensors")
            voices, voice = read_voices(folder)
        except (OSError, ValueError, BadInput, SafetensorError) as error:
            raise ArtifactError(
                f"the vocoder {folder} cannot be read: {error}. It needs model.safetensors, config.json and "
                "unit_spec.json, whole: copy or make it again."
            ) from error
        with torch.device("meta"):
            expected = {key: tuple(value.shape) for key, value in Synthesizer(shape).fold().weights().items()}
        found = {key: tuple(value.shape) for key, value in weights.items()}
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        if wrong:
            raise ArtifactError(
                f"the vocoder {folder} does not fit its config.json: {offenders(wrong)}. Copy or make it again."
            )
        with torch.random.fork_rng(devices=[]):  # the first weights are overwritten and must not move the global RNG
            synthesizer = Synthesizer(shape).fold().eval()
        synthesizer.take({key: value.float() for key, value in weights.items()})
        vocoder = cls(synthesizer, spec, name=str(name_or_folder), voices=voices)
        try:
            return vocoder.speaking_as(language=voice.language, speaker=voice.speaker, style=voice.style)
        except BadInput as error:
            raise ArtifactError(
                f"{folder / 'voices.json'}: its own voice is none of its voices: {error} Make it again."
            ) from error

    def save(self, folder: str | Path, *, card: str = "", half: bool = True) -> None:
        """Write `model.safetensors` (fp16, or float32 if not `half`), `config.json` (published keys), `unit_spec.json`.

        Also `voices.json` where there are several voices (with the one that goes without saying, see `speaking_as`),
        and `CARD.md` when given.
        The folder appears whole or not at all; an earlier vocoder there is replaced.

        Raises:
            BadInput: something else is there.
        """
        require_only_a_vocoder(folder)
        with atomic_folder(folder) as temporary:
            kind = torch.float16 if half else torch.float32
            weights = {key: value.to("cpu", kind).contiguous() for key, value in self.synthesizer.weights().items()}
            (temporary / "model.safetensors").write_bytes(save(weights))  # save_file would make it unreadable to others
            (temporary / "config.json").write_text(self.synthesizer.shape.to_json())
            (temporary / "unit_spec.json").write_text(self.spec.to_json() + "\n")
            if self.voices:
                named = self.voices.to_dict() | self.voice.to_dict()
                (temporary / "voices.json").write_text(json.dumps(named, indent=1) + "\n")
            if card:
                (temporary / "CARD.md").write_text(card)

    def __call__(self, units: Units, *, durations: Durations, voice: Voice | None = None) -> Clip:
        """Speak.

        Args:
            units: of this vocoder's spec.
            durations: "given" gives each unit its run; "predicted" ignores the runs, as units from a language model
                need not have any worth hearing.
            voice: who speaks and how, where the vocoder has several; None, and what it leaves open: `self.voice`.

        Returns:
            A clip of frames * hop samples with the units' id. However long the units are, memory beyond the clip itself
            stays bounded, and a long clip is what it would be if made at once.

        Raises:
            UnitSpecMismatch: the units are of another tokenizer.
            BadInput: no units; other durations than these, or predicted ones where there can be none; a voice that it
                was not trained on, or none named where there are several.
        """
        return self._spoken([units], durations, [voice], most=0)[0]

    def batch(
        self, many: Sequence[Units], *, durations: Durations, voices: Sequence[Voice | None] | Voice | None = None
    ) -> list[Clip]:
        """Speak many clips: the samples of each alone, up to float32 rounding (1e-5), in any company and order.

        On a GPU they share batches. On a CPU each is spoken alone by one core: there a batch is no faster.
        Arguments, errors and clips as of a call; the clips are in the order of `many`. `voices` is one for all, or one
        for each.
        """
        each = [voices] * len(many) if voices is None or isinstance(voices, Voice) else list(voices)
        most = MOST.get(self.device.type, MOST["cuda"])
        if most:
            return self._spoken(many, durations, each, most=most)
        self._require(many, durations, each)
        if len(many) < torch.get_num_threads():
            return self._spoken(many, durations, each, most=0)
        pairs = zip(many, each, strict=True)
        return list(in_order(lambda pair: self(pair[0], durations=durations, voice=pair[1]), pairs))

    def open_stream(
        self,
        *,
        durations: Durations,
        look_ahead: int | None = None,
        first_look_ahead: int | None = None,
        first: int = 4,
        chunk: int = 12,
        before: Units | None = None,
        voice: Voice | None = None,
        id: str = "",
    ) -> Stream:
        """Return a `Stream` for one listener: push units as they come, get sound as soon as it can be made.

        Args:
            durations: "predicted": units come without runs, and each lasts as long as the predictor says, once it has
                seen the units in its reach behind it. "given": units come with their runs, or are frames.
            look_ahead: frames of the future that a frame waits for before it is spoken; less is sooner and less
                exact. None: the generator's whole reach (`stream.whole_look_ahead`), with which the stream gives the
                samples of the whole clip.
            first_look_ahead: the same for the first sound alone, which can come sooner and the rest be exact. None:
                `look_ahead`.
            first: frames of sound that are worth a first computation.
            chunk: frames of sound that are worth each later one. More is cheaper, less comes sooner.
            before: units that are continued: they are not spoken, and the sound is what follows theirs in the clip of
                both.
            voice: as of a call.
            id: what the stream is called in messages.

        Raises:
            BadInput: durations and a voice as of a call; a number out of range.
            UnitSpecMismatch: `before` is of another tokenizer.
        """
        rows = self._rows(voice)
        self._require_durations(durations)
        if before is not None:
            self.spec.require(before.spec, mine=f"the vocoder {self.name}", theirs=f"the units {before.id!r}")
        return Stream(
            lambda frames: self._samples(frames.to(self.device), rows)[0],
            lambda units: self._lasting(units.to(self.device))[0],
            self.spec,
            durations=durations,
            reach=self.synthesizer.reach,
            duration_reach=self.synthesizer.duration_reach,
            look_ahead=look_ahead,
            first_look_ahead=first_look_ahead,
            first=first,
            chunk=chunk,
            before=before,
            name=f"the vocoder {self.name}{f', {id}' if id else ''}",
        )

    def stream(
        self,
        ids: Iterable[int],
        *,
        durations: Durations,
        look_ahead: int | None = None,
        first: int = 4,
        chunk: int = 12,
        voice: Voice | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield sound, float32 [n] at `sample_rate`, as units arrive from an iterable; laid end to end it is the clip.

        Args:
            ids: units one by one (with durations="given" each lasts one frame: give a unit as often as it lasts).
            durations, look_ahead, first, chunk, voice: as of `open_stream`.

        Raises:
            BadInput: as `open_stream`; or a unit that is none, when it comes.
        """
        stream = self.open_stream(durations=durations, look_ahead=look_ahead, first=first, chunk=chunk, voice=voice)
        for unit in ids:
            if len(sound := stream.push([unit])):
                yield sound
        if len(sound := stream.finish()):
            yield sound

    def predict_runs(self, units: Units) -> NDArray[np.int64]:
        """Frames each unit should last, int64 [R], at least 1; the units' own runs are not looked at.

        Raises:
            BadInput: there is no duration predictor, or the units are not deduplicated and so last one frame each.
        """
        self._require_durations("predicted")
        return self._runs([units], most=0)[0].numpy()

    def _require_durations(self, durations: Durations) -> None:
        if durations not in get_args(Durations):
            raise BadInput(f"durations is {durations!r}; use one of {', '.join(map(repr, get_args(Durations)))}.")
        if durations == "given":
            return
        if not self.spec.deduplicate:
            raise BadInput(f"the units of {self.name} are not deduplicated, each is one frame: use durations='given'.")
        if self.synthesizer.dur_predictor is None:
            raise BadInput(
                f"the vocoder {self.name} has no duration predictor, so nothing says how long its units last: use "
                "durations='given' with units that have runs, as those of a recording do."
            )

    def require_voice(self) -> None:
        """Do nothing when this vocoder can speak as it is.

        Raises:
            BadInput: it has several speakers, styles or languages, and `self.voice` names none.
        """
        self._rows(None)

    def _require_one_voice(self, voice: Voice) -> None:
        """Refuse a name of a kind that this vocoder has only one of: it would be ignored."""
        there = {table.kind for table in self.synthesizer.shape.tables}
        for kind in ("language", "speaker", "style"):
            if (name := getattr(voice, kind)) is not None and kind not in there:
                raise BadInput(f"the vocoder {self.name} has one {kind} only, so {name!r} cannot be asked for.")

    def _rows(self, voice: Voice | None) -> Tensor | None:
        """Rows int64 [1, V] of a voice; None for a vocoder of one voice."""
        if voice is not None:
            self._require_one_voice(voice)
        full, whose = (voice or ANY).over(self.voice), f"the vocoder {self.name}"
        tables = self.synthesizer.shape.tables
        rows = [self.voices.row(table.kind, full, rows=table.rows, whose=whose) for table in tables]
        return send(np.array([rows]), self.device) if rows else None

    def _require(self, many: Sequence[Units], durations: Durations, voices: Sequence[Voice | None]) -> None:
        if len(voices) != len(many):
            raise BadInput(f"{len(many)} clips were given {len(voices)} voices: give one for each, or one for all.")
        for voice in {*voices}:
            self._rows(voice)
        for units in many:
            self.spec.require(units.spec, mine=f"the vocoder {self.name}", theirs=f"the units {units.id!r}")
            if len(units) == 0:
                raise BadInput(f"the units {units.id!r} are empty: there is nothing to speak.")
        self._require_durations(durations)

    def _spoken(
        self, many: Sequence[Units], durations: Durations, voices: Sequence[Voice | None], *, most: int
    ) -> list[Clip]:
        self._require(many, durations, voices)
        rows = [self._rows(voice) for voice in voices]
        if durations == "predicted":
            ids = [_tensor(units.ids) for units in many]
            frames = [unit.repeat_interleave(run) for unit, run in zip(ids, self._runs(many, most=most), strict=True)]
        else:
            frames = [_tensor(units.frames) for units in many]
        total, a_frame = sum(map(len, frames)), self.synthesizer.hop / self.sample_rate
        spoken = through(
            lambda batch, which: self._samples(batch, _together([rows[i] for i in which])),
            frames,
            self.synthesizer.reach,
            size=CHUNK,
            most=most,
            device=self.device,
            done=lambda n: heard(n * a_frame, of=total * a_frame),
        )
        return [
            Clip(samples=samples.numpy(), sample_rate=self.sample_rate, id=units.id)
            for samples, units in zip(spoken, many, strict=True)
        ]

    def _runs(self, many: Sequence[Units], *, most: int) -> list[Tensor]:
        reach = self.synthesizer.duration_reach
        return through(
            lambda rows, _: self._lasting(rows),
            [_tensor(units.ids) for units in many],
            Reach(left=reach, right=reach),
            size=CHUNK_UNITS,
            most=most,
            device=self.device,
        )

    def _samples(self, frames: Tensor, voices: Tensor | None) -> Tensor:
        with full_float32():
            return self.synthesizer(frames, voices)

    def _lasting(self, units: Tensor) -> Tensor:
        assert self._pace is not None
        return frames_of(self._pace(self.synthesizer.dict(units).double()))


def _tensor(ids: NDArray[np.uint16]) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def _together(rows: Sequence[Tensor | None]) -> Tensor | None:
    given = [row for row in rows if row is not None]
    return torch.cat(given) if given else None


def require_only_a_vocoder(folder: str | Path, *, inputs: Sequence[str | Path] = ()) -> None:
    """Raise `BadInput` where `Vocoder.save` would replace something else, or what is read (`inputs`)."""
    require_replaceable(folder, what="a vocoder", mark="config.json", inputs=inputs, holds='"num_embeddings"')
