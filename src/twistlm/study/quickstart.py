"""The paper's whole loop in one function: speech in, a warm and a cold speech LM trained and judged, speech out.

Read `quickstart` first: each line is one stage, and `stages` makes each happen once, however often the job is killed.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from twistlm.audio.clip import MIN_SECONDS
from twistlm.compute import choices
from twistlm.compute.devices import device
from twistlm.compute.threads import cores
from twistlm.config import QuickstartConfig, fingerprint, to_dict
from twistlm.corpus import manifest
from twistlm.corpus.manifest import Entry
from twistlm.corpus.opened import open_corpus
from twistlm.corpus.sounds import check_header
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import AudioError, BadInput, offenders
from twistlm.evaluate import asr
from twistlm.evaluate.perplexity import Perplexity, among, compare
from twistlm.evaluate.resynthesis import resynthesis_errors
from twistlm.evaluate.stats import updates_to_reach
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.files import artifacts
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json, without_nan
from twistlm.files.urls import UrlPath
from twistlm.lm.folders import load_model
from twistlm.lm.likeness import cold_rows
from twistlm.lm.model import UnitLM
from twistlm.lm.phases import text_lm_files
from twistlm.lm.text_lms import text_lm_folder
from twistlm.pages.report import write_report
from twistlm.progress import track
from twistlm.study import saying
from twistlm.study.commands import commands
from twistlm.study.judging import division, pair_values, perplexity, perplexity_values
from twistlm.study.keys import digest
from twistlm.study.prompts import PROTOCOL as CONTINUED
from twistlm.study.prompts import choose_prompts, choose_resynthesis, continuations
from twistlm.study.run import VAL_UNITS, Init, train_units
from twistlm.study.stages import Stages
from twistlm.train.record import hardware, versions
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder

Values = dict[str, Any]
SIDES: tuple[Init, Init] = ("warm", "cold")

MAX_FAILURES = 0.05  # share of the sound files that may be unusable
ASR = "whisper-tiny.en"


def quickstart(config: QuickstartConfig, *, progress: bool = False) -> Values:
    """Run the loop, or what is left of it, in `config.out`; return what results.json holds.

    Interrupted at any moment and run again, it gives the numbers of an uninterrupted run (times and memory aside). The
    folder gets `report.html`, `results.json`, `timings.json`, `units/`, `warm/` and `cold/` (the trained models in
    their `lm/`) and `samples/`. For the keys of the results see `twistlm.pages.report.write_report`.

    Raises:
        BadInput: the speech, the configuration or the folder is unusable.
        ArtifactError: a model could not be had.
        TrainingError: training failed, or was interrupted (its state is saved).
    """
    stages = Stages(config.out)
    # What was the faster way when the job began stays so: a rerun, or the next process, rounds as it did.
    with stages.locked(), choices.kept(stages.out / choices.FILE), _all_cores():
        entries = _read_speech(config.speech, progress=progress)
        tok = SpeechTokenizer.load(config.tokenizer).on(device())
        voc = Vocoder.load(config.vocoder).on(device())
        voc.spec.require(tok.spec, mine=f"the vocoder {config.vocoder}", theirs=f"the tokenizer {config.tokenizer}")
        job = _Job(config, stages, tok, voc, progress)

        text_lm = job.fetch(entries)
        speech = job.tokenize(entries)
        runs: Values = {side: job.train(side, text_lm) for side in SIDES}
        judged = job.judge(runs)
        resynthesis = job.resynthesise(entries)
        samples = job.speak(entries, runs)
        said = job.say(entries, runs, text_lm)

        results = job.collect(speech, runs, judged, resynthesis, samples) | {"generation": said}
        with atomic_write(stages.out / "results.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        write_report(results, stages.out / "report.html")
        return results


@dataclass(frozen=True, eq=False)
class _Job:
    """The stages, and what they share."""

    config: QuickstartConfig
    stages: Stages
    tok: SpeechTokenizer
    voc: Vocoder
    progress: bool

    @property
    def out(self) -> Path:
        return self.stages.out

    @property
    def units(self) -> Path:
        return self.out / "units"

    def fetch(self, entries: Sequence[Entry]) -> Path:
        """Return the text LM's folder. The recogniser is fetched too: what cannot be had must fail now, not later."""
        if self._to_resynthesise(entries):
            artifacts.resolve(ASR)
        return text_lm_folder(self.config.text_lm)

    def tokenize(self, entries: Sequence[Entry]) -> Values:
        """Cut the clips into units; return what the report says about the speech."""

        def work() -> Values:
            report = tokenize(entries, self.units, self.tok, max_failures=MAX_FAILURES, progress=self.progress)
            splits: Values = {}
            made = set(open_corpus(self.units, split=None).splits)  # all clips of one may have been unusable
            for split in sorted(made, key=lambda name: (name != "train", name)):
                corpus = open_corpus(self.units, split=split)
                splits[split] = {
                    "minutes": sum(corpus.seconds) / 60,
                    "voices": len(set(corpus.speakers)),
                    "documents": len(corpus),
                    "units": int(corpus.lengths.sum()),
                }
            bundled = self.config.speech == "bundled"
            source = "The speech sample bundled with twistlm." if bundled else f"Speech from {self.config.speech}."
            if report.failures:
                source += f" {len(report.failures)} of {len(entries)} clips were unusable: see units/failures.jsonl."
            return {"source": source, "splits": splits}

        files = [[e.id, f"{_absolute(e.path)}{e.part}", e.split, e.speaker, e.text, *_state(e.path)] for e in entries]
        key = {"files": _sha256(json.dumps(files).encode()), "unit_spec": self.tok.spec.fingerprint}
        return self.stages.run("tokenize", key, work, folder=self.units)

    def train(self, side: Init, text_lm: Path) -> Values:
        """Train one side; return its curve. Both see the same batches when only rate, warm-up and clip differ."""
        config, folder, seed = getattr(self.config, side), self.out / side, self.config.seed
        start: Values = {name: getattr(self.config, name) for name in ("rows", "head", "head_start")}

        def work() -> Values:
            result = train_units(
                self.units, text_lm, config, folder, init=side, **start, seed=seed, progress=self.progress
            )
            history = [
                {"update": row["update"], "train_loss": row.get("loss"), "val_nll": row.get("val_nll")}
                for row in result.history
            ]
            record = read_json(folder / "config.json", "the record of a run")
            return {
                "history": history,
                "seconds": result.seconds,
                "tokens": result.tokens,
                "start": record["start"],
                "precision": record["precision"],
            }

        key = {
            "train": to_dict(config),
            **start,
            "rows": start["rows"] if side == "warm" else cold_rows(start["rows"]),
            "text_lm": text_lm_files(text_lm),
            "seed": seed,
            "corpus": self._corpus(),
        }
        value = self.stages.run(side, key, work, folder=folder, others=("more-*", "eval"))
        gc.collect()  # models sit in reference cycles, and two at once would double the peak memory
        return value

    def judge(self, runs: Values) -> Values:
        """Held-out perplexity and mini sWUGGY of both sides."""
        suite, seed, context = open_suite("mini-swuggy"), self.config.seed, self.config.warm.context

        def work() -> Values:
            held = open_corpus(self.units, split="heldout")
            spoken = suite.tokenize(self.tok, progress=self.progress)
            whole: dict[str, Perplexity] = {}
            values: Values = {}
            for side, lm in self._models("judging"):
                whole[side] = perplexity(lm, held, context=context, seed=seed)
                by_split = {
                    split: perplexity_values(
                        among(
                            whole[side],
                            {i for i, s in zip(held.ids, held.splits, strict=True) if s == split},
                            seed=seed,
                        )
                    )
                    for split in sorted(set(held.splits))
                }
                values[side] = {
                    "perplexity": perplexity_values(whole[side]) | {"by_split": by_split},
                    "mini_swuggy": pair_values(lm, suite, spoken, seed=seed),
                }
            difference = compare(whole["warm"], whole["cold"], seed=seed)
            return values | {"difference": difference._asdict(), "protocol": whole["warm"].protocol}

        key = {"runs": runs, "suite": suite.version, "seed": seed, "context": context, "corpus": self._corpus()}
        return self.stages.run("judge", key, work)

    def resynthesise(self, entries: Sequence[Entry]) -> Values:
        """Speak held-out clips again from their units; count a recogniser's errors before and after."""
        usable = set(open_corpus(self.units, split="heldout").ids)
        chosen = self._to_resynthesise([e for e in entries if e.id in usable])

        def work() -> Values:
            listener = self._listener(entries) if chosen else None
            return resynthesis_errors(
                chosen, self.tok, self.voc, listener, seed=self.config.seed, progress=self.progress
            )

        key = {"clips": [(e.id, e.text) for e in chosen], "seed": self.config.seed, **self._speaking()}
        return self.stages.run("resynthesise", key, work)

    def speak(self, entries: Sequence[Entry], runs: Values) -> list[Values]:
        """Let both models continue held-out prompts, and speak everything with the vocoder."""
        usable = set(open_corpus(self.units, split="heldout").ids)
        prompts = choose_prompts([e for e in entries if e.id in usable], seed=self.config.seed)

        def work() -> Values:
            samples = continuations(
                prompts,
                self.out / "samples",
                self.tok,
                self.voc,
                self._models("continuing the prompts"),
                self._listener(entries),
                seed=self.config.seed,
            )
            return {"samples": samples}

        said = [(e.id, e.text) for e in prompts]
        key = {"runs": runs, "clips": said, "seed": self.config.seed, **self._speaking()}
        return self.stages.run("speak", key, work, folder=self.out / "samples")["samples"]

    def say(self, entries: Sequence[Entry], runs: Values, text_lm: Path) -> Values | None:
        """Measure what both models say; None where nobody can hear or read it: no held-out clip has a transcript or is
        long enough, or the text LM has no tokenizer."""
        usable = set(open_corpus(self.units, split="heldout").ids)
        suite = saying.choose([e for e in entries if e.id in usable])
        if suite is None or not self._to_resynthesise(entries) or not (text_lm / "tokenizer.json").is_file():
            return None
        protocol, folder = saying.protocol_of(self.config.text_lm, suite), self.out / "generation"

        def work() -> Values:
            listener = asr.Whisper.load(ASR, workers=cores())
            parts = (self.tok, self.voc, [(side, self._model(side)) for side in SIDES], listener, text_lm, protocol)
            return saying.say(suite, folder, *parts, seed=self.config.seed, progress=self.progress)

        key = {
            "runs": runs,
            "prompts": suite.version,
            "protocol": protocol.facts(),
            "text_lm": text_lm_files(text_lm),
            "seed": self.config.seed,
            **self._speaking(),
        }
        return without_nan(self.stages.run("say", key, work, folder=folder))

    def collect(
        self, speech: Values, runs: Values, judged: Values, resynthesis: Values, samples: list[Values]
    ) -> Values:
        """Return the content of results.json."""
        sides: Values = {
            side: {
                **judged[side]["perplexity"],
                "lr": getattr(self.config, side).lr,
                "updates": getattr(self.config, side).updates,
                **runs[side],
            }
            for side in SIDES
        }
        reached = updates_to_reach(runs["warm"]["history"], runs["cold"]["history"][-1]["val_nll"])
        results = {
            **sides,
            "val_nll_difference": judged["difference"],
            "updates_to_cold_loss": None if reached is None else reached / self.config.cold.updates,
            "mini_swuggy": {side: judged[side]["mini_swuggy"] for side in SIDES},
            "resynthesis": resynthesis,
            "samples": samples,
            "unit_spec": self.tok.spec.to_dict(),
            "speech": speech,
            "seconds": {**self.stages.seconds, "total": sum(self.stages.seconds.values())},
            "peak_rss_gb": self.stages.peak_rss_gb,
            "config": to_dict(self.config),
            "config_fingerprint": fingerprint(self.config),
            "versions": versions(),
            "hardware": hardware(device()),
            "protocol": {
                "warm start": f"{self.config.text_lm}'s weights; new rows for the units: {self.config.rows}",
                "given to both": _given(self.config),
                "held-out loss": judged["protocol"],
                "updates to cold's final loss": (
                    f"both models scored on the same seeded held-out documents, about {VAL_UNITS} units, every "
                    f"{self.config.warm.eval_every} updates; straight lines between; as a fraction of cold's updates"
                ),
                "mini sWUGGY": judged["warm"]["mini_swuggy"]["protocol"],
                "resynthesis": resynthesis["protocol"],
                "continuations": CONTINUED,
            },
            "commands": commands(self.config),
        }
        return without_nan(results)

    def _models(self, description: str) -> Iterator[tuple[Init, UnitLM]]:
        """Yield each trained model, read from disk."""
        for side in track(SIDES, description=description, enabled=self.progress):
            yield side, load_model(self._model(side))

    def _model(self, side: Init) -> Path:
        """Where the weights of one side lie: its own, not those of what `twist train --more` made of it since."""
        return self.out / side / "lm"

    def _to_resynthesise(self, entries: Sequence[Entry]) -> list[Entry]:
        return choose_resynthesis(entries, n=self.config.n_resynth, seed=self.config.seed)

    def _listener(self, entries: Sequence[Entry]) -> asr.Whisper | None:
        """A recogniser, where there are transcripts to hold it against."""
        return asr.Whisper.load(ASR, workers=cores()) if self._to_resynthesise(entries) else None

    def _corpus(self) -> str:
        corpus = open_corpus(self.units, split=None)
        return digest([corpus.fingerprint, division(corpus)])

    def _speaking(self) -> Values:
        return {"corpus": self._corpus(), "vocoder": self.voc.synthesizer.sha256()}


def _read_speech(speech: str, *, progress: bool) -> list[Entry]:
    """Return the clips. Every header is read, so that unusable speech is found before anything is computed."""
    folder = artifacts.bundled("speech") if speech == "bundled" else Path(speech)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: --speech takes a folder with sound files.")
    entries, failed = [], []
    for entry in track(manifest.build(folder), description="reading the speech", enabled=progress):
        try:
            seconds = check_header(entry)
            entries.append(dataclasses.replace(entry, seconds=seconds))
            if seconds is not None and seconds < MIN_SECONDS:
                failed.append(f"{entry.path}{entry.part}: too short: {seconds:.3f} s, needs {MIN_SECONDS} s.")
        except AudioError as error:
            entries.append(entry)
            failed.append(str(error))
    if len(failed) > MAX_FAILURES * len(entries):
        raise AudioError(
            f"{len(failed)} of {len(entries)} sound files in {folder} cannot be used: "
            f"{offenders(failed, limit=3)} Mend or remove them and run again."
        )
    n_train = sum(e.split == "train" for e in entries)
    if n_train == 0 or n_train == len(entries):
        if (folder / manifest.NAME).is_file():
            raise BadInput(
                f"{folder / manifest.NAME} has {len(entries)} clips, {n_train} of them for training: at least one must "
                'be for training and one held out. Give some lines "split": "heldout", or remove the file, and clips '
                "are held out by chance."
            )
        raise BadInput(
            f"{folder} has {len(entries)} sound files, {n_train} of them for training: at least one must be for "
            "training and one held out. Add files, or cut long ones."
        )
    return entries


def _given(config: QuickstartConfig) -> str:
    """What warm and cold were given, alike and apart, in words."""
    head = "an output layer of its own" if config.head == "own" else "the output layer as the text LM has it"
    apart = "; ".join(
        f"{side}: rate {run.lr:g}, tables {run.table_rate:g} times that, warm-up {run.warmup}, clip {run.clip_norm:g}"
        for side, run in (("warm", config.warm), ("cold", config.cold))
    )
    rows = f"rows of the units: {config.rows}"
    if (cold := cold_rows(config.rows)) != config.rows:
        rows += f" (cold: {cold})"
    return (
        f"{rows}; {head}, beginning with: {config.head_start}; the same documents, order and number of updates. {apart}"
    )


def _absolute(path: Path | UrlPath) -> Path | UrlPath:
    return path.absolute() if isinstance(path, Path) else path


def _state(path: Path | UrlPath) -> tuple[int, int]:
    """Size and time of change, by which a sound file counts as the same; zeros when it is missing."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def _all_cores() -> Iterator[None]:
    """Use every core the process may use inside the block, unless OMP_NUM_THREADS says otherwise."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
