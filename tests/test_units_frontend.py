"""The convolutions and products of our own against those of transformers and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from encoders import ARCHITECTURES, stand_in
from standins import babble
from twistlm.compute import choices, products
from twistlm.compute.products import Linear, linear, quicken
from twistlm.units.frontend import PIECE_SECONDS, FrontEnd


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("samples", [720, 16_001, (2 * PIECE_SECONDS + 1) * 16_000 + 77])
def test_frames_and_positions_equal_those_of_transformers(name, samples):
    model, _ = stand_in(name, layers=1)
    # Quiet speech on a large offset: the group norm's variance is a small difference of large numbers.
    wave = torch.from_numpy(0.02 * babble(samples / 16_000 + 0.1, seed=1)[:samples] + 0.5).float()
    with torch.inference_mode():
        front_end = FrontEnd(model)
        frames, theirs = front_end.frames(wave), model.feature_extractor(wave[None])[0].T
        assert frames.shape == theirs.shape
        exact = model.double().feature_extractor(wave[None].double())[0].T
        scale = exact.abs().max()
        assert (frames - exact).abs().max() <= max((theirs - exact).abs().max() * 2, 1e-5 * scale)
        model.float()
        hidden = torch.randn(1, len(frames), model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            front_end.positions(hidden), model.encoder.pos_conv_embed(hidden), rtol=1e-4, atol=1e-5
        )


def test_a_clip_in_pieces_is_the_clip_in_one(monkeypatch):
    model, _ = stand_in("hubert-base", layers=1)
    wave = torch.from_numpy(babble(9.3, seed=2)).float()
    with torch.inference_mode():
        pieces = FrontEnd(model).frames(wave)
        monkeypatch.setattr("twistlm.units.frontend.PIECE_SECONDS", 100)
        torch.testing.assert_close(pieces, FrontEnd(model).frames(wave), rtol=1e-5, atol=1e-6)


def waves(seed: int, lengths: tuple[int, ...]) -> list[np.ndarray]:
    return [
        (0.1 * babble(n / 16_000 + 0.1, seed=seed + i)[:n] + 0.05).astype(np.float32) for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("piece", [1, 100])
def test_clips_one_behind_the_other_are_each_alone(name, piece, monkeypatch):
    """What a GPU is given, on a CPU: frames and positions of each clip, whatever lies beside it."""
    monkeypatch.setattr("twistlm.units.frontend.PIECE_TOGETHER", piece)
    model, _ = stand_in(name, layers=1)
    lengths, cpu = (16_001, 720, 9_999, 25_600, 3_217), torch.device("cpu")
    clips = waves(0, lengths)
    with torch.inference_mode():
        front_end = FrontEnd(model)
        together = front_end.together(clips, cpu)
        for clip, frames in zip(clips, together, strict=True):
            alone = front_end.frames(torch.from_numpy(clip))
            assert frames.shape == alone.shape
            assert (frames - alone).abs().max() <= 2e-5 * alone.abs().max()
        others = front_end.together([clips[0], *waves(50, lengths[1:])], cpu)
        assert torch.equal(together[0], others[0])  # the same products, of other neighbours
        hidden = nn.utils.rnn.pad_sequence(
            [
                torch.randn(len(f), model.config.hidden_size, generator=torch.Generator().manual_seed(1))
                for f in together
            ],
            batch_first=True,
        )
        added = front_end.all_positions(hidden, [len(f) for f in together])
        for own, made, frames in zip(hidden, added, together, strict=True):
            alone = front_end.positions(own[None, : len(frames)])[0]
            torch.testing.assert_close(made[: len(frames)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch(shape, bias):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(5, 7, generator=generator)
    offset = torch.randn(5, generator=generator) if bias else None
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, offset), F.linear(x, weight, offset))


def test_quicken_keeps_weights_and_results():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Sequential(nn.Linear(6, 3, bias=False)))
    before, x = model.state_dict(), torch.from_numpy(np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))
    expected = model(x).detach()
    quicken(model)
    assert [type(m) for m in model.modules()].count(Linear) == 2
    assert all(tensor.data_ptr() == before[name].data_ptr() for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("rows", [1, 8, 256])
@pytest.mark.parametrize("laid_out", [False, True])
def test_both_libraries_are_timed_on_the_shape(rows, laid_out, monkeypatch, tmp_path):
    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path))
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.delenv(choices.VARIABLE, raising=False)
    monkeypatch.setattr(products, "_BEHIND", 2**16)
    took = products.by_onednn(rows, torch.empty(48, 32), laid_out=laid_out)
    [(key, choice)] = choices.made().items()
    assert key.startswith(f"products: {rows} x 32 x 48") and ("laid out" in key) == laid_out
    assert (choice["took"] == "onednn") == took and min(choice["seconds"].values()) > 0
    assert choice["seconds"].keys() == {"mkl", "onednn"}


def test_where_there_is_no_other_library_torch_multiplies(monkeypatch):
    monkeypatch.setattr(choices, "_made", {})
    monkeypatch.setattr(products, "_ONEDNN", False)
    monkeypatch.delenv(choices.VARIABLE, raising=False)
    assert not products.by_onednn(8, torch.empty(48, 32))
    x, weight = torch.ones(2, 7), torch.ones(5, 7)
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))
