"""Progress bars for people who run a notebook by hand; silent under ``ccq run``, which has a line of its own."""

import os

from tqdm.auto import tqdm


def progress(items, description: str, total: int | None = None):
    """``items`` with a bar that leaves nothing behind; ``TQDM_DISABLE=1`` (set by ``ccq run``) switches it off."""
    return tqdm(items, desc=description, total=total, leave=False, disable=os.environ.get("TQDM_DISABLE") == "1")
