"""Where work is done: in this process, or by the workers of a Ray cluster; the caller's code is the same.

``with engine(...) as run: for key, result in run(make, items)``: a worker is what ``make()`` returns, made once per
process; each item, a pair of key and argument, goes to one worker. Results come as they finish. Ray restarts a worker
that dies and gives its item to another, so that each item has exactly one result. Ray is imported only where it is used.
"""

import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ccq_utils.common.errors import StudyError

ENGINES = ("local", "ray")
RESTARTS = (
    20  # of one worker: machines may come and go, but one that cannot even load the model must not be tried for ever
)
RETRIES = 3  # of one item whose worker died: what kills four workers is the item itself, most often by its memory
ANSWER = 5  # seconds to wait for a cluster's head; Ray itself waits for two minutes and then ends the process
OWN_CLUSTER = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch, on any system, for a cluster on the loopback address alone
}

Run = Callable[[Callable[[], Callable], Iterable[tuple]], Iterator[tuple]]


@contextmanager
def engine(
    name: str = "local",
    address: str = "",
    workers: int | None = None,
    threads: int | None = None,
    gpu: bool = False,
) -> Iterator[Run]:
    """A function ``run(make, items)`` that yields ``(key, make()(argument))`` for each ``(key, argument)``.

    Parameters
    ----------
    address : of a Ray cluster: ``auto`` (the one on this machine), ``host:port`` or ``ray://host:port``; empty starts
        one on this machine, which listens on the loopback address alone and ends with the block
    workers : processes; None takes as many as the cluster has room for (the local engine is always one)
    threads : CPUs that each Ray worker holds, one where None; whoever makes the workers keeps them to it
    gpu : each Ray worker holds one GPU

    Raises
    ------
    StudyError : an unknown engine, Ray not installed, an address that does not answer, too small a cluster, a worker
        that fails or that keeps dying.
    """
    if name not in ENGINES:
        raise StudyError(f"engine {name!r} is unknown; choose one of: {', '.join(ENGINES)}")
    for label, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise StudyError(f"{label} {number} must be at least 1")
    if name == "local":
        if address or (workers or 1) > 1:
            raise StudyError("the local engine is one process without an address; take engine 'ray' for more")
        yield _local
        return
    ray, threads = _ray(address), threads or 1
    with _cluster(ray, address, workers and workers * threads):
        yield lambda make, items: _on_ray(ray, make, items, workers, threads, gpu)


def _local(make, items):
    work = make()
    for key, argument in items:
        yield key, work(argument)


def _ray(address):
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", OWN_CLUSTER["RAY_USAGE_STATS_ENABLED"])
    if not address:
        for variable, value in OWN_CLUSTER.items():
            os.environ.setdefault(variable, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise StudyError("engine 'ray' needs Ray; install it with: pip install '.[ray]'") from error


@contextmanager
def _cluster(ray, address, cpus):
    """Connect to a cluster, or start one; one that the caller is connected to already is used and left as it is."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    _check_address(ray, address)
    try:
        if address:
            ray.init(address, **quiet)
        else:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
    except Exception as error:  # a node that starts too slowly is a bare Exception
        reason = (str(error).splitlines() or [""])[0][:160]
        raise StudyError(
            f"no Ray cluster at {address or 'this machine'} ({reason}); start one with: ray start"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(ray, address):
    place = address.removeprefix("ray://")
    if not address or address == "auto":
        return
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise StudyError(f"address {address!r} is none of: auto, host:port, ray://host:port")
    local = host in ("localhost", "127.0.0.1", "::1")  # Ray takes these for the machine's own address
    for candidate in [host, *([ray.util.get_node_ip_address()] if local else [])]:
        try:
            socket.create_connection((candidate, int(port)), timeout=ANSWER).close()
            return
        except (OSError, OverflowError) as error:
            reason = error
    raise StudyError(f"no Ray cluster answers at {address} ({reason}); start one with: ray start --head --port={port}")


def _on_ray(ray, make, items, workers, threads, gpu):
    from ray.util import ActorPool

    held = ray.cluster_resources()
    cpus, gpus = int(held.get("CPU", 0)), int(held.get("GPU", 0))
    room = min(cpus // threads, gpus) if gpu else cpus // threads
    if max(1, workers or 1) > room:
        wanted = f"{workers or 1} workers of {threads} CPUs{' and a GPU' if gpu else ''} each"
        raise StudyError(f"the Ray cluster has {cpus} CPUs and {gpus} GPUs, too few for {wanted}; ask for less")
    options = {"num_cpus": threads, "num_gpus": int(gpu), "max_restarts": RESTARTS, "max_task_retries": RETRIES}
    actor = ray.remote(**options)(_Worker)
    actors = [actor.remote(make) for _ in range(workers or room)]
    try:
        ray.get([worker.ready.remote() for worker in actors])
        pool = ActorPool(actors)
        for item in items:  # one by one, so that no more of them are in memory than there are workers
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, pair: worker.work.remote(*pair), item)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StudyError):
            raise StudyError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise StudyError(
            f"a Ray worker cannot start, or keeps dying ({reason}); if memory is short, take smaller parts or fewer workers"
        ) from error
    finally:
        for worker in actors:
            ray.kill(worker)


class _Worker:
    """A process of the cluster: what ``make`` returns is made once in it, and again where Ray had to restart it."""

    def __init__(self, make):
        self._make, self._work = make, None

    def ready(self):
        """Make what does the work; not in ``__init__``, whose errors Ray reports as a death."""
        self._work = self._work or self._make()

    def work(self, key, argument):
        """Key and result of one item."""
        self.ready()
        return key, self._work(argument)
