"""How many processor cores a step takes: one, beside others or alone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[int]:
    """Let numpy and torch compute on one thread; gives how many torch had before, one per core of this process."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield cores
    finally:
        torch.set_num_threads(cores)


def side_by_side(function: Callable, items: Iterable[tuple]) -> Iterator:
    """``function(*item)`` of every item, in their order, as many at a time as there are cores, each on one thread.

    numpy, torch and faiss let other threads run while they compute. Steps of several threads each would wait for one another.
    """
    with one_thread() as cores, ThreadPoolExecutor(min(8, cores)) as pool:  # each may hold a score matrix
        yield from pool.map(lambda item: function(*item), items)
