"""Where to compute, and in how many digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twistlm.compute.devices import _formats, device, full_float32, send


def formats() -> list[str]:
    return [each.fp32_precision for each in _formats()]


@pytest.mark.parametrize("outside", ["highest", "high", "medium"])
def test_products_keep_their_digits_and_the_setting_is_put_back(outside: str) -> None:
    kept = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(outside)
        before = formats()
        with full_float32():
            assert set(formats()) == {"ieee"} and not torch.backends.cudnn.allow_tf32
            with full_float32():  # another thread's, say
                pass
            assert set(formats()) == {"ieee"}
        assert formats() == before and torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32 == (outside != "highest")
    finally:
        torch.set_float32_matmul_precision(kept)


def test_sent_arrays_are_the_same() -> None:
    rows = np.arange(12).reshape(3, 4)[:, ::2]  # not contiguous
    assert send(rows, torch.device("cpu")).tolist() == rows.tolist()


def test_a_rank_has_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device() == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device().type == "cpu"
