"""How what a model says is measured: each protocol is data, and every field of it is written beside the numbers.

Two protocols never share a table: their numbers differ by how prompts are cut, what is scored, who listens and who
reads, far more than models do. Whoever changes a field gets a protocol of another name (`changed`). What is known of
the published ones is in their papers and code; what could not be recovered or is not done here is said in `departs`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from twistlm.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Every choice that moves a number of generation.

    Attributes:
        name, source: what it is called, and where it comes from.
        prompts: suite it is meant for (`prompts.open_prompts`); another one is a change as any other.
        prompt_seconds: how much of a recording is the prompt; 0 for speech out of nothing, for which the recordings are
            only the oracle.
        longer_than: only recordings longer than so many seconds are taken.
        most_prompts: how many at most, the first ones.
        samples: continuations of each prompt.
        temperature, top_k: of sampling; None samples among all units.
        seconds: length of a continuation, as units of the prompt's mean length; None: `max_units` alone.
        max_units: how many units a continuation may have; None: `seconds` alone.
        stop_at_end: whether a model may end by itself.
        scored: what is transcribed and scored: the sound of prompt and continuation together, or of what follows alone.
        cut_to_truth: whether what is scored is cut to the length of the true recording.
        truth_seconds: how much of the recording after the prompt is the truth; None: all.
        durations: who says how long a unit lasts when it is spoken.
        silence: "vad": where a voice-activity model finds no speech nothing is transcribed, and silence around speech
            is cut first, since recognisers make words up there; "none": everything is transcribed.
        asr: recogniser: name of an artifact, folder, or model of the hub.
        language: told to the recogniser; None lets it guess.
        lm: text LM: name, folder, or model of the hub.
        begin: whether a text begins with the LM's beginning-of-text token; else its first token is not scored.
        end: whether the LM's end-of-text token is scored too.
        case: texts are read as the recogniser writes them, or in lower case.
        words: texts are cut to exactly so many words, and shorter ones left out; None: as they are.
        headline: which perplexity its source quotes: "gen_ppl" (exp of the mean loss) or "mean_ppl" (mean of exp,
            GSLM's PPX). Told, not computed with: both are always given.
        tokens: what an n-gram is made of: "whitespace", "nltk" (NLTK's word tokenizer), "words" (lower case, without
            punctuation).
        auto_bleu: which of the two measures of that name its source means. Told, not computed with: both are always
            given, and VERT is of GSLM's.
        departs: where this is not what the source did.
    """

    name: str
    source: str
    prompts: str
    prompt_seconds: float
    longer_than: float
    most_prompts: int | None
    samples: int
    temperature: float
    top_k: int | None
    seconds: float | None
    max_units: int | None
    stop_at_end: bool
    scored: Literal["prompt and continuation", "continuation"]
    cut_to_truth: bool
    truth_seconds: float | None
    durations: Literal["predicted"]
    silence: Literal["vad", "none"]
    asr: str
    language: str | None
    lm: str
    begin: bool
    end: bool
    case: Literal["as heard", "lower"]
    words: int | None
    headline: Literal["gen_ppl", "mean_ppl"]
    tokens: Literal["whitespace", "nltk", "words"]
    auto_bleu: Literal["gslm", "slamkit"]
    departs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seconds is None and self.max_units is None:
            raise BadInput(
                f"the protocol {self.name} says nothing of how long a continuation is: seconds or max_units."
            )
        if self.samples < 1 or (self.most_prompts is not None and self.most_prompts < 1):
            raise BadInput(f"the protocol {self.name} needs at least one prompt, and one sample of each.")

    def changed(self, **changes: Any) -> Self:
        """Return the protocol with other values; its name says which, so that its numbers never pass for the source's.

        None leaves a value as it is.

        Raises:
            BadInput: a field that there is none of.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if odd := sorted(set(changes) - known):
            raise BadInput(f"a protocol has no {', '.join(odd)}; it has {', '.join(sorted(known))}.")
        new = {name: value for name, value in changes.items() if value not in (None, getattr(self, name))}
        if not new:
            return self
        told = ", ".join(f"{name} {value}" for name, value in sorted(new.items()))
        return dataclasses.replace(self, **new, name=f"{self.name} but {told}")

    def facts(self) -> dict[str, Any]:
        """Return every field as plain values."""
        return dataclasses.asdict(self) | {"departs": list(self.departs)}

    @property
    def fingerprint(self) -> str:
        """16 hex digits over every field."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:16]


OURS = Protocol(
    name="ours",
    source="twistlm: works without a hub, judges what the model added alone, and finds silence before it is heard",
    prompts="mini-prompts",
    prompt_seconds=3.0,
    longer_than=6.0,
    most_prompts=200,
    samples=1,
    temperature=0.8,
    top_k=None,
    seconds=7.0,
    max_units=None,
    stop_at_end=False,
    scored="continuation",
    cut_to_truth=False,
    truth_seconds=7.0,
    durations="predicted",
    silence="vad",
    asr="whisper-tiny.en",
    language="en",
    lm="smollm2-135m",
    begin=True,
    end=False,
    case="as heard",
    words=None,
    headline="gen_ppl",
    tokens="words",
    auto_bleu="gslm",
)
SLAM = Protocol(
    name="slam",
    source="Slam (arXiv 2502.15814) as in SlamKit's code and its configuration asr_perplexity",
    prompts="storycloze-1000",
    prompt_seconds=3.0,
    longer_than=3.0,
    most_prompts=1000,
    samples=1,
    temperature=0.8,
    top_k=25,
    seconds=None,
    max_units=150,
    stop_at_end=True,
    scored="prompt and continuation",
    cut_to_truth=False,
    truth_seconds=None,
    durations="predicted",
    silence="none",
    asr="openai/whisper-large-v3-turbo",
    language=None,
    lm="meta-llama/Llama-3.2-1B",
    begin=True,
    end=False,
    case="as heard",
    words=None,
    headline="gen_ppl",
    tokens="nltk",
    auto_bleu="slamkit",
    departs=(
        "the first 1,000 stories by number, where SlamKit takes them as the file system lists them",
        "no repetition penalty: the paper's table has 1.1, its configuration none",
        "that the LM's text begins with its beginning-of-text token is from memory",
        "white space at a text's ends is cut off",
    ),
)
GSLM = Protocol(
    name="gslm",
    source="GSLM (Lakhotia et al., 2021) as in fairseq's examples/textless_nlp/gslm/metrics",
    prompts="librispeech-test-clean",
    prompt_seconds=3.0,
    longer_than=6.0,
    most_prompts=1000,
    samples=10,
    temperature=0.7,
    top_k=None,
    seconds=None,
    max_units=500,
    stop_at_end=True,
    scored="prompt and continuation",
    cut_to_truth=True,
    truth_seconds=None,
    durations="predicted",
    silence="none",
    asr="facebook/wav2vec2-large-960h",
    language=None,
    lm="transformer_lm.wmt19.en",
    begin=True,
    end=True,
    case="lower",
    words=None,
    headline="mean_ppl",
    tokens="whitespace",
    auto_bleu="gslm",
    departs=(
        "the recogniser is read greedily, where GSLM decodes with a KenLM 4-gram and a lexicon",
        "fairseq's WMT19 LM is not read here: give another with --text-lm",
        "the first 1,000 prompts by id, where GSLM takes the 1,000 shortest",
        "that the end token counts is from memory",
        "BLEUs are of texts in lower case, as the LM reads them",
    ),
)
TGSLM = Protocol(
    name="tgslm",
    source="tGSLM (Algayres et al., 2023): unconditional, 100 texts of exactly 30 words",
    prompts="librispeech-test-clean",
    prompt_seconds=0.0,
    longer_than=0.0,
    most_prompts=100,
    samples=1,
    temperature=0.7,
    top_k=None,
    seconds=None,
    max_units=500,
    stop_at_end=True,
    scored="continuation",
    cut_to_truth=False,
    truth_seconds=None,
    durations="predicted",
    silence="none",
    asr="facebook/wav2vec2-large-960h",
    language=None,
    lm="transformer_lm.wmt19.en",
    begin=True,
    end=True,
    case="lower",
    words=30,
    headline="mean_ppl",
    tokens="whitespace",
    auto_bleu="gslm",
    departs=(
        "recogniser, LM and case of what BLEUs are of as in gslm",
        "continuations with fewer than 30 words are counted and left out, so fewer than 100 may be scored",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in (OURS, SLAM, GSLM, TGSLM)}
