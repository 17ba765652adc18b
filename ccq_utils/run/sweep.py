"""Several profiles run one beside the other: each a ``ccq run`` with an output folder of its own, on any engine."""

import os
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.cache import writing_to
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.data.profile import load_profile
from ccq_utils.deploy.engines import engine

LOG = "run.log"
TABLE = "sweep.csv"
COLUMNS = ["profile", "notebook", "seconds", "peak_memory_mb", "outcome", "problem"]


class Runner:
    """A worker that runs the notebooks of one profile after the other; what a run prints goes to ``run.log`` beside it."""

    def __init__(self, only: str, threads: int | None):
        self.only, self.threads = only, threads

    def __call__(self, job: tuple[str, str]) -> list[dict]:
        """One row per notebook of a profile and its output folder: seconds, peak memory in MB, ``ok``, ``failed`` or
        ``not run``, and why.
        """
        from ccq_utils.run import runner  # jupyter and papermill take a second to import

        profile, output = job
        Path(output).mkdir(parents=True, exist_ok=True)
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # the kernel takes it over
        with (Path(output) / LOG).open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                code = runner.run(profile, self.only, output=output)
            except StudyError as error:
                code = 2
                print(f"ccq: {error}", file=log)
        if code == 130:
            raise KeyboardInterrupt
        run = runner.Run(profile, output)
        problem = (Path(output) / LOG).read_text(encoding="utf-8").rpartition("ccq: ")[2] if code else ""
        return [self._row(run, path, code, " ".join(problem.split())) for path in run.choose(self.only)]

    def _row(self, run, notebook, code, problem):
        state = run.state.get(notebook.stem)
        if code == 0 or run.up_to_date(notebook):
            outcome, problem = "ok", ""
        elif state is None or state.finished:
            outcome, problem = "not run", ""
        else:
            outcome = "failed"
        measured = [state.seconds, state.peak_memory_mb] if state else [0.0, 0.0]
        return dict(zip(COLUMNS, [run.profile.name, notebook.stem, *measured, outcome, problem], strict=True))


def sweep(
    profiles: list[str],
    only: str = "",
    output: str = "",
    engine_name: str = "local",
    address: str = "",
    workers: int | None = None,
    threads: int | None = None,
) -> pd.DataFrame:
    """Run profiles, each into ``OUTPUT/NAME``; the same call resumes, as ``ccq run`` does.

    Parameters
    ----------
    profiles : names or YAML files, with different names
    only : one notebook of each, by number or name
    output : ``build/sweep`` of the checkout where empty; on a cluster, a folder that all machines share
    engine_name, address, workers, threads : as of ``engines.engine``; a thread count decides the last digits of results

    Returns
    -------
    One row per profile and notebook, in the order of the profiles, as it is written to ``OUTPUT/sweep.csv``.

    Raises
    ------
    StudyError : an unknown profile or notebook, two profiles of one name, a folder that cannot be written; as
        ``engine`` does.
    """
    from ccq_utils.run import runner

    home = Path(output or paths.BUILD / "sweep").resolve()
    names = [load_profile(profile).name for profile in profiles]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StudyError(f"profile {sorted(twice)[0]!r} stands twice in the sweep; give each a name of its own")
    with writing_to(home):
        for profile, name in zip(profiles, names, strict=True):
            (home / name).mkdir(parents=True, exist_ok=True)
            runner.Run(profile, str(home / name)).choose(only)  # what is wrong shows before the long work
    given = [str(Path(profile).resolve()) if Path(profile).suffix else profile for profile in profiles]
    jobs = [(name, (profile, str(home / name))) for name, profile in zip(names, given, strict=True)]
    found = {}
    with engine(engine_name, address, workers and min(workers, len(jobs)), threads) as run:
        for name, rows in progress(run(partial(Runner, only, threads), jobs), "profiles run", len(jobs)):
            found[name] = rows
    table = pd.DataFrame([row for name in names for row in found[name]], columns=COLUMNS)
    with writing_to(home):
        table.to_csv(home / TABLE, index=False, lineterminator="\n")
    return table
