"""Text without judgements, for training and calibration: passages, and (question, answer) pairs for trained members."""

from dataclasses import dataclass

import numpy as np

from ccq_utils.common.cache import digest
from ccq_utils.common.errors import StudyError
from ccq_utils.data import hub
from ccq_utils.data.docstrings import read_library
from ccq_utils.data.profile import TextSpec
from ccq_utils.data.text_files import read_rows, shows


@dataclass(frozen=True)
class Corpora:
    """Disjoint text for each use: no document gives passages to two of ``training``, ``calibration``, ``validation``.

    ``pairs`` are (short, long) texts of documents outside the last two: a docstring's summary and body, a passage's title
    and first sentence with the rest. ``groups`` names the library (or ``text``) of each calibration passage.
    """

    training: list[str]
    calibration: list[str]
    validation: list[str]
    pairs: list[tuple[str, str]]
    groups: list[str]

    def fingerprint(self) -> str:
        """sha256 over the training text."""
        return digest(self.training, self.pairs)


def load_corpora(spec: TextSpec, seed: int) -> Corpora:
    """Read, cut and split the text that a profile names; documents are taken in an order that ``seed`` draws."""
    wanted = {"validation": spec.validation, "calibration": spec.calibration, "training": spec.passages}
    found = {name: [] for name in wanted}
    pairs, groups = [], []
    for group, short, long in _in_seeded_order(spec, seed):
        use = next((name for name, size in wanted.items() if len(found[name]) < size), None)
        if not (shows(short) and shows(long)):  # a title alone
            continue
        words = long.split()
        if use in ("training", None):
            pairs.append((short, " ".join(words[: 2 * spec.max_words])))
        if use is None and len(pairs) >= spec.pairs:
            break
        if use is not None:
            cuts = [words[start : start + spec.max_words] for start in range(0, 3 * spec.max_words, spec.max_words)]
            passages = [" ".join(cut) for cut in cuts if len(cut) >= spec.min_words]
            found[use] += passages[: wanted[use] - len(found[use])]
        if use == "calibration":
            groups += [group] * (len(found[use]) - len(groups))
    for name, size in wanted.items():
        if len(found[name]) < size:
            few = f"only {len(found[name])} {name} passages of {spec.min_words} words or more, {size} were asked for"
            raise StudyError(f"training text gives {few}; lower training.passages or name more text")
    return Corpora(**found, pairs=pairs, groups=groups)


def _in_seeded_order(spec, seed):
    """(group, short text, long text) of one document after another; a stream is read no further than it is taken."""
    kind, _, place = spec.source.partition(":")
    if kind == "hub":
        yield from (_title_and_rest(title, text) for title, text in hub.stream(spec, seed))
        return
    if kind == "docstrings":
        first = {}
        for entry in (entry for library in spec.libraries for entry in read_library(library)):
            if len(entry.body.split()) >= spec.min_words:
                first.setdefault(entry.body, (entry.library, entry.summary, entry.body))
        documents = list(first.values())
    else:
        rows = read_rows(place, "training text")
        documents = [_title_and_rest(title, text) for _, _, title, text in rows if shows(title + text)]
    for index in np.random.default_rng(seed).permutation(len(documents)):
        yield documents[index]


def _title_and_rest(title, text):
    head, _, rest = text.partition(". ")
    return "text", f"{title} {head}".strip(), rest or head
