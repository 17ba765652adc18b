"""Puts the outputs of a finished run into the committed notebooks, and its numbers into the README.

Outputs lose what tells of the machine. Claims, goals and times of the README come from the run's tables and report, so that
no number there is typed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically
from ccq_utils.run import report as run_report
from ccq_utils.run.runner import Run, code_cells, read_notebook
from ccq_utils.study.claims import load_claims

BESIDE = ("wiki",)
"""Profiles whose claims stand beside those of the published one in the README."""

GOALS = "07_goals.csv"
LIMIT = 1_500_000
"""Bytes that a committed notebook may have."""

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")  # base64 is no text
STATES = ("reproduced", "contradicted", "partly", "not decided", "not testable here")
"""What a text says of a claim, the most telling first."""


def publish(profile: str = "default") -> list[Path]:
    """Write the outputs of a finished run into the notebooks, all of them or none; returns the files written.

    Raises:
        StudyError: A notebook is not finished, its code changed since, it is too large, its outputs hold an error, a
            warning or a path of this machine, or times are to be written and no run was cold.
    """
    job = Run(profile)
    stale = [path.stem for path in job.notebooks if not job.up_to_date(path)]
    if stale:
        raise StudyError(f"not run, or changed since: {', '.join(stale)}; run `ccq run --profile {profile}` first")
    cold, texts = run_report.read(job.results).get("cold_run"), {}
    for path in job.notebooks:
        notebook = with_outputs(read_notebook(path), read_notebook(job.executed / path.name), path.stem)
        for cell in notebook.cells:
            cell.source = cell.source if cell.cell_type == "code" else with_times(cell.source, cold)
        texts[path] = nbformat.writes(notebook) + "\n"
        size = len(texts[path].encode())
        if size > LIMIT:
            raise StudyError(f"{path.stem} would have {size:,} bytes, more than {LIMIT:,}; save smaller figures")
    readme = paths.ROOT / "README.md"
    if readme.is_file():
        folders = [paths.results_folder(name) for name in (profile, *BESIDE)]
        text = with_times(readme.read_text(encoding="utf-8"), cold)
        text = _between("claims", claims_markdown(folder / run_report.CLAIMS for folder in folders), text)
        texts[readme] = _between("goals", goals_markdown(folder / GOALS for folder in folders), text)
    for path, text in texts.items():
        with write_atomically(path, "w") as file:
            file.write(text)
    return list(texts)


def with_times(text: str, cold: dict | None) -> str:
    """The text with its times filled in: ``<!-- time:study -->10 minutes<!-- end -->``.

    ``study`` is the whole run, ``03`` a notebook, ``memory`` the most that one of them held; all of the last cold run.
    """

    def fill(marker):
        notebooks = cold["notebooks"] if cold else {}
        found = [seconds for name, (seconds, _) in notebooks.items() if name[:2] == marker[2]]
        if not cold or (marker[2].isdecimal() and not found):
            raise StudyError(f"no cold run tells time:{marker[2]}; CCQ_CACHE=build/cold ccq run --force makes one")
        seconds = found[0] if found else cold["seconds"]
        held = max(peak or 0 for _, peak in notebooks.values())
        text = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
        return f"{marker[1]}{f'{held / 1000:.1f} GB' if marker[2] == 'memory' else text}{marker[3]}"

    return re.sub(r"(<!-- time:(study|memory|\d\d) -->).*?(<!-- end -->)", fill, text)


def _between(name, table, text):
    """The text with a table put between its two markers; as it was where there is no table."""
    markers = re.compile(rf"(<!-- {name} of the default profile -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    return markers.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text) if table else text


def goals_markdown(tables: Iterable[Path]) -> str:
    """Retention at each compression factor of several profiles: the goal, ours in both places, the best other."""
    found = {path.parent.name: pd.read_csv(path).set_index("factor") for path in tables if path.is_file()}
    if not found:
        return ""
    head = [f"`{name}`: {what}" for name in found for what in ("general text", "own corpus", "best other method")]
    lines = [f"| compression | goal | {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) + 1)]
    for factor, goal in next(iter(found.values()))["goal"].items():
        cells = []
        for row in (table.loc[factor] for table in found.values() if factor in table.index):
            ours = [row[fitted_on] for fitted_on in ("general text", "own corpus")]
            cells += [f"**{kept:.3f}**" if kept >= goal else f"{kept:.3f}" for kept in ours]
            cells.append(f"{row['best_other_retention']:.3f} ({row['best_other']})")
        lines.append(f"| {factor}x | {goal:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_markdown(tables: Iterable[Path]) -> str:
    """The claims of several profiles side by side, a profile per column: number, interval, verdict."""
    found = {path.parent.name: pd.read_csv(path).set_index("claim") for path in tables if path.is_file()}
    if not found:
        return ""
    lines = [f"| claim | {' | '.join(f'`{name}`' for name in found)} |", "| --- |" + " --- |" * len(found)]
    for claim, row in next(iter(found.values())).iterrows():
        cells = [_cell(table.loc[claim]) if claim in table.index else "" for table in found.values()]
        lines.append(f"| **{claim}** {row['statement']} ({row['expected']}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(found)])


def _cell(row):
    note = f" ({row['note']})" if isinstance(row["note"], str) and row["note"] else ""
    if pd.isna(row["measured"]):
        return f"{row['verdict']}{note}"
    return f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}] **{row['verdict']}**{note}"


def _summary(found):
    """Which claims hold on which text, in words. Contradicted: the whole interval lies where the claim is not."""
    groups = {claim.id: _whose(claim.source) for claim in load_claims()}
    for whose in dict.fromkeys(groups.values()):
        held = {words: [] for words in STATES}
        for claim in (claim for claim in next(iter(found.values())).index if groups[claim] == whose):
            states = {name: _state(table.loc[claim]) for name, table in found.items() if claim in table.index}
            best = next(words for words in STATES if words in states.values())
            where = [f"`{name}`" for name, state in states.items() if state == best]
            held[best].append(claim if len(where) == len(found) else f"{claim} ({', '.join(where)})")
        shown = [f"{words}: {', '.join(claims)}" for words, claims in held.items() if claims]
        yield f"* **{whose}**: {'; '.join(shown)}."


def _whose(source):
    if "open question" in source or "next check" in source:
        return "The paper's open questions and next checks"
    return "The paper's claims" if source.startswith("paper") else "This study's own"


def _state(row):
    """A verdict; one of "not reproduced" says either that the claim is contradicted or that the interval leaves it open."""
    if row["verdict"] != "not reproduced":
        return row["verdict"]
    return "not decided" if isinstance(row["note"], str) and row["note"] else "contradicted"


def with_outputs(source, executed, name: str):
    """A notebook with the outputs of its run, without traces of the machine; raises ``StudyError`` as ``publish`` does."""
    source.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for count, (cell, ran) in enumerate(zip(code_cells(source), code_cells(executed), strict=True), start=1):
        cell.execution_count, cell.outputs = count, _joined(ran.outputs)
        for output in cell.outputs:
            _check(output, f"{name}, cell [{count}]")
            if "execution_count" in output:
                output.execution_count = count
    return source


def _joined(outputs):
    """Adjacent pieces of one stream as one output; widgets are left out, whose state is gone with the kernel."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        elif WIDGET not in output.get("data", {}) and (output.get("name") != "stderr" or output.text.strip()):
            joined.append(output)
    return joined


def _check(output, place):
    if output.output_type == "error":
        raise StudyError(f"{place} ended in {output.ename}: {output.evalue}")
    if output.output_type == "stream" and output.name == "stderr":
        raise StudyError(f"{place} wrote to stderr: {output.text.strip().splitlines()[0][:200]}")
    folders = sorted({str(paths.ROOT), str(Path.home()), sys.prefix} - {"/"})
    machine = re.compile("|".join(rf"(?<![\w.]){re.escape(folder)}(?![\w-])" for folder in folders))
    data = {kind: content for kind, content in output.get("data", {}).items() if kind not in PICTURES}
    for text in [output.get("text", ""), *map(str, data.values())]:
        if found := machine.search(text):
            raise StudyError(f"{place} shows a path of this machine: {text[found.start() : found.end() + 40]!r}")
