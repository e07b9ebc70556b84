"""Long and many sequences through a network that looks only so far: cut, put into batches, and laid together exactly.

A network of finite reach (a generator, a duration predictor) gives a position the same value whether it sees the whole
sequence or only what lies in its reach. So a long sequence is cut into pieces, each with its reach around it, and
pieces of many sequences share a batch. In a batch the shorter ones are filled up at their ends. Filling is not the end
of a sequence: the network pads every layer with zeros there, and gives something else where a layer sees the filling.
So what lies in reach of the filling is not used; it is made again from the end of its sequence, cut so that nothing
has to be filled.

Shapes: T positions of a sequence, B batch, L positions of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from twistlm.compute.devices import send
from twistlm.vocoder.generator import Reach


@dataclass(frozen=True)
class Piece:
    """Positions start … stop of a sequence, to be made from low … high of it."""

    sequence: int
    start: int
    stop: int
    low: int
    high: int

    def __len__(self) -> int:
        return self.high - self.low


def pieces_of(sequence: int, length: int, reach: Reach, *, size: int) -> list[Piece]:
    """Cut 0 … length into near-equal pieces of at most `size`, each with its reach around it."""
    count = math.ceil(length / size)
    edges = [length * i // count for i in range(count + 1)]
    return [
        Piece(sequence, start, stop, max(0, start - reach.left), min(length, stop + reach.right))
        for start, stop in pairwise(edges)
    ]


def through(
    network: Callable[[Tensor, list[int]], Tensor],
    sequences: Sequence[Tensor],
    reach: Reach,
    *,
    size: int,
    most: int,
    device: torch.device,
    done: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Return what `network` gives for each sequence alone, in as few calls as the sizes allow.

    Args:
        network: of a batch [B, L] and the index of each row's sequence, to [B, L * k] with one k for all.
        sequences: [T] each, T at least 1, on the CPU.
        reach: of the network.
        size: positions of a piece, without its reach.
        most: positions of a batch, filled ones and reach included; 0 for one piece a call.
        device: where the network computes.
        done: told after each call how many positions are finished by it.

    Returns:
        [T * k] for each sequence, on the CPU; equal up to the rounding of products of other shapes.
    """
    lengths = [len(sequence) for sequence in sequences]
    pieces = [piece for i, length in enumerate(lengths) for piece in pieces_of(i, length, reach, size=size)]
    made: list[Tensor | None] = [None] * len(sequences)
    for batch in _batches(pieces, lengths, reach, most=most):
        longest = max(map(len, batch))
        rows = torch.zeros(len(batch), longest, dtype=sequences[0].dtype)
        for row, piece in zip(rows, batch, strict=True):
            row[: len(piece)] = sequences[piece.sequence][piece.low : piece.high]
        with torch.inference_mode():
            out = network(send(rows.numpy(), device), [piece.sequence for piece in batch]).cpu()
        k = out.shape[1] // longest
        for row, piece in zip(out, batch, strict=True):
            whole = made[piece.sequence]
            if whole is None:
                whole = made[piece.sequence] = torch.empty(lengths[piece.sequence] * k, dtype=out.dtype)
            whole[piece.start * k : piece.stop * k] = row[(piece.start - piece.low) * k : (piece.stop - piece.low) * k]
        if done is not None:
            done(sum(piece.stop - piece.start for piece in batch))
    return [whole for whole in made if whole is not None]


def _batches(pieces: Sequence[Piece], lengths: Sequence[int], reach: Reach, *, most: int) -> Iterator[list[Piece]]:
    """Put pieces into batches of at most `most` positions, so that no row is used within reach of its filling."""
    if most == 0:
        yield from ([piece] for piece in pieces)
        return
    unfilled: list[Piece] = []
    for batch in _alike(pieces, most):
        longest = max(map(len, batch))
        kept = []
        for piece in batch:
            if len(piece) == longest or piece.high < lengths[piece.sequence]:
                kept.append(piece)  # nothing is filled, or only behind the reach of what is used
                continue
            good = max(piece.start, piece.high - reach.right)
            if good > piece.start:
                kept.append(Piece(piece.sequence, piece.start, good, piece.low, piece.high))
            if good < piece.stop:
                unfilled.append(Piece(piece.sequence, good, piece.stop, max(0, good - reach.left), piece.high))
        if kept:
            yield kept
    # Ends of sequences longer than their reach are all equally long; shorter sequences meet only their own length.
    for _, equal in groupby(sorted(unfilled, key=len), key=len):
        yield from _alike(list(equal), most)


def _alike(pieces: Sequence[Piece], most: int) -> Iterator[list[Piece]]:
    """Batches of pieces of about one length, at most `most` positions each when filled up."""
    batch: list[Piece] = []
    for piece in sorted(pieces, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
