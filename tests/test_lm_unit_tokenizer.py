"""A unit LM's folder in plain transformers: the same tokens, the same log-probabilities; and its card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from test_lm_model import KINDS, make_spec, make_text_lm
from test_lm_published import twist_release
from twistlm.lm.card import card
from twistlm.lm.model import UnitLM
from twistlm.lm.published import load_published
from twistlm.lm.score import score
from twistlm.lm.unit_tokenizer import save_unit_tokenizer, words
from twistlm.lm.vocab import Vocab
from twistlm.lm.warmstart import warm_start

UNITS = np.array([3, 1, 4, 29, 0, 7], np.uint16)


def text(units: np.ndarray, between: str) -> str:
    return between.join(f"<u{u}>" for u in units)


@pytest.mark.parametrize("kind", [*KINDS, "published"])
def test_transformers_alone_gives_the_same_log_probabilities(kind: str, tmp_path: Path) -> None:
    if kind == "published":
        twist_release(tmp_path / "text", "llama", pickled=False)
        lm = load_published(tmp_path / "text", make_spec())
    else:
        lm = warm_start(make_text_lm(tmp_path / "text", kind), make_spec(), rows="random", seed=0)
    lm.save(tmp_path / "lm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    for between in (" ", ""):
        tokens = tokenizer(text(UNITS, between), return_tensors="pt")["input_ids"]
        assert tokens[0].tolist() == lm.vocab.prompt(UNITS).tolist()
    with torch.no_grad():
        logprobs = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    theirs = score(UnitLM.load(tmp_path / "lm"), [UNITS], include_end=False)[0].token_logprobs
    np.testing.assert_allclose(logprobs.numpy(), theirs, atol=1e-5)
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id] == [lm.vocab.bos, lm.vocab.eos]
    assert tokenizer.convert_ids_to_tokens(list(range(lm.vocab.size))) == words(lm.vocab)
    said = (model.generation_config.bos_token_id, model.generation_config.eos_token_id)
    assert kind == "published" or said == (lm.vocab.bos, lm.vocab.eos)
    if tokenizer.pad_token is not None and kind != "published":  # a prompt goes on in company as it does alone
        prompts, how = [text(UNITS, ""), "<u3>"], {"max_new_tokens": 6, "do_sample": False}
        together = model.generate(**tokenizer(prompts, padding=True, return_tensors="pt"), **how)
        alone = model.generate(**tokenizer(prompts[1], return_tensors="pt"), **how)
        assert together[1, -6:].tolist() == alone[0, -6:].tolist()
    assert lm.spec.fingerprint in (tmp_path / "lm" / "README.md").read_text()


def test_what_is_no_unit_is_an_error_and_a_pad_that_is_one_stays_one(tmp_path: Path) -> None:
    save_unit_tokenizer(Vocab(3, offset=4, pad=5, bos=None, eos=None, n_tokens=9), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("<u0> <u1><u2>")["input_ids"] == [4, 5, 6] and tokenizer.pad_token is None
    assert tokenizer.decode([4, 5, 6], skip_special_tokens=True).split() == ["<u0>", "<u1>", "<u2>"]
    with pytest.raises(Exception, match="UNK"):
        tokenizer("<u3>")


def test_names_in_the_card_are_text_and_no_markup() -> None:
    hostile = "x](http://evil)|<script>\n# head `\x1b[31m"
    made = card(make_spec(), Vocab(30), {"text_lm": hostile, "source": f"hub a/b: [{hostile}]@v1", "start": "warm"})
    assert "\x1b" not in made and "<script>" not in made.split("---", 2)[2] and "\n# head" not in made
    front = made.split("---", 2)[1]
    assert len([line for line in front.splitlines() if line.startswith('base_model: "')]) == 1
    trained = card(make_spec(), Vocab(30), {"trained": {"documents": 7, "val_nll": 3.5}})
    assert "| trained: documents | 7 |" in trained and "| trained: val\\_nll | 3.5 |" in trained
