"""Small critics for adversarial training: they tell true from spoken waveforms by their periods and by their spectra.

Sources: the multi-period critic of HiFi-GAN (Kong et al. 2020) and the multi-resolution spectrogram critic of UnivNet
(Jang et al. 2021), with far fewer channels, so that both train on a CPU. Losses are least squares (LSGAN) with feature
matching.

Shapes: B batch, N samples, W windows, K frequency bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from twistlm.vocoder.hifigan import SLOPE
from twistlm.vocoder.mel import magnitudes
from twistlm.vocoder.ranks import total

Judgement = list[Tensor]  # every layer's output; the last holds the scores


class PeriodCritic(nn.Module):
    """Judge a waveform folded into rows of `period` samples, so that only samples one period apart meet."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0))) for a, b in zip(widths, channels, strict=False)
        )
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Judgement:
        x = F.pad(samples, (0, -samples.shape[1] % self.period)).unflatten(1, (-1, self.period)).unsqueeze(1)
        return _through(self.layers, self.last, x)


class SpectrumCritic(nn.Module):
    """Judge the magnitudes of one STFT."""

    def __init__(self, n_fft: int, hop: int, channels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels if i else 1, channels, (3, 9), (1, 2), padding=(1, 4))) for i in range(4)
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Judgement:
        # A cube root, like loudness, keeps weak high bands visible beside strong low ones.
        x = magnitudes(samples, self.n_fft, self.hop, self.get_buffer("window")).pow(1 / 3).unsqueeze(1)
        return _through(self.layers, self.last, x)


def _through(layers: nn.ModuleList, last: nn.Module, x: Tensor) -> Judgement:
    judgement = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        judgement.append(x)
    return [*judgement, last(x)]


class Critics(nn.Module):
    """All critics; gives one judgement of each."""

    def __init__(self, periods: tuple[int, ...], spectra: tuple[tuple[int, int], ...], channels: int) -> None:
        super().__init__()
        wide = (channels, 4 * channels, 8 * channels, 8 * channels)
        self.critics = nn.ModuleList(
            [PeriodCritic(period, wide) for period in periods]
            + [SpectrumCritic(n_fft, hop, channels) for n_fft, hop in spectra]
        )

    def forward(self, samples: Tensor) -> list[Judgement]:
        return [critic(samples) for critic in self.critics]


def critics_loss(true: list[Judgement], spoken: list[Judgement]) -> Tensor:
    """What the critics minimise: scores of 1 for true and 0 for spoken waveforms, mean over critics."""
    losses = [(1 - t[-1]).square().mean() + s[-1].square().mean() for t, s in zip(true, spoken, strict=True)]
    return torch.stack(losses).mean()


def generator_losses(true: list[Judgement], spoken: list[Judgement]) -> tuple[Tensor, Tensor]:
    """What the generator minimises: (1 - score of its waveforms) squared, and relative L1 between hidden layers."""
    adversarial = torch.stack([(1 - s[-1]).square().mean() for s in spoken]).mean()
    matching = [
        total((a.detach() - b).abs().mean()) / total(a.detach().abs().mean())
        for t, s in zip(true, spoken, strict=True)
        for a, b in zip(t[:-1], s[:-1], strict=True)
    ]
    return adversarial, torch.stack(matching).mean()
