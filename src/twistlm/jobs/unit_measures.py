"""One tokenizer listened to: every measure of its units over the same aligned clips.

A measure that the speech does not allow (one speaker only, say) is None, and the reason is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twistlm.audio.decoding import resampled_length, seconds_to_samples
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import read_clip
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.evaluate.stats import outcome_ci, ratio_ci
from twistlm.progress import track
from twistlm.units.quality import abx
from twistlm.units.quality.agreement import Agreement, agreement, phone_unit_counts
from twistlm.units.quality.alignment import SILENCE, Alignment, phones_at, receptive_field
from twistlm.units.quality.leakage import speaker_leakage
from twistlm.units.quality.robustness import DISTURBANCES, unchanged
from twistlm.units.quality.usage import usage
from twistlm.units.runs import dedup
from twistlm.units.tokenizer import SpeechTokenizer

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is listened to, and how.

    Attributes:
        entries: the clips.
        phones: clip id -> its alignment.
        lengths: clip id -> (seconds, sample rate in Hz): by the file's header, of a part of a file as it was read.
        disturbed: ids of the clips that are disturbed.
        max_items, max_x_speakers: of `abx.draw` and `abx.abx`.
        seed: of everything random.
    """

    entries: Sequence[Entry]
    phones: Mapping[str, Alignment]
    lengths: Mapping[str, tuple[float, int]]
    disturbed: frozenset[str]
    max_items: int | None
    max_x_speakers: int | None
    seed: int

    @property
    def seconds(self) -> list[float]:
        return [self.lengths[entry.id][0] for entry in self.entries]

    @property
    def speakers(self) -> list[str]:
        return [entry.speaker for entry in self.entries]


class _Heard(NamedTuple):
    """Of one clip: its units, the tokens drawn from it with their features, the frames each disturbance kept."""

    units: NDArray[np.uint16]
    tokens: list[abx.Token]
    features: list[NDArray[np.float32]]
    kept: dict[str, int] | None


def measure(
    name: str, tok: SpeechTokenizer, material: Material, *, progress: bool
) -> tuple[Values, list[Values], Agreement]:
    """Return the numbers of one tokenizer, a row for each clip, and its agreement with phones, to set beside another's.

    Raises:
        AudioError: an unusable sound file, or one shorter than a frame.
        BadInput: no frame has a phone.
    """
    seed = material.seed
    grid = {"hop": tok.spec.hop, "sample_rate": tok.spec.sample_rate, "receptive": receptive_field(tok)}
    heard, frameless = _listen(name, tok, material, grid, progress)
    units = [clip.units for clip in heard]
    labels = [
        phones_at(material.phones[entry.id], len(u), **grid) for entry, u in zip(material.entries, units, strict=True)
    ]
    missing: dict[str, str] = {}
    if nobody := sum(not speaker for speaker in material.speakers):
        n = f"{nobody} of {len(units)} clips do not say who speaks"
        missing["clips without speaker"] = f"{n}: they are left out of ABX and of the speaker probe."
    agreed = agreement(units, labels, seed=seed)
    told = not math.isnan(agreed.quality.pnmi)
    if not told:
        missing["pnmi"] = "all frames have one phone, of which nothing is left to tell."
    probed = _unless(missing, "speaker_probe", lambda: _speaker_probe(units, material, tok.spec.n_units))
    guesses = probed.pop("guesses") if probed else [None] * len(units)
    names, counts = phone_unit_counts(units, labels, n_units=tok.spec.n_units)
    values = {
        "tokenizer": name,
        "unit_spec": tok.spec.fingerprint,
        "spec": tok.spec.to_dict(),
        **{
            what: value(getattr(agreed.quality, what), getattr(agreed, f"{what}_ci"))
            if told or what != "pnmi"
            else None
            for what in ("pnmi", "phone_purity", "cluster_purity")
        },
        "pnmi_shuffled": agreed.pnmi_shuffled if told else None,
        "frames_with_phone": agreed.quality.frames,
        "abx": _abx(heard, material, missing),
        "phones_without_frame": frameless,
        "usage": _usage(units, material, tok.spec.n_units),
        "speaker_probe": probed,
        "robustness": _robustness(heard, seed),
        "phones": {"names": names, "counts": counts.tolist()},
        "not_measured": missing,
    }
    commonest = np.array(names)[counts.argmax(0)]
    rows = [
        {
            "tokenizer": name,
            "id": entry.id,
            "speaker": entry.speaker,
            "seconds": material.lengths[entry.id][0],
            "frames": len(clip.units),
            "units": len(dedup(clip.units)[0]),
            "frames_with_phone": int((label != "").sum()),
            "frames_of_commonest_phone": int((commonest[clip.units] == label).sum()),
            "speaker_guessed": guess,
            **{f"unchanged: {what}": (clip.kept or {}).get(what) for what in DISTURBANCES},
        }
        for entry, clip, label, guess in zip(material.entries, heard, labels, guesses, strict=True)
    ]
    return values, rows, agreed


def value(estimate: float, ci: Sequence[float]) -> Values:
    return {"value": estimate, "ci": list(ci)}


def _listen(
    name: str, tok: SpeechTokenizer, material: Material, grid: Mapping[str, int], progress: bool
) -> tuple[list[_Heard], int]:
    """Every clip, heard once (and once more for each disturbance); and the phones too short to hold a frame."""
    # Which tokens ABX compares is drawn before any clip is heard, so that only their features need be kept.
    frames = {
        id: tok.n_frames(resampled_length(seconds_to_samples(seconds, rate), rate, tok.spec.sample_rate))
        for id, (seconds, rate) in material.lengths.items()
    }
    if short := [id for id, n in frames.items() if not n]:
        raise AudioError(f"shorter than one frame of {name}: {offenders(short)}. Leave them out.")
    cut = [
        abx.tokens_of(e.id, e.speaker, material.phones[e.id], frames[e.id], **grid, leave_out=SILENCE)
        for e in material.entries
    ]
    drawn: dict[str, list[abx.Token]] = {entry.id: [] for entry in material.entries}
    named = [token for tokens, _ in cut for token in tokens if token.speaker]  # nobody's are not one person's
    for token in abx.draw(named, max_items=material.max_items, seed=material.seed):
        drawn[token.clip].append(token)

    def hear(entry: Entry) -> _Heard:
        clip = read_clip(entry, sample_rate=tok.spec.sample_rate)
        features = tok.features(clip)
        if len(features) != frames[entry.id]:
            raise AudioError(f"{entry.path}: its header promises another length than it has. Convert it again.")
        units = tok.codebook.assign(features)
        kept = unchanged(tok, clip, units, seed=material.seed) if entry.id in material.disturbed else None
        return _Heard(units, drawn[entry.id], [features[t.first : t.last].copy() for t in drawn[entry.id]], kept)

    clips = in_order(hear, material.entries)
    heard = track(clips, description=f"listening with {name}", total=len(material.entries), enabled=progress)
    return list(heard), sum(without for _, without in cut)


def _abx(heard: Sequence[_Heard], material: Material, missing: dict[str, str]) -> Values:
    """Within and across speakers, of units and of features."""
    tokens = [token for clip in heard for token in clip.tokens]
    features = [piece for clip in heard for piece in clip.features]
    units = [clip.units[token.first : token.last] for clip in heard for token in clip.tokens]

    def one(pieces: Sequence[NDArray[np.generic]], speakers: Any, distance: Any) -> Values:
        found = abx.abx(
            pieces,
            tokens,
            speakers=speakers,
            distance=distance,
            max_x_speakers=material.max_x_speakers,
            seed=material.seed,
        )
        return value(found.error, found.ci) | {"pairs": found.pairs, "tokens": found.tokens}

    found: Values = {}
    for speakers in ("within", "across"):
        why = f"abx_{speakers}"
        found[f"units_{speakers}"] = _unless(missing, why, lambda s=speakers: one(units, s, "identical"))  # type: ignore[misc]
        found[f"features_{speakers}"] = _unless(missing, why, lambda s=speakers: one(features, s, "angular"))  # type: ignore[misc]
    return found


def _usage(units: Sequence[NDArray[np.uint16]], material: Material, n_units: int) -> Values:
    counted = usage(units, n_units=n_units, seconds=sum(material.seconds))
    single = [len(dedup(clip)[0]) for clip in units]
    return dataclasses.asdict(counted) | {"units_per_second_ci": ratio_ci(single, material.seconds, seed=material.seed)}


def _speaker_probe(units: Sequence[NDArray[np.uint16]], material: Material, n_units: int) -> Values:
    known = [i for i, speaker in enumerate(material.speakers) if speaker]
    speakers = [material.speakers[i] for i in known]
    leak = speaker_leakage([units[i] for i in known], speakers, n_units=n_units, seed=material.seed)
    right = [float(guess == speaker) for guess, speaker in zip(leak.guesses, speakers, strict=True)]
    found = value(leak.accuracy, outcome_ci(right, seed=material.seed))
    guesses: list[str | None] = [None] * len(units)
    for i, guess in zip(known, leak.guesses, strict=True):
        guesses[i] = guess
    return found | {"chance": leak.chance, "speakers": leak.speakers, "guesses": guesses}


def _robustness(heard: Sequence[_Heard], seed: int) -> Values:
    kept = [(clip.kept, len(clip.units)) for clip in heard if clip.kept is not None]
    frames = [n for _, n in kept]
    found: Values = {}
    for what in DISTURBANCES if kept else ():
        same = [of_clip[what] for of_clip, _ in kept]
        found[what] = value(sum(same) / sum(frames), ratio_ci(same, frames, seed=seed))
    return found


def _unless(missing: dict[str, str], name: str, measured: Callable[[], Values]) -> Values | None:
    """What `measured` gives; None, and the reason in `missing`, when the speech does not allow it."""
    try:
        return measured()
    except BadInput as error:
        missing[name] = str(error)
        return None
