"""Scores of pairs equal scoring each clip alone in float32 by plain transformers: every family, every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from suite_standins import make_multispeaker, make_prosaudit, make_salmon, make_sblimp, make_storycloze, make_swuggy
from test_lm_families import FAMILIES, families, family, plain  # noqa: F401
from test_lm_model import make_spec
from twistlm.evaluate.averages import ScoredPairs
from twistlm.evaluate.pairs import score_sides
from twistlm.evaluate.suites.salmon import salmon
from twistlm.evaluate.suites.storycloze import storycloze
from twistlm.evaluate.suites.suite import Suite
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy
from twistlm.lm.model import UnitLM
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import warm_start
from twistlm.types import Units

NATS = 1e-4  # a token
FACTS = {"suite": "x", "version": "1", "checksum": "x", "unit_spec": "x"}


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[Suite]:
    root = tmp_path_factory.mktemp("suites")
    make_swuggy(root)
    make_sblimp(root)
    make_prosaudit(root)
    make_salmon(root / "salmon")
    make_multispeaker(root / "tables")
    make_storycloze(root / "files")
    return [
        swuggy(root, "dev"),
        sblimp(root, "dev"),
        prosaudit(root, "dev"),
        salmon(root / "salmon"),
        storycloze(root / "tables", name="storycloze"),
        storycloze(root / "files", name="topic-storycloze"),
    ]


def spoken(suite: Suite, seed: int) -> dict[str, Units]:
    """Random units of 2 to 40; every third pair differs in its last unit only, so that decisions are close."""
    rng, spec, units = np.random.default_rng(seed), make_spec(deduplicate=False), {}
    for i, pair in enumerate(suite.pairs):
        ids = rng.integers(0, 30, rng.integers(2, 41)).astype(np.uint16)
        other = np.append(ids[:-1], (ids[-1] + 1) % 30) if i % 3 == 0 else rng.integers(0, 30, rng.integers(2, 41))
        for clip, its in ((pair.positive, ids), (pair.negative, other.astype(np.uint16))):
            units[clip] = Units(its, np.ones(len(its), np.int32), spec, clip)
    return units


def alone(lm: UnitLM, units: Units) -> tuple[float, int]:
    """One clip, one row, one forward pass of transformers, products as torch makes them."""
    tokens = torch.from_numpy(lm.vocab.prompt(units.ids))[None]
    with torch.no_grad():
        logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits
    logprobs = logits.double().log_softmax(2).gather(2, tokens[:, 1:, None])
    return float(logprobs.sum()), tokens.shape[1] - 1


def require_equal(lm: UnitLM, suite: Suite, seed: int) -> None:
    units = spoken(suite, seed)
    ours = score_sides(lm, units, suite.pairs, batch_tokens=200)
    oracle = {i: alone(lm, units[i]) for i in suite.wanted()}
    for i, (total, n) in oracle.items():
        assert ours[i][1] == n and abs(ours[i][0] - total) <= NATS * n, (suite.name, i)
    mine, theirs = (ScoredPairs.join(suite, sides, FACTS) for sides in (ours, oracle))
    for rule in ("mean", "sum"):
        scale = {i: n if rule == "mean" else 1 for i, (_, n) in oracle.items()}
        pairs = sorted(suite.pairs, key=lambda p: p.id)
        margins = [
            abs(oracle[p.positive][0] / scale[p.positive] - oracle[p.negative][0] / scale[p.negative]) for p in pairs
        ]
        bounds = [NATS * max(oracle[s][1] / scale[s] for s in (p.positive, p.negative)) * 2 for p in pairs]
        same = mine.outcomes(rule) == theirs.outcomes(rule)
        clear = np.array(margins) > np.array(bounds)
        assert clear.any() and same[clear].all()


@pytest.mark.parametrize("family", families("opt-350m", "bloom", "smollm2", "gemma3", "mamba"), indirect=True)
def test_every_family_on_every_suite(family: tuple[str, Path], suites: list[Suite]) -> None:  # noqa: F811
    _, folder = family
    lm = warm_start(folder, make_spec(deduplicate=False), rows="mean", seed=0)
    for seed, suite in enumerate(suites):
        require_equal(lm, suite, seed)


@pytest.mark.parametrize(
    "vocab",
    [
        Vocab(30, bos=None, eos=None),  # TWIST's release: no token begins a document
        Vocab(30),  # SlamKit's: <pad>, <s>, units
    ],
    ids=["twist", "slamkit"],
)
def test_published_layouts(vocab: Vocab, suites: list[Suite], tmp_path: Path) -> None:
    from twistlm.lm.pretrained import from_config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        from_config(FAMILIES["qwen2.5"]()).save_pretrained(tmp_path)
    made = warm_start(tmp_path, make_spec(deduplicate=False), rows="mean", seed=0)
    lm = UnitLM(made.model, vocab, made.spec, made.provenance)
    for seed, suite in enumerate(suites):
        require_equal(lm, suite, seed)
