"""Reads TensorFlow Serving's monitoring configuration, whose proto no package carries."""

from __future__ import annotations

import re

from serving.wire.errors import StartError

_CONFIG = re.compile(r"prometheus_config\s*:?\s*\{([^}]*)\}\s*")
_ENTRY = re.compile(r'\s*(?:(enable)\s*:\s*(true|false)|(path)\s*:\s*"([^"]*)")\s*[,;]?')


def monitoring_path(path: str, default: str) -> str:
    """The HTTP path of the metrics that a file asks for.

    Args:
      path: a text file: `prometheus_config { enable: true, path: "/metrics" }`.
      default: the HTTP path where the file names none.

    Returns:
      The path; empty where the file switches the metrics off.

    Raises:
      StartError: the file cannot be read or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = re.sub("#.*", "", file.read()).strip()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from error
    if not text:
        return ""
    outer = _CONFIG.fullmatch(text)
    if outer is None or _ENTRY.sub("", outer[1]).strip():
        raise StartError(
            f'{path}: expected prometheus_config {{ enable: true, path: "/..." }}, got: {text[:80]}'
        )
    found = {entry[1] or entry[3]: entry[2] or entry[4] for entry in _ENTRY.finditer(outer[1])}
    if found.get("enable") != "true":
        return ""
    return found.get("path") or default
