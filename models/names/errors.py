"""Errors that a user can cause and mend.

The command line prints their message and exits non-zero.
"""

import difflib
from collections.abc import Iterable


class RecsysError(Exception):
    """Base of every error whose message alone is enough for the user to act on."""


class ConfigError(RecsysError):
    """A configuration value, name or flag is not one that this project knows or accepts."""


class DataError(RecsysError):
    """The user's data is missing, damaged or breaks a stated rule."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint such as ``; did you mean 'neumf'?``.

    When nothing is close it names the sorted choices.
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(choices)}"
