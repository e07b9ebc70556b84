"""Speak while units arrive: sound comes as soon as nothing that is still to come can change it, or a little sooner.

A frame's sound depends on the frames in reach of the generator on both sides, and a unit's predicted duration on the
units in reach of the predictor. Waiting for all of those gives exactly the samples of the whole clip. Waiting for fewer
(`look_ahead`) is sooner: what has not come yet is then taken for more of the last unit, and the seam to what was spoken
under the earlier guess is faded over.

Shapes: R units, F frames, n samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twistlm.errors import BadInput, offenders
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.generator import Reach

MOST_FRAMES = 250  # spoken in one computation, so that a large push needs bounded memory
Samples = NDArray[np.float32]


class Stream:
    """One listener's stream; `Vocoder.open_stream` makes it. Not to be shared by threads; many may run side by side.

        stream = voc.open_stream(durations="predicted", look_ahead=8)
        for ids in arriving:          # any number of units at a time
            play(stream.push(ids))    # float32 [n], often empty
        play(stream.finish())

    What `push` and `finish` return, laid end to end, is the clip. It does not depend on how units are shared out over
    pushes, as long as `look_ahead` and `first_look_ahead` are at least `whole_look_ahead`.

    Attributes:
        look_ahead: frames that a frame waits for; `whole_look_ahead` or more is exact.
        first_look_ahead: frames that those of the first sound wait for.
        whole_look_ahead: the least look-ahead that gives the samples of the whole clip.
        sample_rate, hop: of the sound: Hz, and samples a frame.
        lasting: frames of each unit pushed so far whose duration is decided, in order.
    """

    def __init__(
        self,
        speak: Callable[[Tensor], Tensor],
        runs: Callable[[Tensor], Tensor],
        spec: UnitSpec,
        *,
        durations: Literal["given", "predicted"],
        reach: Reach,
        duration_reach: int,
        look_ahead: int | None,
        first_look_ahead: int | None,
        first: int,
        chunk: int,
        before: Units | None = None,
        name: str,
    ) -> None:
        """Use `Vocoder.open_stream`.

        Args:
            speak: frames int64 [1, F] to samples float32 [F * hop].
            runs: units int64 [1, R] to the frames each lasts, int64 [R].
            spec, durations, look_ahead, first_look_ahead, first, chunk, before, name: as of `Vocoder.open_stream`.
            reach, duration_reach: of the two.
        """
        self.whole_look_ahead = max(reach.right, duration_reach if durations == "predicted" else 0)
        self.look_ahead = self.whole_look_ahead if look_ahead is None else look_ahead
        self.first_look_ahead = self.look_ahead if first_look_ahead is None else first_look_ahead
        if not 0 <= self.first_look_ahead <= self.look_ahead or first < 1 or chunk < 1:
            raise BadInput(
                "a stream needs a look-ahead of at least 0, no less than the first sound's, and pieces of at least 1 "
                f"frame, not {self.look_ahead}, {self.first_look_ahead}, {first} and {chunk}."
            )
        self.sample_rate, self.hop = spec.sample_rate, spec.hop
        self._speak, self._runs, self._spec, self._name = speak, runs, spec, name
        self._durations, self._reach, self._duration_reach = durations, reach, duration_reach
        self._first, self._chunk = first, chunk
        self._units = np.zeros(0, np.int64)  # those that wait for a duration, with their reach before them
        self._n_decided = 0  # of self._units, how many have their duration
        self._frames = np.zeros(0, np.int64)  # those to be spoken, with their reach before them
        self._n_spoken = 0  # of self._frames, how many are spoken
        self._ahead: Samples = np.zeros(0, np.float32)  # what the last computation took to follow, to fade out of
        self._begun = self._finished = False
        self.lasting: list[int] = []
        self._n_before = 0  # of the units that wait for a duration, how many are not to be spoken
        if before is not None and len(before):
            if durations == "given":
                self._frames = before.frames[max(0, len(before.frames) - reach.left) :].astype(np.int64)
                self._n_spoken = len(self._frames)
            else:
                self._units, self._n_before = before.ids.astype(np.int64), len(before)

    def push(self, ids: Sequence[int] | NDArray[np.integer], runs: Sequence[int] | None = None) -> Samples:
        """Take the next units; return the sound that can be spoken now, float32 [n] in -1 … 1 (n may be 0).

        Args:
            ids: units in 0 … K-1, any number of them.
            runs: frames each lasts, with durations="given"; None: one frame each.

        Raises:
            BadInput: an id that is no unit, runs that do not fit or with durations="predicted", or a finished stream.
                Nothing of such a push is taken.
        """
        units = self._checked(ids)
        if self._durations == "given":
            lasting = self._checked_runs(runs, len(units))
            self._frames = np.concatenate((self._frames, np.repeat(units, lasting)))
            self.lasting += lasting.tolist()
        else:
            if runs is not None:
                raise BadInput(f"{self._name}: the stream predicts durations, so it takes no runs.")
            self._units = np.concatenate((self._units, units))
            self._decide(len(self._units) - min(self.look_ahead, self._duration_reach))
        ahead, least = (self.look_ahead, self._chunk) if self._begun else (self.first_look_ahead, self._first)
        ready = len(self._frames) - ahead
        return self._sound(ready) if ready - self._n_spoken >= least else np.zeros(0, np.float32)

    def finish(self) -> Samples:
        """Say that no more units come; return the rest of the sound. A stream of no units is no sound.

        Raises:
            BadInput: it is finished already.
        """
        self._require_open()
        if self._durations == "predicted":
            self._decide(len(self._units))
        self._finished = True
        return self._sound(len(self._frames))

    def _decide(self, until: int) -> None:
        """Give the waiting units before `until` their durations."""
        if until <= self._n_decided:
            return
        with torch.inference_mode():
            lasting = self._runs(torch.from_numpy(self._units)[None]).cpu().numpy()[self._n_decided : until]
        self._frames = np.concatenate((self._frames, np.repeat(self._units[self._n_decided : until], lasting)))
        silent = min(self._n_before, until - self._n_decided)
        self._n_before -= silent
        self.lasting += lasting[silent:].tolist()
        if silent:
            self._n_spoken += int(lasting[:silent].sum())
            far = max(0, self._n_spoken - self._reach.left)
            self._frames, self._n_spoken = self._frames[far:], self._n_spoken - far
        drop = max(0, until - self._duration_reach)
        self._units, self._n_decided = self._units[drop:], until - drop

    def _sound(self, until: int) -> Samples:
        """Speak the frames before `until`."""
        parts = []
        while self._n_spoken < until:
            stop = min(until, self._n_spoken + MOST_FRAMES)
            parts.append(self._piece(stop))
            drop = max(0, stop - self._reach.left)
            self._frames, self._n_spoken, self._begun = self._frames[drop:], stop - drop, True
            until -= drop
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _piece(self, stop: int) -> Samples:
        frames = self._frames[: stop + self._reach.right]
        missing = 0 if self._finished else stop + self._reach.right - len(frames)
        if missing:
            frames = np.concatenate((frames, np.repeat(frames[-1:], missing)))
        with torch.inference_mode():
            samples = self._speak(torch.from_numpy(frames)[None]).cpu().numpy()
        spoken = samples[self._n_spoken * self.hop : stop * self.hop].copy()
        if n := min(len(self._ahead), len(spoken)):
            rise = np.linspace(0, 1, n, dtype=np.float32)
            spoken[:n] = rise * spoken[:n] + (1 - rise) * self._ahead[:n]
        self._ahead = samples[stop * self.hop :][: self.hop] if missing else np.zeros(0, np.float32)
        return spoken

    def _require_open(self) -> None:
        if self._finished:
            raise BadInput(f"{self._name}: the stream is finished; open another one.")

    def _checked(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        self._require_open()
        units = np.asarray(ids)
        if units.ndim != 1 or (len(units) and not np.issubdtype(units.dtype, np.integer)):
            raise BadInput(f"{self._name}: units are a list of whole numbers, not {units.dtype} {units.shape}.")
        if wrong := [int(i) for i in units if not 0 <= i < self._spec.n_units]:
            raise BadInput(f"{self._name}: units are 0 … {self._spec.n_units - 1}; these are not: {offenders(wrong)}.")
        return units.astype(np.int64)

    def _checked_runs(self, runs: Sequence[int] | None, n: int) -> NDArray[np.int64]:
        lasting = np.ones(n, np.int64) if runs is None else np.asarray(runs)
        if lasting.shape != (n,) or (n and not np.issubdtype(lasting.dtype, np.integer)):
            raise BadInput(f"{self._name}: {n} units need {n} whole numbers of frames, not {lasting.shape}.")
        if n and lasting.min() < 1:
            raise BadInput(f"{self._name}: a unit lasts {int(lasting.min())} frames; each lasts 1 or more.")
        return lasting.astype(np.int64)
