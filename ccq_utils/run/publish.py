"""Puts the outputs of a finished run into the committed notebooks, and its numbers into README.md and data/CLAIMS.md.

A text holds markers, ``<!-- NAME -->...<!-- end -->``, between which a number is put,
so that none is typed: ``time:03`` (a notebook), ``time:study``, ``memory``, ``claim:K2`` and ``table:claims``.
"""

import re
import sys
from pathlib import Path

import nbformat
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically
from ccq_utils.run import report as run_report
from ccq_utils.run.runner import Run, code_cells, read_notebook
from ccq_utils.study import figures
from ccq_utils.study.claims import load_claims

LIMIT = 1_500_000  # bytes that a committed notebook may have
PROFILES = ("small", "default")  # their tables stand side by side, in this order, where they are committed
STATES = ("holds", "does not hold", "partly", "undecided", "not testable here")
MAIN = {
    "K1": "Small models joined beat a larger one",
    "K1b": "Joined models beat the best of them",
    "K3": "Models after the second add little, less than 0.01 either way",
    "M2": "The decoder keeps about 98 % at moderate compression",
    "D1": "One layer is better than more",
    "K2": "Decoder and quantizer keep 89 % at 48x, queries coded too",
    "K2c": "Random hyperplanes (LSH) keep 89 % at 48x, queries coded too",
    "R": "More models make the compressed vector more robust: of nine claims",
}
"""The paper's main claims in plain words, as README shows them; a letter stands for all claims that begin with it."""
HEAD = """# Claims

`ccq publish` writes this page: every claim of [claims.yaml](claims.yaml), whose head explains the verdicts. A number is a
mean over the profile's tasks with its 95 % interval. Brackets say what it is: a *difference* of nDCG@10, a *retention*, a
rank *correlation* over pairs of models, or a ratio of losses over *seeds*. *Concat* is the paper's: equal shares."""


def publish(profile: str = "default") -> list[Path]:
    """Write the outputs of a finished run into the notebooks, all of them or none; returns the files written."""
    job, texts = Run(profile), {}
    stale = [path.stem for path in job.notebooks if not job.up_to_date(path)]
    if stale:
        raise StudyError(f"not run, or changed since: {', '.join(stale)}; run `ccq run --profile {profile}` first")
    found = values()
    for path in job.notebooks:
        notebook = with_outputs(read_notebook(path), read_notebook(job.executed / path.name), path.stem)
        for cell in notebook.cells:
            cell.source = cell.source if cell.cell_type == "code" else filled(cell.source, found)
        texts[path] = nbformat.writes(notebook) + "\n"
        if (size := len(texts[path].encode())) > LIMIT:
            raise StudyError(f"{path.stem} would have {size:,} bytes, more than {LIMIT:,}; save smaller figures")
    readme = paths.ROOT / "README.md"
    if readme.is_file():
        texts[readme] = filled(readme.read_text(encoding="utf-8"), found)
        texts[paths.ROOT / "data" / "CLAIMS.md"] = ledger(tables(run_report.CLAIMS, "claim"))
    for path, text in texts.items():
        with write_atomically(path, "w") as file:
            file.write(text)
    return list(texts)


def filled(text: str, values: dict[str, str]) -> str:
    """The text with every marker filled in; ``StudyError`` names one that has no value."""

    def fill(marker):
        if marker[2] not in values:
            raise StudyError(f"nothing tells {marker[2]}; CCQ_CACHE=build/cold ccq run --force makes a cold run of all")
        return f"{marker[1]}{values[marker[2]]}{marker[3]}"

    return re.sub(r"(<!-- ((?:time|claim|table):\w+|memory) -->).*?(<!-- end -->)", fill, text, flags=re.DOTALL)


def values() -> dict[str, str]:
    """What the markers of a text may name: a text for each; times are of the last cold run of the default profile."""
    claims = tables(run_report.CLAIMS, "claim")
    rows = [[f"{words} ({name})", *(_cell(table, name) for table in claims.values())] for name, words in MAIN.items()]
    main = figures.markdown(pd.DataFrame(rows, columns=["claim", *claims]))
    found = {"table:claims": f"\n{main}\n"} if claims else {}
    for name in dict.fromkeys(claim for table in claims.values() for claim in table.index):
        cells = [f"`{of}` {_cell(table, name)}" for of, table in claims.items() if name in table.index]
        found[f"claim:{name}"] = "; ".join(cells)
    if cold := run_report.read(paths.results_folder("default")).get("cold_run"):
        taken = {"study": cold["seconds"], **{name[:2]: seconds for name, (seconds, _) in cold["notebooks"].items()}}
        found |= {f"time:{at}": f"{s / 60:.0f} minutes" if s >= 90 else f"{s:.0f} seconds" for at, s in taken.items()}
        found["memory"] = f"{max(peak or 0 for _, peak in cold['notebooks'].values()) / 1000:.1f} GB"
    return found


def tables(name: str, index: str | None = None) -> dict[str, pd.DataFrame]:
    """A results table of every profile of ``PROFILES`` that has it, by profile."""
    found = {profile: paths.results_folder(profile) / name for profile in PROFILES}
    return {profile: pd.read_csv(path, index_col=index) for profile, path in found.items() if path.is_file()}


def ledger(claims: dict[str, pd.DataFrame]) -> str:
    """data/CLAIMS.md: how many claims came out how, then all of them by notebook with what each profile's tables say."""
    parts, by_notebook, kinds = [HEAD], {}, {}
    for one in load_claims():
        row = [f"**{one.id}** {one.statement}", f"{one.setting} ({one.test.statistic} {one.holds})"]
        by_notebook.setdefault(one.notebook, []).append([*row, *(_cell(table, one.id) for table in claims.values())])
        whose = "the paper's claims" if one.source.startswith("paper") else "this study's own"
        whose = "the paper's open questions" if re.search("open question|next check", one.source) else whose
        kinds.setdefault(whose, []).append(one.id)
    for name, table in claims.items():
        counts = [f"* {kind}: {_counts(table['verdict'].reindex(ids).dropna())}" for kind, ids in kinds.items()]
        parts.append("\n".join([f"Profile `{name}`:", "", *counts]))
    for notebook, rows in sorted(by_notebook.items()):
        table = pd.DataFrame(rows, columns=["claim", "setting (the claim holds where)", *claims])
        parts.append(f"## {notebook}\n\n{figures.markdown(table)}")
    return "\n\n".join(parts) + "\n"


def _counts(verdicts):
    return ", ".join(f"{state} in {count}" for state in STATES if (count := (verdicts == state).sum())) or "not run"


def _cell(table, claim):
    """Number, interval and verdict of one claim; of a letter's claims how many came out how."""
    if claim not in table.index:
        return _counts(table["verdict"][table.index.str.fullmatch(rf"{claim}\d+\w*")])
    row = table.loc[claim].fillna({"note": ""})
    number = "" if pd.isna(row["measured"]) else f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}] "
    return f"{number}**{row['verdict']}**{f' ({note})' if (note := row['note']) else ''}"


def with_outputs(source, executed, name: str):
    """A notebook with its run's outputs, streams joined; ``StudyError`` for an error, a warning, a path of this machine."""
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    source.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for count, (cell, ran) in enumerate(zip(code_cells(source), code_cells(executed), strict=True), start=1):
        cell.execution_count, cell.outputs = count, []
        for output in ran.outputs:
            last = cell.outputs[-1] if cell.outputs else {}
            if output.output_type == "stream" and output.name == last.get("name"):
                last.text += output.text
            elif output.get("name") == "stderr" and not output.text.strip():
                continue
            elif "application/vnd.jupyter.widget-view+json" not in output.get("data", {}):  # its state is gone
                cell.outputs.append(output)
        for output in cell.outputs:
            _check(output, f"{name}, cell [{count}]")
            if "execution_count" in output:
                output.execution_count = count
    return source


def _check(output, place):
    if output.output_type == "error":
        raise StudyError(f"{place} ended in {output.ename}: {output.evalue}")
    if output.get("name") == "stderr":
        raise StudyError(f"{place} wrote to stderr: {output.text.strip().splitlines()[0][:200]}")
    folders = "|".join(re.escape(folder) for folder in {str(paths.ROOT), str(Path.home()), sys.prefix} - {"/"})
    data = output.get("data", {})
    texts = (str(data[kind]) for kind in data if kind not in ("image/png", "image/jpeg"))
    for text in (output.get("text", ""), *texts):
        if found := re.search(rf"(?<![\w.])({folders})(?![\w-])", text):
            raise StudyError(f"{place} shows a path of this machine: {text[found.start() : found.end() + 40]!r}")
