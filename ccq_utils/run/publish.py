"""Puts the outputs of a finished run into the committed notebooks, and its numbers into README.md and data/CLAIMS.md.

Outputs lose what tells of the machine. A text holds markers, ``<!-- NAME -->...<!-- end -->``, between which a number is put,
so that none is typed: ``time:03`` (a notebook), ``time:study``, ``memory``, ``claim:K2``, ``table:claims``, ``table:bytes``.
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
from ccq_utils.study.claims import load_claims

LIMIT = 1_500_000
"""Bytes that a committed notebook may have."""
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")  # base64 is no text
PROFILES = ("small", "default")
"""Profiles whose tables stand side by side, in this order, where they are committed."""
STATES = ("holds", "does not hold", "partly", "undecided", "not testable here")
MAIN = {
    "K1": "Small models joined beat a larger one",
    "K1b": "Joined models beat the best of them",
    "K3": "Models after the second add little",
    "M2": "The decoder keeps about 98 % at moderate compression",
    "D1": "One layer is better than more",
    "K2": "Decoder and quantizer keep 89 % at 48x, queries coded too",
    "K2c": "Random hyperplanes (LSH) keep 89 % at 48x, queries coded too",
    "R": "More models make the compressed vector more robust",
}
"""The paper's main claims in plain words, as README shows them; a letter stands for all claims that begin with it."""
CLAIMS = """# Claims

`ccq publish` writes this page: every claim of [claims.yaml](claims.yaml), as the committed tables judge it. *Concat* is the
paper's: equal shares. A number is a mean over tasks, with a 95 % interval that resamples tasks, then queries. It *holds* where
the whole interval lies where the claim says, corrected (Holm) within a notebook; it *does not hold* where the interval
contradicts; else it is *undecided*, or *partly* where tasks differ."""


def publish(profile: str = "default") -> list[Path]:
    """Write the outputs of a finished run into the notebooks, all of them or none; returns the files written.

    Raises:
        StudyError: A notebook is not finished, its code changed since, it is too large, its outputs hold an error, a
            warning or a path of this machine, or a text has a marker for which the tables and the last cold run tell nothing.
    """
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
        texts[paths.ROOT / "data" / "CLAIMS.md"] = ledger(tables())
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


def values(folders: list[Path] | None = None) -> dict[str, str]:
    """What the markers of a text may name; times are those of the last cold run of the default profile."""
    claims, cold = tables(folders), run_report.read(paths.results_folder("default")).get("cold_run")
    known = {f"table:{name}": make(claims) for name, make in {"claims": main_claims}.items() if claims}
    known |= {f"claim:{name}": _beside(claims, name) for table in claims.values() for name in table.index}
    sizes = tables(folders, "07_more_per_byte.csv", None)
    known |= {"table:bytes": per_byte(sizes)} if sizes else {}
    return known | (times(cold) if cold else {})


def times(cold: dict) -> dict[str, str]:
    """The whole run (``time:study``), its notebooks (``time:03``) and the most ``memory`` that one of them held, in words."""
    seconds = {"study": cold["seconds"], **{name[:2]: taken for name, (taken, _) in cold["notebooks"].items()}}
    words = {f"time:{name}": f"{s / 60:.0f} minutes" if s >= 90 else f"{s:.0f} seconds" for name, s in seconds.items()}
    return words | {"memory": f"{max(peak or 0 for _, peak in cold['notebooks'].values()) / 1000:.1f} GB"}


def tables(folders: list[Path] | None = None, name=run_report.CLAIMS, index="claim") -> dict[str, pd.DataFrame]:
    """One table of every profile that has it, by profile."""
    paths_ = [(folder / name) for folder in folders or map(paths.results_folder, PROFILES)]
    return {path.parent.name: pd.read_csv(path, index_col=index) for path in paths_ if path.is_file()}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def main_claims(claims: dict[str, pd.DataFrame]) -> str:
    """The paper's main claims, a row each, with what each profile's tables say of them."""
    rows = [[f"{words} ({name})", *(_cell(table, name) for table in claims.values())] for name, words in MAIN.items()]
    return f"\n{markdown(['claim', *(f'`{name}`' for name in claims)], rows)}\n"


def ledger(claims: dict[str, pd.DataFrame]) -> str:
    """data/CLAIMS.md: how many claims hold, then all of them by notebook with what each profile's tables say."""
    entries = load_claims()
    kinds = {claim.id: _whose(claim.source) for claim in entries}
    parts = [CLAIMS, "\n".join(f"* `{name}`: {_counts(table, kinds)}" for name, table in claims.items())]
    for notebook in dict.fromkeys(claim.notebook for claim in entries):
        rows = [
            [
                f"**{one.id}** {one.statement}",
                f"{one.setting}; {one.holds}",
                *(_cell(t, one.id) for t in claims.values()),
            ]
            for one in entries
            if one.notebook == notebook
        ]
        head = ["claim", "measured on what; it holds", *(f"`{name}`" for name in claims)]
        parts.append(f"## {notebook}\n\n{markdown(head, rows)}")
    return "\n\n".join(parts) + "\n"


def _counts(table, kinds):
    """How many of the paper's claims, of its open questions and of this study's own came out how."""
    words = []
    for kind in dict.fromkeys(kinds.values()):
        found = [table["verdict"].get(claim) for claim in kinds if kinds[claim] == kind]
        words.append(f"{kind}: " + ", ".join(f"{found.count(state)} {state}" for state in STATES if state in found))
    return "; ".join(words) + "."


def _cell(table, claim):
    """Number, interval and verdict of one claim; of a letter's claims how many came out how."""
    if claim not in table.index:
        found = table["verdict"][table.index.str.fullmatch(rf"{claim}\d+\w*")].tolist()
        return ", ".join(f"{found.count(state)} of {len(found)} {state}" for state in STATES if state in found)
    row = table.loc[claim].fillna({"note": ""})
    number = "" if pd.isna(row["measured"]) else f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}] "
    return f"{number}**{row['verdict']}**{f' ({note})' if (note := row['note']) else ''}"


def _beside(claims, claim):
    cells = {name: _cell(table, claim) for name, table in claims.items() if claim in table.index}
    return "; ".join(f"{cell} on `{name}`" for name, cell in cells.items())


def _whose(source):
    if re.search("open question|next check", source):
        return "the paper's open questions"
    return "the paper's claims" if source.startswith("paper") else "this study's own"


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
