"""Spectral distances between a spoken and a true waveform: what the vocoder learns from before, and beside, a critic.

Shapes: B batch, N samples, M mel bands, W windows (STFT frames).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twistlm.vocoder.ranks import norm

FLOOR = 1e-5  # magnitudes below are silence


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One STFT: FFT size and hop in samples, and how many mel bands its magnitudes are gathered in."""

    n_fft: int
    hop: int
    n_mels: int


RESOLUTIONS = (
    Resolution(n_fft=2048, hop=480, n_mels=96),
    Resolution(n_fft=1024, hop=240, n_mels=80),
    Resolution(n_fft=512, hop=120, n_mels=64),
    Resolution(n_fft=256, hop=60, n_mels=32),
)


def mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Triangular filters, [n_fft // 2 + 1, M], evenly spaced on the HTK mel scale over 0 … Nyquist, each summing to 1.

    A filter narrower than a bin is given its nearest bin, so that none is empty.
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, n_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    nearest = (bins - edges[1:-1]).abs().argmin(0)
    empty = filters.sum(0) < 1e-3
    filters[nearest[empty], empty.nonzero().squeeze(1)] = 1
    return (filters / filters.sum(0)).float()


def magnitudes(samples: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """|STFT| of samples [B, N] as [B, W, n_fft // 2 + 1], scaled so that it does not grow with `n_fft`."""
    spectrum = torch.stft(samples, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    # The added floor keeps the square root's gradient finite in silence.
    power = spectrum.real.square() + spectrum.imag.square()
    return (power.transpose(1, 2) * (4 / n_fft) + FLOOR**2).sqrt()


class SpectralLoss(nn.Module):
    """Mean over resolutions of L1 between log mels, plus spectral convergence between linear magnitudes."""

    def __init__(self, sample_rate: int, resolutions: tuple[Resolution, ...] = RESOLUTIONS) -> None:
        super().__init__()
        self.resolutions = resolutions
        for i, r in enumerate(resolutions):
            self.register_buffer(f"window{i}", torch.hann_window(r.n_fft), persistent=False)
            self.register_buffer(f"mel{i}", mel_filters(r.n_fft, r.n_mels, sample_rate), persistent=False)

    def mel(self, spoken: Tensor, true: Tensor) -> Tensor:
        """Return the log-mel L1 in nepers of two [B, N] waveforms, a scalar."""
        return self._distances(spoken, true)[0]

    def forward(self, spoken: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return (log-mel L1 in nepers, spectral convergence), each a scalar, of two [B, N] waveforms.

        Of several ranks, the first is of this rank's rows and the second of all rows.
        """
        mel, linear = self._distances(spoken, true)
        convergence = torch.zeros((), device=spoken.device)
        for a, b in linear:
            convergence = convergence + norm(a - b) / norm(b).clamp(min=1e-3)
        return mel, convergence / len(self.resolutions)

    def _distances(self, spoken: Tensor, true: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        mel = torch.zeros((), device=spoken.device)
        pairs = []
        both = torch.cat((spoken, true.to(spoken.dtype)))
        for i, r in enumerate(self.resolutions):
            linear = magnitudes(both, r.n_fft, r.hop, self.get_buffer(f"window{i}"))
            log_mel = (linear @ self.get_buffer(f"mel{i}") + FLOOR).log()
            a, b = log_mel.chunk(2)
            mel = mel + F.l1_loss(a, b)
            a, b = linear.chunk(2)
            pairs.append((a, b))
        return mel / len(self.resolutions), pairs
