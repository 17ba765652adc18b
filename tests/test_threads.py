"""Steps side by side: in order, one thread each, as before afterwards, and no further after a failure."""

import threading
import time

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.common.cache import remembered
from ccq_utils.common.threads import side_by_side


@pytest.fixture(autouse=True)
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def counts():
    return {pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()}


def test_two_steps_run_at_once_and_come_in_order():
    both = threading.Barrier(2, timeout=20)  # passes only if two steps are there at a time

    def step(number, doubled):
        both.wait()
        time.sleep(0.02 * (number % 2 == 0))
        return number, doubled

    given = [(number, 2 * number) for number in range(4)]
    assert list(side_by_side(step, given)) == given


def test_each_step_has_one_thread_and_all_have_as_many_as_before_afterwards():
    np.ones((300, 300)) @ np.ones((300, 300))
    load_faiss()  # all that computes is loaded now: what a step loads has as many threads as it likes
    before = counts()
    steps = side_by_side(lambda _: (counts(), load_faiss().omp_get_max_threads()), [(1,), (2,)])
    assert list(steps) == [({1}, 1)] * 2
    assert counts() == before


def test_after_a_failure_what_waits_is_not_begun():
    begun = []

    def step(number):
        begun.append(number)
        time.sleep(0.05)
        if number == 0:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        list(side_by_side(step, [(number,) for number in range(40)]))
    assert len(begun) < 40


def test_what_is_remembered_is_computed_once_and_other_arrays_do_not_wait():
    both, computed = threading.Barrier(2, timeout=20), []

    @remembered
    def total(array):
        computed.append(array[0])
        if array[0] < 2:
            both.wait()  # passes only if both arrays are worked on at a time
        return array.sum()

    arrays = [np.full(3, value) for value in (0, 1, 0, 1)]
    assert list(side_by_side(total, ((array,) for array in arrays))) == [0, 3, 0, 3]
    assert sorted(computed) == [0, 1]
    for value in range(2, 18):  # sixteen others
        total(np.full(3, value))
    total(np.full(3, 17))
    assert len(computed) == 18
    with pytest.raises(threading.BrokenBarrierError):  # forgotten, so computed again
        both.abort()
        total(np.full(3, 0))
