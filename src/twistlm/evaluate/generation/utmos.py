"""UTMOS (Saeki et al., 2022; the strong learner alone), which papers give beside what their models say.

The network is the library `utmos-pytorch`'s, its weights are the hub's. It was trained on clips of whole utterances; a
clip is judged alone, since what stands beside it in a batch moves its score (UTMOS22, issue 22).
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from twistlm.audio.clip import Clip, resample
from twistlm.compute.devices import device, no_autocast
from twistlm.errors import ArtifactError, AudioError, BadInput, offenders
from twistlm.files.artifacts import resolve
from twistlm.files.torch_files import read_torch

WEIGHTS = "utmos_state_dict.pt"
RATE = 16_000
_LEAST = 400  # samples that the encoder's convolutions need for one frame


class Utmos:
    """Judges one clip at a time."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Utmos:
        """Fetch the weights where they have to be.

        Args:
            folder: with `utmos_state_dict.pt`; None: the hub's.

        Raises:
            ArtifactError: `utmos-pytorch` is not installed, the weights cannot be had, or they are not this network's
                (the library alone would leave what is missing random).
        """
        try:
            from utmos_pytorch.utmos_torch import UTMOSModel, UTMOSScoreTorch
        except ImportError as error:
            raise ArtifactError(
                "UTMOS is computed by the package utmos-pytorch, which is not installed: pip install 'twistlm[utmos]'."
            ) from error
        path = (resolve("utmos") if folder is None else Path(folder)) / WEIGHTS
        try:
            stored = read_torch(path)
        except BadInput as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # weight_norm's old form, as stored
            with torch.device("meta"):
                wanted = UTMOSModel().state_dict().keys()
            if not isinstance(stored, dict) or (missing := sorted(wanted - stored.keys())):
                lacks = offenders(missing) if isinstance(stored, dict) else "all"
                raise ArtifactError(f"{path} is not UTMOS' strong learner: of {len(wanted)} tensors it lacks {lacks}.")
            with torch.random.fork_rng(devices=[]):
                return cls(UTMOSScoreTorch(os.fspath(path), device=str(device())))

    def __call__(self, clip: Clip) -> dict[str, float]:
        """Return `utmos` of a clip, about 1 to 5; one shorter than 25 ms is filled up with silence.

        Raises:
            AudioError: no samples.
        """
        if not len(clip.samples):
            raise AudioError(f"{clip.id or 'the clip'} has no samples: how good it sounds cannot be judged.")
        samples = np.ascontiguousarray(resample(clip, sample_rate=RATE).samples, dtype=np.float32)
        heard = F.pad(torch.from_numpy(samples), (0, max(0, _LEAST - len(samples))))
        with no_autocast():
            return {"utmos": float(self._scorer.score(heard.to(self._scorer.device)))}
