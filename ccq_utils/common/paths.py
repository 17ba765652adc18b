"""Where things live: the checkout's folders, found from the package so that any working directory serves."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("CCQ_ROOT") or Path(__file__).resolve().parents[2])
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
BUILD = ROOT / "build"


def cache_folder() -> Path:
    """Embeddings and trained models, by content; ``CCQ_CACHE`` moves it."""
    return Path(os.environ.get("CCQ_CACHE") or ROOT / "data" / "cache")


def results_folder(profile: str, output: str = "") -> Path:
    """The tables of a profile: ``data/results/PROFILE``, or ``OUTPUT/results`` where an output folder is given."""
    return Path(output).resolve() / "results" if output else ROOT / "data" / "results" / profile


def figures_folder(profile: str, output: str = "") -> Path:
    """The figures of a profile: ``figures/PROFILE``, or ``OUTPUT/figures`` where an output folder is given."""
    return Path(output).resolve() / "figures" if output else ROOT / "figures" / profile


def executed_folder(profile: str, output: str = "") -> Path:
    """The executed notebooks of a profile: ``build/PROFILE``, or ``OUTPUT/notebooks`` where an output folder is given."""
    return Path(output).resolve() / "notebooks" if output else BUILD / profile


def shown(path: Path) -> str:
    """A path as the reader would type it: relative where it lies below the working directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
