"""What is said, heard: recordings, their resynthesis and models' continuations as rows, one for each continuation.

Everything that takes long is done once: a system's rows lie in a journal whose name holds a hash of all that made them,
its sounds as FLAC beside it. Stopped anywhere, the same call goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.audio.clip import Clip
from twistlm.compute.threads import in_order
from twistlm.errors import AudioError, offenders
from twistlm.evaluate.generation.continuing import (
    BATCH,
    BATCH_GPU,
    Spoken,
    continued,
    cut_to,
    derangement,
    prompt_length,
    require_room,
    seed_of,
    speak,
    unit_limit,
)
from twistlm.evaluate.generation.hearing import Listener, hear
from twistlm.evaluate.generation.journal import Journal
from twistlm.evaluate.generation.ngrams import repetition
from twistlm.evaluate.generation.prompts import CutPrompt, Prompt, PromptSuite, cut
from twistlm.evaluate.generation.protocols import Protocol
from twistlm.evaluate.generation.speakers import Voices
from twistlm.evaluate.words import words_of
from twistlm.lm.model import UnitLM
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

Values = dict[str, Any]
JudgeOfSound = Callable[[Clip], Mapping[str, float]]
PARTS = "parts"  # folder of journals and sounds
# Fields of a protocol that move what is heard, and what a model says; who reads the texts changes neither, and who
# listens moves nothing of what a model says.
_OF_SOUNDS = (
    "prompt_seconds", "truth_seconds", "durations", "scored", "cut_to_truth", "silence", "asr", "language",
)  # fmt: skip
_OF_MODELS = ("top_k", "seconds", "max_units", "stop_at_end")
_OF_PROMPTS = ("prompt_seconds", "truth_seconds")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ears:
    """What makes and hears speech.

    Attributes:
        tok, voc: of the models' units.
        listener: the recogniser.
        judges: of how good a sound is; each gives numbers by name.
        voices: tells voices apart; None where that is not wanted.
        facts: what each of them is, to the hash; a change of any is another measurement.
    """

    tok: SpeechTokenizer
    voc: Vocoder
    listener: Listener
    judges: tuple[JudgeOfSound, ...]
    voices: Voices | None
    facts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class System:
    """Something that speaks.

    Attributes:
        name: in tables.
        kind: "recordings", "resynthesis", "shuffled", "model", or "words" (texts alone).
        rows: one for each prompt and sample, in order.
        n_samples: of each prompt.
        model: its folder; "" for what is no model.
        model_sha256, temperature: of a model.
    """

    name: str
    kind: str
    rows: Sequence[Values]
    n_samples: int
    model: str = ""
    model_sha256: str = ""
    temperature: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Session:
    """One measurement: its protocol and prompts, what hears, where it goes.

    Attributes:
        protocol, ears: as they are named.
        suite: the prompts that are taken.
        digests: the sha256 of each as it is cut (`digests_of`).
        out: folder of the results, which the caller has locked.
        seed: of sampling and of what is shuffled.
        progress: show bars.
    """

    protocol: Protocol
    suite: PromptSuite
    digests: Sequence[str]
    ears: Ears
    out: Path
    seed: int
    progress: bool

    @property
    def unconditional(self) -> bool:
        """Whether models speak out of nothing."""
        return self.protocol.prompt_seconds <= 0

    def hear_prompts(self) -> list[Values]:
        """Return a row for each prompt: `seconds` of the whole recording, `units` of the prompt and `whole` units of
        the recording (`ids` and `runs`), the prompt's `text` as heard, its `voice`.

        Raises:
            AudioError: recordings that cannot be read, or are too short.
        """

        def work(prompt: Prompt) -> Values:
            found = self._cut(prompt)
            row: Values = {"seconds": found.whole.seconds, "units": None, "text": "", "voice": None}
            row["whole"] = _stored(self.ears.tok(found.whole))
            if not self.unconditional:
                row["units"] = _stored(self.ears.tok(found.start))
                if self.protocol.scored == "continuation":  # else it is heard with what follows, and nobody asks
                    row["text"] = hear(found.start, self.ears.listener, silence=self.protocol.silence).text
                if self.ears.voices is not None:
                    row["voice"] = [round(float(x), 6) for x in self.ears.voices.embed(found.start)]
            return row

        journal = Journal(self.out / PARTS / f"prompts.{self._key('prompts')}.jsonl")
        items = [(self._name(i, 0), prompt) for i, prompt in enumerate(self.suite.prompts)]
        return list(journal.fill(items, work, description="prompts", progress=self.progress).values())

    def recordings(self, prompts: Sequence[Values]) -> System:
        """Return the real recordings: what follows the prompt in them, or all of them."""

        def work(i: int) -> Spoken:
            found = self._cut(self.suite.prompts[i])
            return Spoken(found.whole, len(found.start.samples))

        return System(name="recordings", kind="recordings", n_samples=1, rows=self._rows("recordings", prompts, work))

    def resynthesis(self, prompts: Sequence[Values]) -> System:
        """Return the recordings spoken again from their units, with the vocoder's durations: what a model that said
        the true words would sound like, and so the ceiling."""

        def work(i: int) -> Spoken:
            whole = self._units(i, prompts[i]["whole"])
            return speak(self.ears.voc, whole, n_prompt=prompt_length(whole, self.protocol.prompt_seconds))

        return System(
            name="resynthesis", kind="resynthesis", n_samples=1, rows=self._rows("resynthesis", prompts, work)
        )

    def dealt(self) -> list[int]:
        """Return for each prompt whose continuation it is given where continuations are shuffled."""
        return derangement(len(self.suite.prompts), seed=self.seed)

    def shuffled(self, prompts: Sequence[Values], resynthesis: System) -> System | None:
        """Return every prompt with the true continuation of another one: the floor of all that a prompt has to do with.

        Where prompt and continuation are scored together, they are spoken together; else the rows are those of the
        resynthesis, dealt to other prompts, without a sound of their own. None where there are no prompts.
        """
        if self.unconditional:
            return None
        others = self.dealt()
        if self.protocol.scored == "continuation":
            rows = [dict(resynthesis.rows[j]) for j in others]
            for row, prompt, heard in zip(rows, self.suite.prompts, prompts, strict=True):
                row |= self._about(prompt, 0) | {"sound": "", "voice": _cosine(row["voice_of"], heard["voice"])}
            return System(name="shuffled", kind="shuffled", n_samples=1, rows=rows)

        def work(i: int) -> Spoken:
            mine, theirs = self._units(i, prompts[i]["units"]), self._units(i, prompts[others[i]]["whole"])
            n = prompt_length(theirs, self.protocol.prompt_seconds)
            joined = dataclasses.replace(
                mine, ids=np.concatenate([mine.ids, theirs.ids[n:]]), runs=np.concatenate([mine.runs, theirs.runs[n:]])
            )
            return speak(self.ears.voc, joined, n_prompt=len(mine))

        dealt = {"seed": self.seed, "among": list(self.digests)}
        rows = self._rows("shuffled", prompts, work, made_by=dealt)
        return System(name="shuffled", kind="shuffled", n_samples=1, rows=rows)

    def model(
        self,
        name: str,
        load: Callable[[], UnitLM],
        prompts: Sequence[Values],
        *,
        folder: str,
        sha256: str,
        temperature: float,
    ) -> System:
        """Return what a model says; it is loaded only where something is still to be sampled.

        Raises:
            BadInput: prompts that the model has no room for.
        """
        starts = [None if row["units"] is None else self._units(i, row["units"]) for i, row in enumerate(prompts)]
        keys = [(i, k) for i in range(len(prompts)) for k in range(self.protocol.samples)]
        named = {self._name(i, k): (i, k) for i, k in keys}
        made_by = {"model": sha256, "temperature": temperature, "seed": self.seed, **_told(self.protocol, _OF_MODELS)}
        said = {"units": self.ears.tok.spec.fingerprint, **_told(self.protocol, _OF_PROMPTS), **made_by}
        journal = Journal(self.out / PARTS / f"said.{_hash(said)}.jsonl")
        if any(key not in journal.rows for key in named):
            lm = load()
            lm.require(self.ears.tok.spec, theirs="the tokenizer of the prompts")
            require_room(lm, starts, self.protocol)

            def sample(batch: list[str]) -> list[Values]:
                at = [named[key] for key in batch]
                seeds = [seed_of(self.seed, self.suite.prompts[i].id, k) for i, k in at]
                made = continued(lm, [starts[i] for i, _ in at], self.protocol, temperature=temperature, seeds=seeds)
                return [{"ids": units.ids.tolist()} for units in made]

            size = BATCH if lm.device.type == "cpu" else BATCH_GPU
            journal.fill_batches(
                list(named), sample, size=size, description=f"{name} continues", progress=self.progress
            )
            del lm
            gc.collect()  # models sit in reference cycles, and two at once would double the peak memory

        def work(i: int, k: int) -> Spoken:
            ids = np.array(journal.rows[self._name(i, k)]["ids"], dtype=np.uint16)
            spec = self.ears.tok.spec
            if not len(ids):  # it had nothing to go on from and ended at once
                return Spoken(Clip(np.zeros(0, np.float32), self.ears.voc.sample_rate, id=self._name(i, k)), 0)
            units = Units(ids=ids, runs=np.ones(len(ids), np.int32), spec=spec, id=self._name(i, k))
            start = starts[i]
            return speak(self.ears.voc, units, n_prompt=0 if start is None else len(start))

        rows = self._rows(name, prompts, work, made_by=made_by, n_samples=self.protocol.samples)
        for (name_, (i, _)), row in zip(named.items(), rows, strict=True):
            start = starts[i]
            ids = journal.rows[name_]["ids"][0 if start is None else len(start) :]
            row |= {"n_units": len(ids), "unit_repetition": repetition(ids, n=4)}
            limit = unit_limit(self.ears.tok.spec, start, self.protocol)
            row["ended"] = float(len(ids) < limit) if self.protocol.stop_at_end else None
        return System(
            name=name,
            kind="model",
            rows=rows,
            n_samples=self.protocol.samples,
            model=folder,
            model_sha256=sha256,
            temperature=temperature,
        )

    def _rows(
        self,
        name: str,
        prompts: Sequence[Values],
        work: Callable[..., Spoken],
        *,
        made_by: Mapping[str, Any] | None = None,
        n_samples: int | None = None,
    ) -> list[Values]:
        """Speak, write and judge each continuation. `work` makes the sound of prompt i, and of sample k where there are
        several."""
        key = self._key(name if n_samples is None else "heard", **(made_by or {}))
        home = self.out / PARTS / f"{key}-sounds"
        journal = Journal(self.out / PARTS / f"heard.{key}.jsonl")

        def judged(at: tuple[int, int]) -> Values:
            i, k = at
            spoken = work(i) if n_samples is None else work(i, k)
            if self.protocol.cut_to_truth:
                spoken = cut_to(spoken, seconds=float(prompts[i]["seconds"]))
            # By the prompt's id as well: two prompts may hold the same sound, and are continued differently.
            sound = home / f"{hashlib.sha256(self._name(i, k).encode()).hexdigest()[:16]}-{k}.flac"
            if len(spoken.clip.samples):
                spoken.clip.write(sound)
            scored = spoken.continuation if self.protocol.scored == "continuation" else spoken.clip
            heard = hear(scored, self.ears.listener, silence=self.protocol.silence)
            row: Values = dataclasses.asdict(heard) | {"start": spoken.start / spoken.clip.sample_rate}
            row["sound"] = str(sound.relative_to(self.out)) if len(spoken.clip.samples) else ""
            if len(scored.samples):
                for judge in self.ears.judges:
                    row |= judge(scored)
            after = spoken.continuation
            if self.ears.voices is not None and prompts[i]["voice"] is not None and len(after.samples):
                of = self.ears.voices.embed(after)
                row["voice_of"] = [round(float(x), 6) for x in of]
                row["voice"] = _cosine(row["voice_of"], prompts[i]["voice"])
            return row

        items = [(self._name(i, k), (i, k)) for i in range(len(prompts)) for k in range(n_samples or 1)]
        found = journal.fill(items, judged, description=f"{name}, heard", progress=self.progress)
        rows = []
        for item, (i, k) in items:
            about = self._about(self.suite.prompts[i], k)
            rows.append({"voice": None, "voice_of": None} | found[item] | about)
        return rows

    @staticmethod
    def _about(prompt: Prompt, sample: int) -> Values:
        return {"prompt": prompt.id, "sample": sample, "group": prompt.group, "recording": prompt.text}

    def _cut(self, prompt: Prompt) -> CutPrompt:
        return cut(
            prompt,
            sample_rate=self.ears.tok.spec.sample_rate,
            prompt_seconds=self.protocol.prompt_seconds,
            seconds=self.protocol.truth_seconds,
        )

    def _units(self, i: int, stored: Mapping[str, Any]) -> Units:
        return Units(
            ids=np.array(stored["ids"], dtype=np.uint16),
            runs=np.array(stored["runs"], dtype=np.int32),
            spec=self.ears.tok.spec,
            id=self.suite.prompts[i].id,
        )

    def _name(self, i: int, k: int) -> str:
        return f"{self.suite.prompts[i].id} {k} {self.digests[i][:16]}"

    def _key(self, what: str, **made_by: Any) -> str:
        """Return 12 hex digits over all that makes rows what they are."""
        return _hash({"what": what, **_told(self.protocol, _OF_SOUNDS), "ears": dict(self.ears.facts), **made_by})


def digests_of(suite: PromptSuite, protocol: Protocol, *, sample_rate: int) -> list[str]:
    """Return the sha256 of every prompt's sound as the protocol cuts it.

    Raises:
        AudioError: recordings that cannot be read or are too short; the first five are named. Numbers over part of the
            prompts would be of another suite.
    """

    def digest(prompt: Prompt) -> str | AudioError:
        try:
            return cut(
                prompt,
                sample_rate=sample_rate,
                prompt_seconds=protocol.prompt_seconds,
                seconds=protocol.truth_seconds,
            ).sha256
        except AudioError as error:
            return error

    found = list(in_order(digest, suite.prompts))
    if bad := [str(one) for one in found if isinstance(one, AudioError)]:
        raise AudioError(
            f"{len(bad)} of {len(found)} prompts of {suite.name} cannot be used: {offenders(bad)} Numbers over part of "
            "the prompts would be of another suite."
        )
    return [one for one in found if isinstance(one, str)]


def require_heard(rows: Sequence[Values], *, what: str) -> None:
    """Raise where nothing was heard in any row: numbers of silence alone would mislead.

    Raises:
        AudioError: all transcripts are empty.
    """
    if rows and not any(words_of(row["text"] or "") for row in rows):
        raise AudioError(
            f"in none of the {len(rows)} sounds of {what} was anything heard: silence, or a recogniser of another "
            "language. There is nothing to measure."
        )


def _stored(units: Units) -> Values:
    return {"ids": units.ids.tolist(), "runs": units.runs.tolist()}


def _told(protocol: Protocol, fields: Sequence[str]) -> Values:
    return {name: getattr(protocol, name) for name in fields}


def _hash(told: Values) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _cosine(one: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
    return None if one is None or other is None else float(np.dot(one, other))
