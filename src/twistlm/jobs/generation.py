"""What `twist eval --generation` does: find the parts, let models speak, measure what they say, write it down."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.compute import choices
from twistlm.compute.devices import device
from twistlm.compute.threads import cores
from twistlm.errors import BadInput
from twistlm.evaluate.generation.embedding import WORDLLAMA, open_embedder
from twistlm.evaluate.generation.hearing import open_listener
from twistlm.evaluate.generation.journal import Journal
from twistlm.evaluate.generation.judge import Price, open_judge
from twistlm.evaluate.generation.likelihood import accuracies, pair_scores
from twistlm.evaluate.generation.measuring import Model, judged, read_all, require_judged_apart, results, speak_all
from twistlm.evaluate.generation.prompts import open_prompts, select
from twistlm.evaluate.generation.protocols import PROTOCOLS, Protocol
from twistlm.evaluate.generation.quality import DistillMos, DnsMos
from twistlm.evaluate.generation.reading import TextLM
from twistlm.evaluate.generation.speakers import RESEMBLYZER, open_voices
from twistlm.evaluate.generation.speaking import PARTS, Ears, JudgeOfSound, Session, digests_of
from twistlm.evaluate.generation.store import replaced, slug, write_results, write_rows
from twistlm.evaluate.generation.table import MEASURES
from twistlm.evaluate.generation.texts import tokens_of
from twistlm.evaluate.generation.utmos import Utmos
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.unit_cache import SpokenSuite, tokenize_suite
from twistlm.files.artifacts import cache_folder
from twistlm.files.jsonl import without_nan
from twistlm.files.locks import held
from twistlm.jobs.evaluating import digest
from twistlm.jobs.parts import parts_of_model
from twistlm.jobs.speaking import require_durations
from twistlm.lm.folders import lm_folder, load_model, model_spec, run_folder
from twistlm.lm.text_lms import text_lm_folder
from twistlm.pages.generation import curves, write_page
from twistlm.pages.numbers import finite, interval, percent, percent_interval, plain, with_interval
from twistlm.types import UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice

FOLDER = "generation"
QUALITY = ("distillmos",)  # judges of sound by default; of seven seconds it takes 0.3 s of a core, DNSMOS P.835 2 s
_JUDGES = {"distillmos", "dnsmos-p808", "dnsmos", "utmos"}
Values = dict[str, Any]


def protocol_of(name: str, **changes: Any) -> Protocol:
    """Return a protocol by name, with what the caller changes in it.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise BadInput(f"there is no protocol {name!r}. There are: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name].changed(**changes)


def measure_generation(
    model: str | Path,
    *,
    against: str | Path | None,
    protocol: Protocol,
    suites: Sequence[str] = (),
    temperatures: Sequence[float] = (),
    quality: Sequence[str] = QUALITY,
    embedder: str = WORDLLAMA,
    voices: str = RESEMBLYZER,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_price: Price | None = None,
    out: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vocoder: str | Path | None = None,
    voice: Voice | None = None,
    search: Sequence[str | Path] = (),
    seed: int = 0,
    progress: bool = False,
) -> Values:
    """Let one model speak, or two for comparison; write and return the numbers.

    Args:
        model: folder of a model or of its run.
        against: a second model, of the same units; differences are the first less the second.
        protocol: how.
        suites: of pairs, on which the models' local and normalised likelihoods are measured too.
        temperatures: sample at each of them, once, for curves; none: the protocol's.
        quality: judges of sound: "distillmos", "dnsmos-p808", "dnsmos" (P.808 and P.835), "utmos".
        embedder, voices: as of `open_embedder` and `open_voices`.
        judge, judge_model: as of `open_judge`: scores every continuation, and two models' against each other.
        judge_price: of a million tokens that the judge reads and of a million that it writes; what it cost is told.
        out: folder; None: `eval/` in the folder of the run. What is written lies in its `generation/`.
        tokenizer, vocoder, search: as of `parts_of_model`.
        voice: who speaks, of a vocoder with several voices; None: who goes without saying.
        seed: of sampling, of shuffling and of the bootstrap.
        progress: show bars.

    Returns:
        What NAME.json holds (`measuring.results`); `results`, the path of it; `page`; and `notes`: what stood there and
        was of something else.

    Raises:
        BadInput: an unknown judge, a voice that the vocoder has not, prompts the model has no room for, or as of
            `open_prompts`.
        AudioError: prompts that cannot be used. ArtifactError: a recogniser or an LM that cannot be had.
        TwistError: another process measures here. Otherwise as `parts_of_model`.
    """
    parts = parts_of_model(model, tokenizer=tokenizer, vocoder=vocoder, speaks=True, search=search)
    assert parts.tokenizer is not None and parts.vocoder is not None
    folders = [Path(model)] if against is None else [Path(model), Path(against)]
    for folder in folders[1:]:
        model_spec(folder).require(parts.spec, mine=f"the model {folder}", theirs=f"the model {model}")
    if odd := sorted(set(quality) - _JUDGES):
        raise BadInput(f"there is no judge of sound {', '.join(odd)}. There are: {', '.join(sorted(_JUDGES))}.")
    quality = sorted(set(quality))
    # Before any work: without these there are no numbers at its end.
    tokens_of("", protocol.tokens)
    if judge is not None:
        require_judged_apart(protocol)
    places = open_embedder(embedder)
    suite = select(open_prompts(protocol.prompts), longer_than=protocol.longer_than, most=protocol.most_prompts)
    if protocol.prompt_seconds and len(suite.prompts) < 2:
        raise BadInput(f"{suite.name} has one prompt long enough, and shuffled continuations, the floor, need two.")
    lm_name = text_lm_folder(protocol.lm)
    listener, heard_by = open_listener(protocol.asr, language=protocol.language, workers=cores())
    asked = None if judge is None else open_judge(judge, model=judge_model)
    judges = _judges(quality)
    tok = SpeechTokenizer.load(parts.tokenizer.folder).on(device())
    voc = Vocoder.load(parts.vocoder.folder).on(device())
    voice = voice or Voice()
    voc = voc.speaking_as(speaker=voice.speaker, style=voice.style, language=voice.language)
    _require_speaks(voc, parts.vocoder.name)
    encoder, voices_are = open_voices(voices)
    units = cache_folder() / "eval-units"
    spoken = [tokenize_suite(open_suite(name), tok, cache=units, progress=progress) for name in suites]
    ears = Ears(
        tok=tok,
        voc=voc,
        listener=listener,
        judges=judges,
        voices=encoder,
        facts={
            "units": tok.spec.fingerprint,
            "vocoder": _vocoder(digest(parts.vocoder.folder)[:16], voice),
            "asr": heard_by,
            "quality": ", ".join(quality),
            "voices": voices_are,
        },
    )
    home = (run_folder(model) / "eval" if out is None else Path(out)) / FOLDER
    names = _names(folders)
    models = [
        Model(
            name=name, folder=str(folder), sha256=digest(lm_folder(folder)), load=functools.partial(load_model, folder)
        )
        for name, folder in zip(names, folders, strict=True)
    ]
    lm = functools.cache(lambda: TextLM.load(str(lm_name)))
    with held(home, "measuring what models say"), choices.kept(home / choices.FILE):
        session = Session(
            protocol=protocol,
            suite=suite,
            digests=digests_of(suite, protocol, sample_rate=tok.spec.sample_rate),
            ears=ears,
            out=home,
            seed=seed,
            progress=progress,
        )
        sampled_at = list(dict.fromkeys(temperatures)) or [protocol.temperature]
        prompts, systems = speak_all(session, models, sampled_at)
        identity = f"{protocol.lm} {digest(lm_name)[:16]}"
        systems, corpora = read_all(session, prompts, systems, lm=lm, lm_identity=identity, embedder=places)
        facts = parts.facts | {
            "read_by": identity,
            "embedder": embedder,
            "quality": quality,
            "temperatures": sampled_at,
        }
        if asked is not None:
            systems, facts["judge"] = judged(session, prompts, systems, asked, price=judge_price)
        if spoken:
            facts["likelihoods"] = _likelihoods(models, spoken, tok.spec, home / PARTS / "likelihoods.jsonl", seed=seed)
        values = results(session, systems, corpora, facts=facts)
        name = slug(protocol)
        if sampled_at != [protocol.temperature]:  # a curve, beside the results at the protocol's own
            name += "-at-" + "-".join(f"{temperature:g}" for temperature in sampled_at)
        path = home / f"{name}.json"
        notes = replaced(path, values)
        write_rows(systems, home / f"{name}.parquet", facts={"protocol": protocol.facts(), "temperatures": sampled_at})
        write_results(values, path)
        told = [(m.name, m.title, m.about) for m in MEASURES]
        page = write_page(without_nan(values), systems, home / f"{name}.html", measures=told)
    return values | {"results": str(path), "page": str(page), "notes": notes}


def _vocoder(sha256: str, voice: Voice) -> str:
    """Return what a vocoder is called among what was heard with; the voice that goes without saying is not named."""
    named = voice.to_dict().get("voice", {})
    return ", ".join([sha256, *(f"{kind} {name}" for kind, name in named.items())])


def _require_speaks(voc: Vocoder, name: str) -> None:
    """Raise `BadInput` where a vocoder cannot speak what models say as it is: before an hour of listening."""
    require_durations(voc, name)
    try:
        voc.require_voice()
    except BadInput as error:
        raise BadInput(
            f"the vocoder {name} has several voices and none by default, and none is named: {error}"
        ) from error


def table(values: Values, *, width: int | None = None) -> str:
    """Return the numbers as text: a line for each measure, a column for each system.

    Systems that do not fit beside each other into `width` characters stand below each other; None: as wide as it gets.
    """
    systems = [system for system in values["systems"] if system["measures"]]
    names = [system["name"] for system in systems]
    lines = [f"{values['protocol']['name']}: {values['prompts']['n']} prompts of {values['prompts']['name']}"]
    rows = [["", *names]]
    gaps = values["differences"].get("measures", {})
    if gaps:
        rows[0].append(" less ".join(values["differences"]["between"]))
    for measure in MEASURES:
        cells = [_cell(system["measures"].get(measure.name)) for system in systems]
        if not any(cells):
            continue
        gap = gaps.get(measure.name)
        more = [] if not gaps else [_gap(gap)]
        rows.append([measure.title, *cells, *more])
    lines += _columns(rows, width)
    for suite, by_model in values.get("likelihoods", {}).items():
        for name, found in by_model.items():
            scores = ", ".join(f"{score} {_percent(of)}" for score, of in found.items())
            lines.append(f"{suite}, {name}: {scores}")
    for curve in curves(values):
        lines.append("; ".join(f"{name}: {what}" for name, what in curve))
    told = values.get("judge")
    if told is not None:
        bill = told["bill"]
        cost = f"; cost {bill['cost']:.4g}" if "cost" in bill else ""
        lines.append(
            f"judge {bill['judge']}: {bill['replies']} replies, {told['unread']} could not be read; "
            f"{bill['tokens_in']:,} tokens in, {bill['tokens_out']:,} out{cost}"
        )
    return "\n".join([*lines, *values.get("notes", ()), f"results: {values['results']}, page: {values['page']}"])


def _columns(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table, the first column again beside each group of others that fits into `width`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    groups: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if width and len(groups[-1]) > 1 and sum(widths[j] + 2 for j in groups[-1]) + widths[i] > width:
            groups.append([0])
        groups[-1].append(i)
    blocks = (["  ".join(row[i].ljust(widths[i]) for i in group).rstrip() for row in rows] for group in groups)
    return "\n\n".join("\n".join(block) for block in blocks).split("\n")


def _cell(found: Values | None) -> str:
    if found is None or found["value"] is None or math.isnan(found["value"]):
        return "" if found is None else "–"
    return with_interval(f"{plain(found['value']):.4g}", interval(found["ci"], ".4g"))


def _gap(found: Values | None) -> str:
    if found is None or found["mean"] is None or math.isnan(found["mean"]):
        return ""
    mean = with_interval(f"{plain(found['mean']):+.4g}", interval(found["ci"], "+.4g"))
    return f"{mean} p {found['p']:.2g}" if finite(found["p"]) else mean  # of one prompt there is none


def _percent(found: Values) -> str:
    return with_interval(percent(found["accuracy"]), percent_interval(found["ci"]))


def _likelihoods(
    models: Sequence[Model], spoken: Sequence[SpokenSuite], spec: UnitSpec, path: Path, *, seed: int
) -> Values:
    """Return suite -> model -> score -> accuracy; a model is loaded only where the journal lacks something of it."""
    told: Values = {}
    journal = Journal(path)
    for model in models:
        keys = {one: f"{model.sha256} {one.suite.name} {one.checksum} {spec.fingerprint} {seed}" for one in spoken}
        if any(key not in journal.rows for key in keys.values()):
            lm = model.load()
            for one, key in keys.items():
                if key not in journal.rows:
                    scores = pair_scores(lm, one.units, one.suite.pairs)
                    journal.add(key, without_nan(accuracies(scores, one.suite.pairs, one.suite.clusters, seed=seed)))
            del lm
            gc.collect()  # models sit in reference cycles, and two at once would double the peak memory
        for one, key in keys.items():
            told.setdefault(one.suite.name, {})[model.name] = journal.rows[key]
    return told


def _judges(quality: Sequence[str]) -> tuple[JudgeOfSound, ...]:
    judges: list[JudgeOfSound] = []
    if "distillmos" in quality:
        judges.append(DistillMos.load().judge)
    if {"dnsmos", "dnsmos-p808"} & set(quality):
        judges.append(DnsMos.load(p835="dnsmos" in quality))
    if "utmos" in quality:
        judges.append(Utmos.load())
    return tuple(judges)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return what models are called: the names of their runs, with folders above them where these are alike."""
    homes = [run_folder(folder).absolute() for folder in folders]
    for depth in range(1, max(len(home.parts) for home in homes) + 1):
        names = ["/".join(home.parts[-depth:]) for home in homes]
        if len(set(names)) == len(names):
            return names
    raise BadInput(f"{folders[0]} is named twice: a model is compared with another one.")
