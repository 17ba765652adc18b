"""Make the book: copy the committed pages into build/book-source, run the explorer there, build HTML into build/book."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCE, WORK, BOOK = (ROOT / "build" / name for name in ("book-source", "book-work", "book"))
COPIED = (
    "README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
    "data/*.md",
    "data/*.yaml",
    "data/results/*/*.csv",
    "figures/*/*.png",
    "figures/*.png",
    "figures/*.svg",
    "notebooks/*.ipynb",
    "notebooks/README.md",
    "notebooks/profiles/*",
    "notebooks/solutions/*.ipynb",
    "notebooks/book/_*",
    "notebooks/book/_static/*",
)
EXPLORER = """<iframe class="explorer" title="Explorer" src="../explorer.html"></iframe>

<a href="../explorer.html">The explorer alone</a>: one file that works without a network. Below: how it is made."""
PICTURE = re.compile(r"\[?!\[([^\]]*)\]\(https?://[^)]*\)(\]\([^)]*\))?")
FIGURE = re.compile(r'<img alt="[^"]*" (src="([^"]*_images/[0-9a-f]{64}\.png)" />)')
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def copy() -> None:
    """The pages, tables and figures as committed, and no other file of the checkout."""
    for folder in (SOURCE, WORK, BOOK):
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in COPIED:
        for path in filter(Path.is_file, ROOT.glob(pattern)):
            target = SOURCE / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (SOURCE / "README.md").rename(SOURCE / "index.md")


def mend(page: Path) -> None:
    """Drop pictures of other hosts (badges); turn links to what the book does not hold into plain text."""

    def link(found: re.Match) -> str:
        target = (page.parent / found[2]).resolve()
        if target == SOURCE / "README.md":
            return f"[{found[1]}]({os.path.relpath(SOURCE / 'index.md', page.parent)})"
        if (target / "README.md").is_file():
            return f"[{found[1]}]({found[2].rstrip('/')}/README.md)"
        return found[0] if target.is_file() else found[1]

    page.write_text(LINK.sub(link, PICTURE.sub("", page.read_text(encoding="utf-8"))), encoding="utf-8")


def name_repository(config: Path) -> None:
    """Where the book is published from a repository, each notebook's page links to it, to Binder and to Colab."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings["sphinx"]["config"]["html_theme_options"] |= {
            "repository_url": f"https://github.com/{name}",
            "repository_branch": "main",
            "use_repository_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "colab_url": "https://colab.research.google.com",
                "notebook_interface": "jupyterlab",
            },
        }
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")


def main() -> None:
    """Build; a warning about a link or a formula is an error."""
    copy()
    for page in SOURCE.rglob("*.md"):
        mend(page)
    book = SOURCE / "notebooks" / "book"
    name_repository(book / "_config.yml")
    shutil.copytree(book / "_static", SOURCE / "_static", dirs_exist_ok=True)
    run = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--inplace", "--execute", "--log-level=WARN"]
    subprocess.run([*run, "notebooks/explorer.ipynb"], cwd=SOURCE, check=True)
    page = nbformat.read(SOURCE / "notebooks" / "explorer.ipynb", as_version=4)
    page.cells.insert(1, nbformat.v4.new_markdown_cell(EXPLORER))
    nbformat.write(page, SOURCE / "notebooks" / "explorer.ipynb")
    build = [str(Path(sys.executable).parent / "jupyter-book"), "build", str(SOURCE), "--path-output", str(WORK)]
    build += ["--config", str(book / "_config.yml"), "--toc", str(book / "_toc.yml"), "--quiet"]
    subprocess.run([*build, "--warningiserror", "--keep-going"], check=True)
    (WORK / "_build" / "html").rename(BOOK)
    for page in BOOK.rglob("*.html"):  # a figure scrolls in a box of its own and opens at full size
        figure = r'<a class="output figure" href="\2"><img alt="The figure that the cell above draws" \1</a>'
        page.write_text(FIGURE.sub(figure, page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(SOURCE / "notebooks" / "explorer.html", BOOK / "explorer.html")
    print(f"The book: {BOOK.relative_to(ROOT)}/index.html; the explorer alone: {BOOK.relative_to(ROOT)}/explorer.html")


if __name__ == "__main__":
    main()
