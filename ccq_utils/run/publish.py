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
        if (size := len(texts[path].encode())) > LIMIT:
            raise StudyError(f"{path.stem} would have {size:,} bytes, more than {LIMIT:,}; save smaller figures")
    readme = paths.ROOT / "README.md"
    if readme.is_file():
        folders = [job.results, paths.results_folder("wiki")]
        parts = {"claims": claims_markdown(folders), "goals": goals_markdown(folders)}
        markers = re.compile("(<!-- (claims|goals) of the default profile -->\n).*?(<!-- end of)", re.DOTALL)
        text = with_times(readme.read_text(encoding="utf-8"), cold)
        texts[readme] = markers.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)
    for path, text in texts.items():
        with write_atomically(path, "w") as file:
            file.write(text)
    return list(texts)


def with_times(text: str, cold: dict | None) -> str:
    """The text with its times filled in: ``<!-- time:study -->10 minutes<!-- end -->``.

    ``study`` is the whole run, ``03`` a notebook, ``memory`` the most that one of them held; all of the last cold run.
    """
    values = {}
    if cold:
        times = {"study": cold["seconds"], **{name[:2]: seconds for name, (seconds, _) in cold["notebooks"].items()}}
        values = {name: f"{s / 60:.0f} minutes" if s >= 90 else f"{s:.0f} seconds" for name, s in times.items()}
        values["memory"] = f"{max(peak or 0 for _, peak in cold['notebooks'].values()) / 1000:.1f} GB"

    def fill(marker):
        if marker[2] not in values:
            raise StudyError(f"no cold run tells time:{marker[2]}; CCQ_CACHE=build/cold ccq run --force makes one")
        return f"{marker[1]}{values[marker[2]]}{marker[3]}"

    return re.sub(r"(<!-- time:(study|memory|\d\d) -->).*?(<!-- end -->)", fill, text)


def _tables(folders, name, index):
    """One table of several profiles, by profile."""
    found = [folder / name for folder in folders if (folder / name).is_file()]
    return {path.parent.name: pd.read_csv(path).set_index(index) for path in found}


def _rows(head, rows):
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def goals_markdown(folders: Iterable[Path]) -> str:
    """Retention at each compression factor of several profiles: the goal, ours in both places, the best other."""
    found, places = _tables(folders, "07_goals.csv", "factor"), ("general text", "own corpus")
    head = [f"`{name}`: {what}" for name in found for what in (*places, "best other method")]
    rows = []
    for factor, goal in next(iter(found.values()))["goal"].items():
        rows.append([f"{factor}x", f"{goal:g}"])
        for row in (table.loc[factor] for table in found.values() if factor in table.index):
            rows[-1] += [f"**{row[place]:.3f}**" if row[place] >= goal else f"{row[place]:.3f}" for place in places]
            rows[-1].append(f"{row['best_other_retention']:.3f} ({row['best_other']})")
    return "\n".join(_rows(["compression", "goal", *head], rows))


def claims_markdown(folders: Iterable[Path]) -> str:
    """The claims of several profiles, a profile per column: number, interval, verdict; then in words which ones hold."""
    found = _tables(folders, run_report.CLAIMS, "claim")
    rows, held = [], {}
    sources = {claim.id: claim.source for claim in load_claims()}
    for claim, about in next(iter(found.values())).iterrows():
        beside = {name: table.loc[claim].fillna({"note": ""}) for name, table in found.items() if claim in table.index}
        cells = [_cell(beside[name]) if name in beside else "" for name in found]
        rows.append([f"**{claim}** {about['statement']} ({about['expected']})", *cells])
        states = {name: _state(row) for name, row in beside.items()}
        best = min(states.values(), key=STATES.index)
        where = [f"`{name}`" for name, state in states.items() if state == best]
        shown = claim if len(where) == len(found) else f"{claim} ({', '.join(where)})"
        held.setdefault(_whose(sources[claim]), {}).setdefault(best, []).append(shown)
    words = []
    for whose, states in held.items():
        parts = [f"{state}: {', '.join(states[state])}" for state in STATES if state in states]
        words.append(f"* **{whose}**: {'; '.join(parts)}.")
    return "\n".join([*_rows(["claim", *(f"`{name}`" for name in found)], rows), "", *words])


def _cell(row):
    note = f" ({row['note']})" if row["note"] else ""
    number = f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}] "
    return f"{row['verdict']}{note}" if pd.isna(row["measured"]) else f"{number}**{row['verdict']}**{note}"


def _state(row):
    """A verdict; "not reproduced" without a note is contradicted: the whole interval lies where the claim is not."""
    if row["verdict"] != "not reproduced":
        return row["verdict"]
    return "not decided" if row["note"] else "contradicted"


def _whose(source):
    if re.search("open question|next check", source):
        return "The paper's open questions and next checks"
    return "The paper's claims" if source.startswith("paper") else "This study's own"


def with_outputs(source, executed, name: str):
    """A notebook with the outputs of its run, without traces of the machine; raises ``StudyError`` as ``publish`` does.

    Adjacent pieces of one stream become one. Widgets are left out, whose state is gone with the kernel.
    """
    source.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for count, (cell, ran) in enumerate(zip(code_cells(source), code_cells(executed), strict=True), start=1):
        cell.execution_count, cell.outputs = count, []
        for output in ran.outputs:
            last = cell.outputs[-1] if cell.outputs else {}
            if output.output_type == "stream" and output.name == last.get("name"):
                last.text += output.text
            elif WIDGET not in output.get("data", {}) and (output.get("name") != "stderr" or output.text.strip()):
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
    data = [str(content) for kind, content in output.get("data", {}).items() if kind not in PICTURES]
    for text in [output.get("text", ""), *data]:
        if found := re.search(rf"(?<![\w.])({folders})(?![\w-])", text):
            raise StudyError(f"{place} shows a path of this machine: {text[found.start() : found.end() + 40]!r}")
