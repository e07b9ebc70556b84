"""Where to compute, and in how many digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twistlm.compute.devices import _formats, alone_with, device, full_float32, own_card, send


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


def test_processes_of_a_study_share_out_the_cards(monkeypatch, tmp_path) -> None:
    chosen: list[int] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with own_card(tmp_path) as first, own_card(tmp_path) as second:
        assert (first, second) == (0, 1)
        assert alone_with(second) == {"CUDA_VISIBLE_DEVICES": "1"} and alone_with(None) == {}
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-a1")
        assert [alone_with(card)["CUDA_VISIBLE_DEVICES"] for card in (first, second)] == ["5", "GPU-a1"]
        with own_card(tmp_path) as third:  # all are taken: one has two processes
            assert third in (0, 1)
    with own_card(tmp_path) as again:
        assert again == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with own_card(tmp_path) as only:
        assert only is None and len(chosen) == 4
