"""Turns the executed notebooks of a finished run into the ones that are committed: outputs kept, machine removed.

The claims table of the README is written from the run's own table, so that no number there is typed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.run.runner import Run
from ccq_utils.study.claims import load_ledger

BESIDE = ("wiki",)
"""Profiles whose claims stand beside those of the published one in the README."""

CLAIMS_TABLE, GOALS_TABLE, SPEED_TABLE = "06_claims.csv", "05_goals.csv", "08_goals.csv"
LIMIT = 1_500_000
"""Bytes that a committed notebook may have."""

CLAIMS = re.compile(r"(<!-- claims of the default profile -->\n).*?(<!-- end of claims -->)", re.DOTALL)
GOALS = re.compile(r"(<!-- goals of the default profile -->\n).*?(<!-- end of goals -->)", re.DOTALL)
SPEED = re.compile(r"(<!-- speed, default profile -->\n).*?(<!-- end of speed -->)", re.DOTALL)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
TIMING = ("papermill", "execution", "ExecuteTime")


def publish(profile: str = "default") -> list[Path]:
    """Copy a finished run's executed notebooks over the sources, all of them or none; returns the files written.

    Raises
    ------
    StudyError : a notebook is not finished, changed since, too large, or its outputs hold an error, a warning or a
        path of this machine.
    """
    job = Run(profile)
    stale = [path.stem for path in job.notebooks if not job.up_to_date(path)]
    if stale:
        raise StudyError(f"not run, or changed since: {', '.join(stale)}; run `ccq run --profile {profile}` first")
    cleaned = {}
    for path in job.notebooks:
        notebook = clean(nbformat.read(job.executed / path.name, as_version=4), path.stem)
        cleaned[path] = nbformat.writes(notebook) + "\n"
        size = len(cleaned[path].encode())
        if size > LIMIT:
            raise StudyError(f"{path.stem} would have {size:,} bytes, more than {LIMIT:,}; save smaller figures")
    readme = paths.ROOT / "README.md"
    if (job.results / CLAIMS_TABLE).is_file() and readme.is_file():
        folders = [paths.results_folder(name) for name in (profile, *BESIDE)]
        text = CLAIMS.sub(
            rf"\g<1>{claims_markdown(folder / CLAIMS_TABLE for folder in folders)}\n\g<2>",
            readme.read_text(encoding="utf-8"),
        )
        goals = goals_markdown(folder / GOALS_TABLE for folder in folders)
        text = GOALS.sub(rf"\g<1>{goals}\n\g<2>", text) if goals else text
        if (job.results / SPEED_TABLE).is_file():
            text = SPEED.sub(rf"\g<1>{speed_markdown(job.results / SPEED_TABLE)}\n\g<2>", text)
        cleaned[readme] = text
    for path, text in cleaned.items():
        path.write_text(text, encoding="utf-8")
    return list(cleaned)


def goals_markdown(tables: Iterable[Path]) -> str:
    """Retention at each compression factor of several profiles as Markdown: the goal, ours in both places, the best other."""
    tables = list(tables)
    found = {path.parent.name: pd.read_csv(path).set_index("factor") for path in tables if path.is_file()}
    if not found:
        return ""
    head = [f"`{name}`: {what}" for name in found for what in ("general text", "own corpus", "best other method")]
    lines = [f"| compression | goal | {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) + 1)]
    for factor, goal in next(iter(found.values()))["goal"].items():
        cells = []
        for table in (table for table in found.values() if factor in table.index):
            row = table.loc[factor]
            ours = {place: row[place] for place in ("general text", "own corpus")}
            cells += [f"**{kept:.3f}**" if kept >= goal else f"{kept:.3f}" for kept in ours.values()]
            cells.append(f"{row['best_other_retention']:.3f} ({row['best_other']})")
        lines.append(f"| {factor}x | {goal:g} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _beaten(tables)])


def _beaten(tables):
    """Where another method is significantly better than byte blocks, in one sentence."""
    found = []
    for path in (path.with_name("05_peers.csv") for path in tables):
        if path.is_file():
            peers = pd.read_csv(path)
            found += [
                f"{row.method} ({row.fitted_on}, {row.factor}x, {row.task} of `{path.parent.name}`: {-row.ahead:+.3f})"
                for row in peers[peers["verdict"] == "worse"].itertuples()
            ]
    who = "; ".join(found) or "no method on any task"
    return f"Significantly better than byte blocks (nDCG@10, paired per query, Holm): {who}."


def speed_markdown(table: Path, folder: Path | None = None) -> str:
    """Goals of speed of a run as Markdown, and those of the committed tables of ``ccq bench`` (``folder``, for tests)."""
    from ccq_utils.analyses import bench  # its parts take seconds to import

    tables = [pd.read_csv(table)]
    if (full := bench.committed("search", folder or bench.FOLDER)) is not None:
        tables.append(bench.goals([full]))
    lines = ["| what | way | held against | times as fast | goal | over its floor |", "| --- |" + " --- |" * 5]
    for row in pd.concat(tables).drop_duplicates("what", keep="last").itertuples():
        ratio = f"**{row.ratio:.1f}**" if row.reached == "yes" else f"{row.ratio:.1f}"
        floor = "" if pd.isna(row.above_floor) else f"{row.above_floor:.1f}"
        lines.append(f"| {row.what} | {row.way} | {row.against} | {ratio} | {row.goal:g} | {floor} |")
    return "\n".join(lines)


def claims_markdown(tables: Iterable[Path]) -> str:
    """The claims of several profiles side by side as Markdown, a profile per column: number, interval, verdict."""
    found = {path.parent.name: pd.read_csv(path).set_index("claim") for path in tables if path.is_file()}
    lines = [f"| claim | {' | '.join(f'`{name}`' for name in found)} |", "| --- |" + " --- |" * len(found)]
    for claim, row in next(iter(found.values())).iterrows():
        cells = [_cell(table.loc[claim]) if claim in table.index else "" for table in found.values()]
        lines.append(f"| **{claim}** {row['statement']} ({row['expected']}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(found)])


def _summary(found):
    """Which claims hold on which text, in words. Contradicted: the whole interval lies where the claim is not."""
    groups = {claim.id: _whose(claim.source) for claim in load_ledger()}
    for whose in dict.fromkeys(groups.values()):
        held = {words: [] for words in STATES}
        for claim in (claim for claim in next(iter(found.values())).index if groups[claim] == whose):
            states = {name: _state(table.loc[claim]) for name, table in found.items() if claim in table.index}
            best = next(words for words in STATES if words in states.values())
            where = [f"`{name}`" for name, state in states.items() if state == best]
            everywhere = len(where) == len(found)
            held[best].append(claim if everywhere else f"{claim} ({', '.join(where)})")
        shown = [f"{words}: {', '.join(claims)}" for words, claims in held.items() if claims]
        yield f"* **{whose}**: {'; '.join(shown)}."


def _whose(source):
    if "open question" in source or "next check" in source:
        return "The paper's open questions and next checks"
    return "The paper's claims" if source.startswith("paper") else "This study's own"


STATES = ("reproduced", "contradicted", "partly", "not decided", "not testable here")
"""What a text says of a claim, the most telling first."""


def _state(row):
    """A verdict; one of "not reproduced" says either that the claim is contradicted or that the interval leaves it open."""
    if row["verdict"] != "not reproduced":
        return row["verdict"]
    return "not decided" if isinstance(row["note"], str) and row["note"] else "contradicted"


def _cell(row):
    note = f" ({row['note']})" if isinstance(row["note"], str) and row["note"] else ""
    if pd.isna(row["measured"]):
        return f"{row['verdict']}{note}"
    return f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}] **{row['verdict']}**{note}"


def clean(notebook, name: str):
    """The notebook without traces of this machine and this run; raises ``StudyError`` as ``publish`` does."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        for key in TIMING:
            cell.metadata.pop(key, None)
    for count, cell in enumerate(code, start=1):
        cell.outputs = [output for output in _joined(cell.outputs) if not (_empty_stderr(output) or _is_widget(output))]
        cell.execution_count = count
        for output in cell.outputs:
            _check(output, f"{name}, cell [{count}]")
            if "execution_count" in output:
                output.execution_count = count
    return notebook


def _joined(outputs):
    """Adjacent pieces of one stream as one output; of a progress bar only its last state stays."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            lines = output.text.split("\n")
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return joined


def _empty_stderr(output):
    return output.output_type == "stream" and output.name == "stderr" and not output.text.strip()


def _is_widget(output):
    """A progress bar of a library: its state is gone with the kernel, and its text is no result."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _check(output, place):
    if output.output_type == "error":
        raise StudyError(f"{place} ended in {output.ename}: {output.evalue}")
    if output.output_type == "stream" and output.name == "stderr":
        raise StudyError(f"{place} wrote to stderr: {output.text.strip().splitlines()[0][:200]}")
    for text in _texts(output):
        found = _machine_paths().search(text)
        if found:
            raise StudyError(f"{place} shows a path of this machine: {text[found.start() : found.end() + 40]!r}")


def _texts(output):
    if output.output_type == "stream":
        yield output.text
    for kind, content in output.get("data", {}).items():
        if kind in ("image/png", "image/jpeg"):  # base64 is no text
            continue
        yield content if isinstance(content, str) else str(content)


def _machine_paths():
    folders = {str(paths.ROOT), str(Path.home()), sys.prefix} - {"/"}
    return re.compile("|".join(rf"(?<![\w.]){re.escape(folder)}(?![\w-])" for folder in sorted(folders)))
