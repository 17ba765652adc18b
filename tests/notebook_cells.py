"""Functions that the notebooks' cells define, for tests."""

import ast
import itertools
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd

from ccq_utils.common import paths


def functions_of(name, **given):
    """The functions and constants that a notebook's cells define, with ``given`` in the place of what it has measured."""
    kept = []
    for cell in nbformat.read(paths.ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            kept += [
                node
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.FunctionDef)
                or isinstance(node, ast.Assign)
                and getattr(node.targets[0], "id", "").isupper()
            ]
    names = {"np": np, "pd": pd, "itertools": itertools} | given
    exec(compile(ast.Module(kept, []), name, "exec"), names)
    return SimpleNamespace(**names)
