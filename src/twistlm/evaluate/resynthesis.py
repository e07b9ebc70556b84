"""How much speech units keep: a recogniser's errors on clips before and after they went through units and vocoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import read_clip
from twistlm.evaluate.asr import Whisper, wer
from twistlm.progress import track
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

Values = dict[str, Any]


def resynthesis_errors(
    clips: Sequence[Entry],
    tok: SpeechTokenizer,
    voc: Vocoder,
    listener: Whisper | None,
    *,
    seed: int,
    progress: bool,
) -> Values:
    """Count a recogniser's errors on clips before and after they went through units and vocoder."""
    names = ("wer_original", "wer_resynth")
    if listener is None or not clips:
        empty = dict.fromkeys([*names, *(f"{name}_ci" for name in names)])
        return {**empty, "n": 0, "protocol": "not measured: it needs held-out clips with transcripts"}

    def before_and_after(entry: Entry) -> tuple[str, str]:
        clip = read_clip(entry, sample_rate=tok.spec.sample_rate)
        return listener.transcribe(clip), listener.transcribe(voc(tok(clip), durations="given"))

    made = in_order(before_and_after, clips)
    heard = list(track(made, description="resynthesis, recognised", total=len(clips), enabled=progress))
    values: Values = {"n": len(clips), "protocol": listener.protocol}
    for name, texts in zip(names, zip(*heard, strict=True), strict=True):
        errors = wer([e.text for e in clips], texts, seed=seed)
        values |= {name: errors.value, f"{name}_ci": errors.ci}
    return values
