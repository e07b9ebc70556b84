"""Things of about one length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[float], most: float) -> Iterator[list[int]]:
    """Yield indices, longest first, so that rows of about one length share a batch and the largest comes first.

    A batch, padded to its longest row, is of length `most` at most, or holds one row.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
