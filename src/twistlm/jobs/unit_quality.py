"""The quality of one or two tokenizers' units on aligned speech: numbers with intervals, a row for each clip.

All measures are over the same clips: those of the speech that have an alignment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twistlm.audio.decoding import info
from twistlm.audio.finding import visible
from twistlm.compute.devices import device
from twistlm.corpus.manifest import Entry, load
from twistlm.corpus.sounds import read_clip
from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import without_nan
from twistlm.files.regular import file_sha256
from twistlm.jobs.unit_measures import Material, measure, value
from twistlm.pages.unit_quality import write_page
from twistlm.progress import track
from twistlm.types import UnitSpec
from twistlm.units import kmeans
from twistlm.units.features import MFCCEncoder
from twistlm.units.quality.agreement import pnmi_ratio
from twistlm.units.quality.alignment import check_lengths, matched, read_alignments, receptive_field
from twistlm.units.tokenizer import SpeechTokenizer

Values = dict[str, Any]
MFCC = "mfcc"
_FIT_FRAMES = 200_000

PROTOCOL = {
    "PNMI and purities": "over all frames with a phone, silence included; the phone at the centre of a frame's "
    "receptive field; intervals: bootstrap over clips, 1000 resamples, shifted by its bias; of the ratio of two "
    "PNMIs paired: both on the same resamples",
    "ABX": "phones in any context, silences left out; DTW over frames, angular distance of features, 0 or 1 for units; "
    "mean over speakers, then over ordered pairs of phones; intervals: jackknife over ten groups of clips",
    "bits per second": "entropy of deduplicated units × units per second (ZeroSpeech 2019)",
    "speaker probe": "logistic regression on the square roots of a clip's unit shares, five folds over clips",
    "robustness": "share of frames with the same unit as undisturbed; white noise, a synthetic room (T60 0.4 s, "
    "direct-to-reverberant ratio 0 dB), libsndfile's MP3 and Opus at their own settings",
}


def unit_quality_of(
    speech: str | Path | Sequence[Entry],
    alignment: str | Path,
    *,
    tokenizer: str | Path,
    against: str | Path | None,
    seed: int,
    mfcc_speech: str | Path | Sequence[Entry] | None = None,
    split: str | None = None,
    phone_set: str | None = None,
    tier: str | None = None,
    max_clips: int | None = None,
    max_items: int | None = 10,
    max_x_speakers: int | None = 5,
    robustness_clips: int = 100,
    out: str | Path | None = None,
    progress: bool = False,
) -> Values:
    """Measure the units of a tokenizer, and of a second one, on aligned speech.

    Args:
        speech: folder of sound files, manifest, or its entries.
        alignment: gold phones, as `units.quality.alignment.read_alignments` reads them.
        tokenizer: name or folder.
        against: a second tokenizer, or "mfcc": k-means over MFCC of the same size and frame rate.
        mfcc_speech: what "mfcc" is fitted on: folder, manifest or entries, of which a seeded sample of clips is taken;
            None fits it on the very clips that are measured, which flatters it.
        seed: of the choice of clips and tokens, the bootstrap, the probe's folds, noises and k-means.
        split: measure clips of this split only.
        phone_set, tier: which phones of `alignment`.
        max_clips: measure a seeded sample of so many clips.
        max_items: ABX: tokens of each phone and speaker at most (ZeroSpeech: 10); None takes all.
        max_x_speakers: ABX: other speakers for each speaker (ZeroSpeech: 5); None takes all.
        robustness_clips: clips that are disturbed, a seeded sample; 0 leaves robustness out.
        out: folder for `quality.json`, `clips.parquet` and `report.html`.
        progress: show bars.

    Returns:
        What `quality.json` holds: `speech`, `alignment`, `seed`, `protocol`, `tokenizers`, one or two, and
        `pnmi_ratio`, of the first over the second. A measure that the speech does not allow (one speaker only) is null,
        and `not_measured` says why.

    Raises:
        BadInput: no clip has an alignment, an alignment is longer than its clip, a broken table, or a choice where
            there is none.
        AudioError: an unusable sound file, or one shorter than a frame.
    """
    if mfcc_speech is not None and str(against) != MFCC:
        raise BadInput(f"speech to fit {MFCC} on (--mfcc-speech) needs {MFCC} to be set against (--against {MFCC}).")
    # By their ids, as a folder lists them: what a seed draws must not depend on the order of a manifest.
    listed = sorted(load(speech), key=lambda entry: PurePosixPath(entry.id).parts)
    entries = [entry for entry in listed if split in (None, entry.split)]
    if not entries:
        raise BadInput(f"{speech} has no clips of the split {split!r}.")
    table = read_alignments(alignment, phone_set=phone_set, tier=tier)
    phones = matched(table, [entry.id for entry in entries])
    aligned = len(phones)
    chosen = _sample([entry for entry in entries if entry.id in phones], max_clips, seed)
    phones = {entry.id: phones[entry.id] for entry in chosen}
    lengths = {entry.id: _length(entry) for entry in chosen}
    check_lengths(phones, {id: seconds for id, (seconds, _) in lengths.items()})
    first = SpeechTokenizer.load(tokenizer).on(device())
    toks = [(str(tokenizer), first)]
    if str(against) == MFCC:
        heard = chosen if mfcc_speech is None else load(mfcc_speech)
        toks.append((MFCC, _mfcc(first, heard, seed, progress)))
    elif against is not None:
        toks.append((str(against), SpeechTokenizer.load(against).on(device())))
    material = Material(
        entries=chosen,
        phones=phones,
        lengths=lengths,
        disturbed=frozenset(entry.id for entry in _sample(chosen, robustness_clips, seed)),
        max_items=max_items,
        max_x_speakers=max_x_speakers,
        seed=seed,
    )
    numbers, rows, agreed = zip(*(measure(name, tok, material, progress=progress) for name, tok in toks), strict=True)
    ratio = None
    if against is not None:
        try:
            ratio = value(*pnmi_ratio(*agreed))
        except BadInput as error:
            numbers[0]["not_measured"]["pnmi_ratio"] = str(error)
    values: Values = without_nan(
        {
            "speech": {
                "source": _named(speech),
                "split": split,
                "clips": len(chosen),
                "speakers": len(set(material.speakers) - {""}),
                "seconds": sum(material.seconds),
                "clips_without_alignment": len(entries) - aligned,
                "clips_disturbed": len(material.disturbed),
            },
            "alignment": {
                "source": str(alignment),
                "sha256": _digest(Path(alignment)),
                "phone_set": phone_set,
                "tier": tier,
            },
            "seed": seed,
            "abx_max_items": max_items,
            "abx_max_x_speakers": max_x_speakers,
            "protocol": PROTOCOL,
            "mfcc_fitted_on": _named(speech if mfcc_speech is None else mfcc_speech) if str(against) == MFCC else None,
            "tokenizers": list(numbers),
            "pnmi_ratio": ratio,
        }
    )
    if out is not None:
        with atomic_write(Path(out) / "quality.json") as temporary:
            temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with atomic_write(Path(out) / "clips.parquet") as temporary:
            pq.write_table(pa.Table.from_pylist([row for of_one in rows for row in of_one]), temporary)
        write_page(values, Path(out) / "report.html")
    return values


def _named(speech: str | Path | Sequence[Entry]) -> str:
    return str(speech) if isinstance(speech, str | Path) else "a list of clips"


def _sample(entries: Sequence[Entry], n: int | None, seed: int) -> list[Entry]:
    """A seeded sample, in the order given; None takes all."""
    if n is None or n >= len(entries):
        return list(entries)
    return [entries[i] for i in sorted(np.random.default_rng(seed).permutation(len(entries))[:n])]


def _length(entry: Entry) -> tuple[float, int]:
    """Seconds and sample rate of a clip: by its file's header; a part of a file, or of an archive, is read."""
    if not entry.part:
        return info(entry.path)[:2]
    clip = read_clip(entry, sample_rate=None)
    return clip.seconds, clip.sample_rate


def _mfcc(tok: SpeechTokenizer, entries: Sequence[Entry], seed: int, progress: bool) -> SpeechTokenizer:
    """k-means over MFCC of these clips, of as many as give _FIT_FRAMES, with as many units and frames as `tok` has."""
    encoder = MFCCEncoder.centred(tok.encoder, receptive=receptive_field(tok.encoder))
    features: list[NDArray[np.float32]] = []
    n_frames = 0
    shuffled = (entries[i] for i in np.random.default_rng(seed).permutation(len(entries)))
    for entry in track(shuffled, description="MFCC", total=len(entries), enabled=progress):
        features.append(encoder(read_clip(entry, sample_rate=encoder.sample_rate).samples))
        n_frames += len(features[-1])
        if n_frames >= _FIT_FRAMES:
            break
    codebook = kmeans.fit(np.concatenate(features), tok.spec.n_units, seed=seed)
    spec = UnitSpec(
        encoder=MFCC, encoder_sha256=hashlib.sha256(b"twistlm MFCC, 39 dimensions").hexdigest(), layer=0, tap="mfcc",
        normalize_input=False, sample_rate=tok.spec.sample_rate, hop=tok.spec.hop, n_units=codebook.n_units,
        centroids_sha256=codebook.sha256, deduplicate=True,
    )  # fmt: skip
    return SpeechTokenizer(encoder, codebook, spec)


def _digest(path: Path) -> str:
    """Sha256 of a file, or over the names and contents of the TextGrids below a folder."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in visible(path, "**/*", (".textgrid",)):
        digest.update(f"{file.relative_to(path)} {file_sha256(file)}\n".encode())
    return digest.hexdigest()
