"""Work on many clips at once: order, errors, look-ahead, and torch's threads given back."""

from __future__ import annotations

import threading

import pytest
import threadpoolctl
import torch

from twistlm.compute.threads import in_order


def blas_threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads):
    assert list(in_order(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert torch.get_num_threads() == threads


def test_as_many_items_at_once_as_torch_had_threads_and_one_thread_each(threads):
    meet = threading.Barrier(threads, timeout=20)  # passes only when so many are inside at once

    def work(_):
        meet.wait()
        return torch.get_num_threads(), blas_threads()

    before = blas_threads()
    assert before, "numpy's products are by a library that can be told"
    assert list(in_order(work, range(2 * threads))) == [(1, [1] * len(before))] * 2 * threads
    assert blas_threads() == before


def test_an_error_comes_in_its_turn_and_gives_the_threads_back(threads):
    seen = []

    def work(n):
        if n == 4:
            raise ValueError("the fifth")
        return n

    with pytest.raises(ValueError, match="the fifth"):
        for n in in_order(work, range(50)):
            seen.append(n)
    assert seen == [0, 1, 2, 3]
    assert torch.get_num_threads() == threads


def test_items_are_taken_only_a_few_ahead(threads):
    taken = []
    results = in_order(lambda n: n, (taken.append(n) or n for n in range(1000)))
    assert next(results) == 0
    assert len(taken) <= 2 * threads + 1
    results.close()
    assert torch.get_num_threads() == threads
