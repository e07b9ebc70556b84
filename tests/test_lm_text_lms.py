"""Text LMs by hub id, unit LMs to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from http_standins import hub_of, serving
from test_lm_model import make_spec, make_text_lm
from twistlm.errors import ArtifactError, BadInput, UnitSpecMismatch
from twistlm.lm.model import UnitLM
from twistlm.lm.text_lms import text_lm_folder
from twistlm.lm.warmstart import cold_start, warm_start

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with one model, `org/tiny`, its weights in several forms; yields what was fetched."""
    home = make_text_lm(tmp_path / "hub")
    for extra in ("pytorch_model.bin", "consolidated.safetensors", "README.md", "modeling_tiny.py", "tokenizer.json"):
        (home / extra).write_text("{}")
    served = hub_of({file.name: file.read_bytes() for file in home.iterdir()}, repo="org/tiny", commit=COMMIT)
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(served) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        yield served.asked


@pytest.mark.thorough
def test_a_model_of_the_hub_by_its_id(hub: list[str]) -> None:
    cold_start("org/tiny", make_spec(), seed=0)
    assert hub == ["config.json"]
    hub.clear()
    lm = warm_start("org/tiny@v1", make_spec(), rows="random", seed=0)
    assert sorted(hub) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub.clear()
    assert (lm.provenance["source"], lm.provenance["revision"]) == ("hub org/tiny@v1", COMMIT)
    warm_start("org/tiny@v1", make_spec(), rows="random", seed=0)
    cold_start("org/tiny@v1", make_spec(), seed=0)  # what is there whole is not fetched again in part
    assert not hub
    with pytest.raises(ArtifactError, match="no revision 'gone'"):
        text_lm_folder("org/tiny@gone")
    with pytest.raises(BadInput, match=r"OWNER/NAME\)\. Did you mean 'smollm2-135m'"):
        text_lm_folder("smollm-135m")


def test_without_a_network_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(ArtifactError, match=r"no folder here, and as a model .* does not answer .* give its folder"):
        text_lm_folder("Qwen/Qwen2.5-0.5B")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ArtifactError, match="HF_HUB_OFFLINE is set"):
        text_lm_folder("opt-125m")


def test_a_unit_lm_goes_on_with_the_rows_it_has(tmp_path: Path) -> None:
    first = warm_start(make_text_lm(tmp_path / "text"), make_spec(), rows="random", seed=0)
    first.save(tmp_path / "run" / "lm")
    for given in (tmp_path / "run", tmp_path / "run" / "lm"):
        lm = warm_start(given, make_spec(), rows="mean", seed=5, freeze="body")
        for (name, value), (_, old) in zip(lm.model.named_parameters(), first.model.named_parameters(), strict=True):
            assert torch.equal(value, old), name
        said = lm.provenance
        assert (said["start"], said["rows"], said["freeze"]) == ("continued", "kept", "body")
        assert said["before"]["start"] == "warm" and said["new"]["tensors"] == said["dropped"]["tensors"] == 0
    lm.save(tmp_path / "again")
    assert UnitLM.load(tmp_path / "again").provenance["start"] == "continued"
    with pytest.raises(UnitSpecMismatch, match="n_units is 30 in the unit LM and 20 in the units to be trained on"):
        warm_start(tmp_path / "run", make_spec(20), rows="random", seed=0)
    with pytest.raises(BadInput, match="goes on whole"):
        warm_start(tmp_path / "run", make_spec(), rows="random", seed=0, layers=1)
