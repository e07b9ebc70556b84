"""Where to compute, and in how many digits."""

import torch

from twistlm.compute.devices import device, float32_convolutions


def test_convolutions_on_a_gpu_keep_their_digits_and_the_setting_is_put_back() -> None:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    with float32_convolutions(torch.device("cuda")):
        assert conv.fp32_precision == "ieee" and not torch.backends.cudnn.allow_tf32
    assert conv.fp32_precision == before
    with float32_convolutions(torch.device("cpu")):
        assert conv.fp32_precision == before


def test_a_rank_has_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device() == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device().type == "cpu"
