"""What ranks send each other in an update, and how long that takes: for plans of machines that are not here.

Figures of hardware are the makers', said as such; nothing here was measured.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from twistlm.errors import BadInput
from twistlm.train.parallel import Sharing


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, as its maker describes it.

    Attributes:
        name: of the data sheet.
        memory: bytes.
        flops: FLOP/s of dense bf16 products at best.
        node: how many share a machine.
        inside: bytes a second that one receives from the others of its machine.
    """

    name: str
    memory: float
    flops: float
    node: int
    inside: float


H100 = Gpu(name="H100 SXM (NVIDIA's data sheet)", memory=80e9, flops=9.89e14, node=8, inside=4.5e11)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([GT])(b|B)(?:/?s|ps)?")


def parse_rate(text: str) -> float:
    """Return bytes a second of "400Gb" (bits), "50GB" (bytes), "3.2Tb".

    Raises:
        BadInput: it is none of these.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise BadInput(f"a network of {text!r}: write what each GPU can receive in a second, as 400Gb or 50GB.")
    return float(found[1]) * (1e9 if found[2] == "G" else 1e12) / (8 if found[3] == "b" else 1)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one update sends.

    Attributes:
        inside: bytes that each GPU receives over its machine's own links.
        between: bytes that each GPU receives over the network, all of a machine's taking their share.
        seconds: how long both take, one beside the other, at the links' full rate.
    """

    inside: float
    between: float
    seconds: float


def traffic(
    parameters: int, *, ranks: int, parts: int, sharing: Sharing, nodes_hold_all: bool, gpu: Gpu, network: float
) -> Traffic:
    """Return what an update of `parts` parts sends, of so many parameters.

    Slices are put together for the forward and for the backward pass of each part, and gradients are added up in
    float32 after it; whole models add up gradients once. A ring over all GPUs brings each byte into a machine once, and
    its GPUs pass it on.

    Args:
        parameters: on all ranks.
        ranks: GPUs.
        parts: of a rank's rows.
        sharing: what each holds, see `TrainConfig.sharing`.
        nodes_hold_all: each machine holds all slices (HSDP), so that only gradients cross the network.
        gpu: which kind.
        network: bytes a second that each GPU can receive from other machines.
    """
    local = min(ranks, gpu.node)
    nodes = math.ceil(ranks / gpu.node)
    travels = 2 if sharing == "slices-bf16" else 4
    if sharing == "whole":
        gathered, added = 0.0, 2 * 4.0 * parameters  # scattered sums, then put together
    else:
        gathered, added = 2.0 * travels * parameters * parts, 4.0 * parameters * parts
    crossing = 2 * added if nodes_hold_all else gathered + added
    inside = (gathered + added) * (local - 1) / local
    between = crossing * (nodes - 1) / nodes / local
    return Traffic(inside=inside, between=between, seconds=max(inside / gpu.inside, between / network))
