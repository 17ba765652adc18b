"""The one error that a user can cause."""


class StudyError(Exception):
    """Says in one line what is wrong, with which value, and what to do; shown without a traceback by ``ccq``."""
