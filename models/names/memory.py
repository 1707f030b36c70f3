"""How much memory there is, which decides whether a table of items x items fits; who has it."""

import ctypes
import gc
import os
import pathlib
import sys

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def total_bytes() -> int:
    """The memory that this process may use at most, in bytes.

    It is the machine's, or its container's limit where that is lower.

    What others use of it at the moment is not taken off: the same machine gives the same number.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _LIMITS:
        path = pathlib.Path(name)
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():  # "max" where there is no limit
            found.append(int(text))
    return min(found)


def give_back() -> None:
    """Gives the system what this process has freed, which it keeps for what it may want next.

    The garbage is collected first, but where somebody has turned that off.
    """
    if gc.isenabled():
        gc.collect()
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's alone
        trim(0)
