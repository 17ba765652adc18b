"""Looks after a running notebook: the memory of its kernel and the time on its progress bar."""

import threading

import psutil
from papermill.engines import NBClientEngine, papermill_engines

ENGINE = "ccq"
"""Name under which papermill finds the engine that reports to a ``Watch``."""


class Watch(threading.Thread):
    """Samples the memory of child processes (the kernel) twice a second and keeps the progress bar's time going."""

    def __init__(self, interval: float = 0.5):
        super().__init__(daemon=True)
        self.interval, self.bar = interval, None
        self.memory_mb = self.peak_memory_mb = 0.0
        self._stopped = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Sample until the ``with`` block ends."""
        while not self._stopped.wait(self.interval):
            resident = sum(map(_resident, psutil.Process().children(recursive=True)))
            self.memory_mb = round(resident / 1e6, 1) or self.memory_mb
            self.peak_memory_mb = max(self.peak_memory_mb, self.memory_mb)
            if self.bar is not None:
                self.bar.refresh()


class _WatchedEngine(NBClientEngine):
    """papermill's own engine, which also hands its progress bar to the watch: cells can take minutes."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, watch, **kwargs):
        watch.bar = nb_man.pbar
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register(ENGINE, _WatchedEngine)


def _resident(process):
    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended meanwhile
        return 0
