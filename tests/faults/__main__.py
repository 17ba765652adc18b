"""The campaign: every fault is tried and counted, and ``data/reliability.csv`` says by kind what came out (``make faults``).

``--sample`` takes a seeded few of each kind, without Ray and ``ccq run``; ``--only KIND`` those whose kind holds a word.
Rows of kinds that are not tried stay. What is wrong is printed, and is the exit code.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
TABLE = ROOT / "data" / "reliability.csv"
SAMPLE = 4  # of each kind


def main(arguments=None) -> int:
    """Try, count, write."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path, default=None, help="the table; a sample writes none of itself")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ |= {
        **ENVIRONMENT,
        "CCQ_ROOT": str(folder / "checkout"),
        "CCQ_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
    }
    sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]
    os.umask(0o022)
    os.chmod(folder, 0o755)
    try:
        counts, peers, wrong = campaign(folder, options.sample, options.only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for line in wrong:
        print(f"WRONG {line}")
    if target := options.out or (None if options.sample else TABLE):
        write(target, counts, peers)
    tried = sum(sum(found.values()) for found in counts.values())
    print(f"{tried} tried, {len(wrong)} wrong")
    return int(bool(wrong))


def campaign(folder, sample=False, only=()):
    """Outcomes by kind, peers' by kind and peer, and a line for each wrong one."""
    import cluster
    import common
    import given as stuff
    import hub
    import kills
    import numpy as np
    import places
    import readers

    common.checkout(folder / "checkout")
    home = common.Home(folder / "checkout")
    parts = (readers.cases, partial(kills.cases, folder=folder / "unkilled"), places.cases, stuff.cases)
    given = defaultdict(list)
    for case in (case for part in parts for case in part(home)):
        if not only or any(word in case.kind for word in only):
            given[case.kind].append(case)
    counts, peers, wrong = defaultdict(Counter), defaultdict(Counter), []

    def count(kind, name, outcome):
        if outcome is not None:  # may not be tried here
            counts[kind][outcome if outcome in (common.RIGHT, common.REFUSED) else common.WRONG] += 1
            if outcome not in (common.RIGHT, common.REFUSED):
                wrong.append(f"{kind}: {name}: {outcome}")

    for kind, cases in given.items():
        if sample:
            few = 1 if kind.startswith("kill") else SAMPLE
            cases = [
                cases[at]
                for at in sorted(np.random.default_rng([common.SEED, *kind.encode()]).permutation(len(cases))[:few])
            ]
        started = time.monotonic()
        for number, case in enumerate(cases):
            (place := folder / "cases" / f"{kind} {number}".replace(" ", "_").replace(":", "")).mkdir(parents=True)
            try:
                count(kind, case.name, case.run(place))
            except Exception:
                count(kind, case.name, traceback.format_exc())
            shutil.rmtree(place, ignore_errors=True)
            if case.input is not None:
                for peer in readers.PEERS:
                    peers[kind][f"{peer}_{readers.peer(peer, home, case.input)}"] += 1
        print(f"{kind}: {dict(counts[kind])} {dict(peers[kind]) or ''} {time.monotonic() - started:.0f} s", flush=True)
    parts = {"hub": partial(hub.tries, few=SAMPLE if sample else None)} | (
        {} if sample else {"kill: run": kills.tries, "Ray": cluster.tries}
    )
    for kind, part in parts.items():
        if not only or any(word in kind for word in only):
            (place := folder / kind.replace(": ", "_")).mkdir()
            for found in part(home, place):
                count(*(found if len(found) == 3 else (kind, *found)))
            print(f"{kind}: { ({name: dict(counts[name]) for name in counts if name.startswith(kind)}) }", flush=True)
    return counts, peers, wrong


def write(target, counts, peers):
    """The table, rows of kinds that were not tried as before."""
    import common
    import pandas as pd
    import readers

    ours = [common.RIGHT, common.REFUSED, common.WRONG]
    theirs = [f"{peer}_{what}" for peer in readers.PEERS for what in ("right", "refused", "silent")]
    rows = []
    for kind, found in counts.items():
        row = {"kind": kind, "tried": sum(found.values())} | {name: found[name] for name in ours}
        rows.append(row | ({name: peers[kind][name] for name in theirs} if peers.get(kind) else {}))
    table = pd.DataFrame(rows, columns=["kind", "tried", *ours, *theirs])
    if target.is_file():
        before = pd.read_csv(target)
        table = pd.concat([before[~before["kind"].isin(table["kind"])], table])
    table[theirs] = table[theirs].astype("Int64")
    table.to_csv(target, index=False, lineterminator="\n")


if __name__ == "__main__":
    sys.exit(main())
