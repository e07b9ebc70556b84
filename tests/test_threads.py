"""Work on many clips at once: order, errors, look-ahead, and torch's threads given back."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import threadpoolctl
import torch

from forking import fork
from twistlm.compute import threads as module
from twistlm.compute.shared import Shared
from twistlm.compute.threads import in_order, one_thread, require_threads
from twistlm.errors import TwistError


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


def test_a_shared_setting_is_made_by_the_first_and_undone_by_the_last():
    said = []

    def make():
        said.append("made")
        return lambda: said.append("undone")

    shared = Shared(make)
    for _ in range(2):
        first, second = shared(), shared()
        with contextlib.ExitStack() as stack:
            first.__enter__()
            stack.enter_context(second)
            first.__exit__(None, None, None)
            assert said == ["made"]
        assert said == ["made", "undone"]
        said.clear()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("leaves_first", [0, 1])
def test_blocks_of_two_threads_may_overlap_and_new_threads_have_all_cores_again(leaves_first, late):
    entered, left = [threading.Event(), threading.Event()], threading.Event()
    born = threading.Barrier(2)

    def work(i):
        if i == 0 or not late:
            torch.get_num_threads()  # a thread's own number is settled when it first asks
        born.wait(20)
        if i == 1:
            entered[0].wait(20)
        with one_thread():
            entered[i].set()
            entered[1 - i].wait(20)
            if i != leaves_first:
                left.wait(20)
            inside = [torch.get_num_threads(), *in_order(lambda _: torch.get_num_threads(), range(3))]
        left.set()
        return set(inside), torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as two:
            (inside, after), (inside_too, after_too) = two.map(work, range(2))
        assert inside == inside_too == {1} and after == 3 and after_too in ({1, 3} if late else {3})
        with ThreadPoolExecutor(1) as new:
            assert new.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_are_not_there(threads, monkeypatch):
    monkeypatch.setattr(module, "_computed_in", None)
    require_threads()

    def work():
        require_threads()  # on one thread, as `fork` begins
        torch.set_num_threads(threads)
        with contextlib.nullcontext() if threads == 1 else pytest.raises(TwistError, match=r"forked from .*'spawn'"):
            require_threads()

    assert os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == 0
    require_threads()
