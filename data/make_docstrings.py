"""Makes docstrings.json.xz of the libraries that are installed and prints its sha256, for ccq_utils/data/docstrings.py.

Another version of a library is another text: the tables of all profiles that read it must then be made again.
"""

import hashlib
import importlib.metadata
import json
import lzma
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from ccq_utils.common.files import write_atomically
from ccq_utils.data.docstrings import SHIPPED
from ccq_utils.data.read_docstrings import installed_entries, rows

LIBRARIES = {
    "numpy": ("numpy", "BSD-3-Clause", "numpy/numpy"),
    "scipy": ("scipy", "BSD-3-Clause", "scipy/scipy"),
    "pandas": ("pandas", "BSD-3-Clause", "pandas-dev/pandas"),
    "sklearn": ("scikit-learn", "BSD-3-Clause", "scikit-learn/scikit-learn"),
    "sympy": ("sympy", "BSD-3-Clause", "sympy/sympy"),
    "torch": ("torch", "BSD-3-Clause", "pytorch/pytorch"),
    "matplotlib": ("matplotlib", "Matplotlib (PSF-based)", "matplotlib/matplotlib"),
    "networkx": ("networkx", "BSD-3-Clause", "networkx/networkx"),
    "seaborn": ("seaborn", "BSD-3-Clause", "mwaskom/seaborn"),
    "sentence_transformers": ("sentence-transformers", "Apache-2.0", "huggingface/sentence-transformers"),
}
"""What is shipped: package -> distribution, licence of its text, source on GitHub."""
CITING = ("numpy", "scipy", "pandas", "sklearn")
"""The libraries of one corpus, whose *See Also* may name each other's entries."""


def make(path: Path, libraries: dict) -> str:
    """Write the file, the same bytes from the same text; returns its sha256."""
    os.environ["PYTHONHASHSEED"] = "0"  # some texts name the members of a set
    fresh = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}  # what else is imported changes some texts
    with ProcessPoolExecutor(1, **fresh) as pool:
        entries = dict(zip(libraries, pool.map(installed_entries, libraries), strict=True))
    citing = {library: entries.pop(library) for library in CITING if library in libraries}
    content = {}
    for library, found in (rows(citing) | rows(entries)).items():
        distribution, licence, source = libraries[library]
        facts = importlib.metadata.distribution(distribution)
        licences = [file for file in facts.files if file.name.upper().startswith(("LICENSE", "COPYING"))]
        content[library] = {
            "version": facts.version.partition("+")[0],
            "licence": licence,
            "licence_text": min(licences, key=lambda file: len(file.parts)).read_text(),
            "source": f"https://github.com/{source}",
            "entries": found,
        }
    packed = lzma.compress(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), preset=9)
    with write_atomically(path) as file:
        file.write(packed)
    return hashlib.sha256(packed).hexdigest()


if __name__ == "__main__":
    print(make(SHIPPED, LIBRARIES))
