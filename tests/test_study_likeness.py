"""Rows that keep which units are alike, from a folder of units to the record of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from standins import Tiny
from twistlm import recipes
from twistlm.corpus.opened import UnitCorpus, open_corpus
from twistlm.corpus.tokenize import tokenize
from twistlm.errors import BadInput
from twistlm.files.jsonl import read_json
from twistlm.files.known import Known
from twistlm.lm.likeness import by_centroids, by_neighbours
from twistlm.lm.model import UnitLM
from twistlm.study import run
from twistlm.units.tokenizer import SpeechTokenizer


@pytest.fixture(scope="module")
def units(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("likeness") / "units"
    tokenize(tiny.speech, out, SpeechTokenizer.load(tiny.tokenizer))
    return out


@pytest.fixture(scope="module")
def corpus(units: Path) -> UnitCorpus:
    return open_corpus(units, split="train")


def test_likeness_is_of_the_units_that_are_trained_on(
    corpus: UnitCorpus, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [corpus.unit_ids(i) for i in range(len(corpus))]
    expected = by_neighbours(documents, corpus.spec.n_units)
    np.testing.assert_array_equal(run.likeness("neighbours", corpus), expected)
    assert run.likeness("covariance", corpus) is None
    with pytest.raises(BadInput, match="no tokenizer here makes them"):
        run.likeness("centroids", corpus)
    monkeypatch.setattr(run, "tokenizer_of", lambda spec: Known("tiny", tiny.tokenizer, "given"))
    centroids = SpeechTokenizer.load(tiny.tokenizer).codebook.centroids
    np.testing.assert_array_equal(run.likeness("centroids", corpus), by_centroids(centroids))


@pytest.mark.parametrize(("init", "plain"), [("warm", "covariance"), ("cold", "random")])
def test_a_run_says_how_its_rows_began(units: Path, tiny: Tiny, tmp_path: Path, init: str, plain: str) -> None:
    config = dataclasses.replace(recipes.quickstart().warm, updates=1, batch_rows=1, context=32, eval_every=0)
    how = {"init": init, "head": "own", "head_start": "zero", "seed": 0}
    for rows in ("neighbours", "covariance"):
        run.train_units(units, tiny.text_lm, config, tmp_path / rows, rows=rows, **how)
    records = [read_json(tmp_path / rows / "config.json", "a record") for rows in ("neighbours", "covariance")]
    assert [record["start"]["rows"] for record in records] == ["neighbours", plain]
    tables = [
        UnitLM.load(tmp_path / rows / "lm").model.get_input_embeddings().weight for rows in ("neighbours", "covariance")
    ]
    assert not np.allclose(tables[0].detach(), tables[1].detach(), atol=1e-2)
