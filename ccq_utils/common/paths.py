"""Where things live: the checkout's folders, found from the package so that any working directory serves."""

import os
from pathlib import Path

from ccq_utils.common.errors import StudyError

ROOT = Path(os.environ.get("CCQ_ROOT") or Path(__file__).resolve().parents[2])
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
BUILD = ROOT / "build"


def cache_folder() -> Path:
    """Embeddings and trained models, by content; ``CCQ_CACHE`` moves it."""
    return Path(os.environ.get("CCQ_CACHE") or ROOT / "data" / "cache")


def folders(profile: str, output: str = "") -> tuple[Path, Path, Path]:
    """Folders of a profile's tables, figures and executed notebooks: of the checkout, or in ``output`` where it is given."""
    if output:
        return tuple(place_of(output, "output").resolve() / kind for kind in ("results", "figures", "notebooks"))
    return results_folder(profile), ROOT / "figures" / profile, BUILD / profile


def results_folder(profile: str) -> Path:
    """The tables of a profile in the checkout."""
    return ROOT / "data" / "results" / profile


def shown(path: Path) -> str:
    """A path as the reader would type it: relative where it lies below the working directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def place_of(value: Path | str, key: str) -> Path:
    """A path as it was given, ``~`` expanded; ``StudyError`` names ``key`` where it is something else."""
    if not isinstance(value, str | Path):
        raise StudyError(f"{key}: {value!r:.80} is no path; expected is a string")
    return Path(os.path.expanduser(value))
