"""Make the bundled language model of units: what a trained warm model differs by from its text LM, to a low rank.

    python assets/make/mini_lm.py RUN UNITS --out assets/lm/mini-lm --rank 20

RUN is a finished run of `twist train` (the bundled one: of runs/long.sh), UNITS the folder of units it trained on. Both
models, whole and low-rank, are judged on all that is held out there and on `--suites`; the card has both.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twistlm.corpus.opened import open_corpus
from twistlm.errors import TwistError
from twistlm.evaluate.perplexity import compare
from twistlm.files.jsonl import read_json
from twistlm.jobs.judging import hear
from twistlm.lm.folders import load_model
from twistlm.lm.lowrank import NAME, lowrank
from twistlm.study.judging import pair_values, perplexity

CARD = """# mini-lm: a small language model of speech units

Continues speech: `twist generate mini-lm prompt.wav --out longer.wav`. A warm start (TWIST) of SmolLM2-135M-Instruct,
{parameters} parameters, for the 500 units of `mini-25hz-500` at 25 Hz, deduplicated. Kept as its difference from that
text LM, which is fetched once by name and checked: every matrix of the body to rank {rank}, vectors, embedding and
output layer whole, in float16 ({megabytes:.1f} MB).

- **Training**: {tokens:,} tokens ({updates} updates of {batch} x {context}), seed {seed}; {hours:.1f} hours of
  synthetic speech of {voices} voices reading public-domain prose, each text by two. Recipe: `runs/long.sh`, rows
  of units drawn by "{start}", then `assets/make/mini_lm.py`.
- **Licence**: MIT; the text LM is Apache-2.0.

| measured | whole model | this | difference |
|---|---|---|---|
{rows}

Held out: {clips} clips of other texts, trained voices; {units:,} units. Intervals of 95 %: bootstrap over clips and
over items. Suites are scored by the mean log-likelihood a unit; their voice `flite-rms` is one that nothing heard.

What it is not: it has heard hours where the models of the literature hear tens of thousands. What it says means
nothing, and how well it tells words from pseudo-words stands above. It knows one kind of speech, synthetic and read.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("units", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path(".assets-work/suites"), help="units of the suites")
    parser.add_argument("--suites", nargs="*", default=["mini-swuggy"])
    options = parser.parse_args()
    try:
        if options.out.exists():
            shutil.rmtree(options.out)
        lowrank(options.run, "smollm2-135m", options.out, rank=options.rank)
        text = card(
            options.run, options.units, options.out, rank=options.rank, cache=options.cache, suites=options.suites
        )
        (options.out / "CARD.md").write_text(text, encoding="utf-8")
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


def card(run: Path, units: Path, out: Path, *, rank: int, cache: Path, suites: Sequence[str]) -> str:
    """Judge both models and return the card."""
    record: Mapping[str, Any] = read_json(run / "config.json", "the record of a run", shape={"config": dict})
    train, held, corpus = record["config"], open_corpus(units, split="heldout"), open_corpus(units, split="train")
    spoken = hear(suites, units, cache, progress=True)
    whole, small = load_model(run), load_model(out)
    parameters = sum(p.numel() for p in whole.model.parameters())
    models = {"whole": whole, "this": small}
    of = {name: perplexity(lm, held, context=train["context"], seed=0) for name, lm in models.items()}
    gap = compare(of["this"], of["whole"], seed=0)
    told = [*((p.nll, p.ci) for p in of.values()), (gap.mean, gap.ci)]
    rows = ["| held-out loss, nats a unit | " + " | ".join(interval(*one) for one in told) + " |"]
    for one in spoken:
        a, b = (pair_values(lm, one.suite, one.units, seed=0) for lm in (whole, small))
        cells = [f"{100 * v['accuracy']:.1f} % [{100 * v['ci'][0]:.1f}, {100 * v['ci'][1]:.1f}]" for v in (a, b)]
        cells.append(f"{100 * (b['accuracy'] - a['accuracy']):+.1f} points")
        rows.append(f"| {one.suite.name} | {' | '.join(cells)} |")
    return CARD.format(
        parameters=f"{parameters / 1e6:.0f} M",
        rank=rank,
        megabytes=(out / NAME).stat().st_size / 1e6,
        tokens=whole.provenance["trained"]["tokens"],
        updates=train["updates"],
        batch=train["batch_rows"],
        context=train["context"],
        seed=train["seed"],
        hours=sum(corpus.seconds) / 3600,
        voices=len(set(corpus.speakers)),
        rows="\n".join(rows),
        start=whole.provenance["rows"],
        clips=len(held),
        units=of["this"].n_units,
    )


def interval(value: float, ci: tuple[float, float]) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
