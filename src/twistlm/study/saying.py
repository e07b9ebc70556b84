"""What the quickstart's two models say, measured in short: a few held-out prompts, heard by the recogniser and read by
the text LM that warm began as. `twist eval --generation` is the whole measurement."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.corpus.manifest import Entry
from twistlm.corpus.sounds import check_header
from twistlm.evaluate import asr
from twistlm.evaluate.generation.hearing import Listener
from twistlm.evaluate.generation.measuring import Model, read_all, results, speak_all
from twistlm.evaluate.generation.prompts import PromptSuite, from_entries
from twistlm.evaluate.generation.protocols import OURS, Protocol
from twistlm.evaluate.generation.reading import TextLM
from twistlm.evaluate.generation.speaking import Ears, Session, digests_of
from twistlm.lm.folders import lm_folder, load_model
from twistlm.lm.phases import text_lm_files
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

Values = dict[str, Any]
PROMPTS = 12
# What the report shows of it: name of the measure, of `evaluate.generation.table`.
SHOWN = ("gen_ppl_not_empty", "wins", "auto_bleu_slamkit", "self_bleu", "words_per_second", "silence", "empty")


def choose(entries: Sequence[Entry]) -> PromptSuite | None:
    """Return the first held-out clips that are long enough, in the order of a hash of their ids; None where there are
    fewer than two."""
    held = [e for e in entries if e.split != "train"]
    order = sorted(held, key=lambda e: hashlib.sha256(e.id.encode()).digest())
    long = [e for e in order if (e.seconds or check_header(e) or 0.0) > OURS.longer_than][:PROMPTS]
    return from_entries(long, name="held-out clips") if len(long) > 1 else None


def protocol_of(text_lm: str, suite: PromptSuite) -> Protocol:
    """Return the protocol of the report: ours, on these clips, read by the run's text LM."""
    return OURS.changed(prompts=suite.name, most_prompts=len(suite.prompts), lm=text_lm)


def say(
    suite: PromptSuite,
    out: Path,
    tok: SpeechTokenizer,
    voc: Vocoder,
    runs: Sequence[tuple[str, Path]],
    listener: Listener,
    text_lm: Path,
    protocol: Protocol,
    *,
    seed: int,
    progress: bool,
) -> Values:
    """Measure what the models say; what is done lies in `out` and is not done again.

    Args:
        suite: prompts.
        out: folder.
        tok, voc: of the models' units.
        runs: name and folder of each model.
        listener: the recogniser.
        text_lm: folder of the text LM that reads.
        protocol: how.
        seed: of sampling and resampling.
        progress: show bars.

    Returns:
        Plain values: `systems` (name, kind, and of each measure in SHOWN its value, interval and n), `differences`,
        `protocol`, `n`.

    Raises:
        As `speak_all`.
    """
    facts = {"units": tok.spec.fingerprint, "vocoder": voc.synthesizer.sha256()[:16], "asr": asr.PROTOCOL}
    ears = Ears(tok=tok, voc=voc, listener=listener, judges=(), voices=None, facts=facts)
    digests = digests_of(suite, protocol, sample_rate=tok.spec.sample_rate)
    session = Session(protocol=protocol, suite=suite, digests=digests, ears=ears, out=out, seed=seed, progress=progress)
    models = [
        Model(
            name=name, folder=str(folder), sha256=_sha256(lm_folder(folder)), load=functools.partial(load_model, folder)
        )
        for name, folder in runs
    ]
    prompts, systems = speak_all(session, models, (protocol.temperature,))
    lm = functools.cache(lambda: TextLM.load(str(text_lm)))
    systems, corpora = read_all(session, prompts, systems, lm=lm, lm_identity=_sha256(text_lm), embedder=None)
    values = results(session, systems, corpora, facts={})
    told = [
        {"name": s["name"], "kind": s["kind"], **{name: s["measures"][name] for name in SHOWN if name in s["measures"]}}
        for s in values["systems"]
    ]
    gaps = values["differences"]["measures"]
    return {
        "systems": told,
        "differences": {name: gaps[name] for name in SHOWN if name in gaps},
        "protocol": protocol.facts(),
        "n": len(suite.prompts),
    }


def _sha256(folder: Path) -> str:
    return hashlib.sha256(json.dumps(text_lm_files(folder), sort_keys=True).encode()).hexdigest()
