"""UTMOS of the library, with random weights of its own shapes: the same scores, and no weights missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from standins import babble
from twistlm.audio.clip import Clip
from twistlm.errors import ArtifactError, AudioError
from twistlm.evaluate.generation.utmos import WEIGHTS, Utmos

utmos_pytorch = pytest.importorskip("utmos_pytorch.utmos_torch", reason="needs the package utmos-pytorch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, about the library


@pytest.mark.slow  # 103 million parameters
def test_scores_are_the_librarys_of_the_clip_at_16_khz(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(utmos_pytorch.UTMOSModel().state_dict(), tmp_path / WEIGHTS)
    ours, theirs = Utmos.load(tmp_path), utmos_pytorch.UTMOSScoreTorch(os.fspath(tmp_path / WEIGHTS))
    sound = babble(1.5, seed=1).astype(np.float32)
    score = ours(Clip(id="a", samples=sound, sample_rate=16_000))
    assert score == {"utmos": float(theirs.score(torch.from_numpy(sound)))}
    again = Clip(id="b", samples=np.repeat(sound, 2), sample_rate=32_000)
    assert ours(again)["utmos"] == pytest.approx(score["utmos"], abs=0.1)
    short = Clip(id="c", samples=sound[:10], sample_rate=16_000)
    assert np.isfinite(ours(short)["utmos"])
    with pytest.raises(AudioError, match="d has no samples"):
        ours(Clip(id="d", samples=sound[:0], sample_rate=16_000))


def test_weights_that_are_missing_are_not_drawn(tmp_path: Path) -> None:
    with torch.device("meta"):
        names = [name for name in utmos_pytorch.UTMOSModel().state_dict() if "output_layers.1" not in name]
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match=r"of 224 tensors it lacks output_layers\.1\.net\.0\.bias"):
        Utmos.load(tmp_path)
    torch.save([1, 2], tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match="lacks all"):
        Utmos.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not a pickle")
    with pytest.raises(ArtifactError, match="cannot be read: it is no whole file"):
        Utmos.load(tmp_path)


def test_without_the_package_the_fix_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "utmos_pytorch.utmos_torch", None)
    with pytest.raises(ArtifactError, match=r"pip install 'twistlm\[utmos\]'"):
        Utmos.load(tmp_path)
