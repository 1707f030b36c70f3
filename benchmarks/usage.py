"""What processes have had of the machine, as Linux counts it."""

from pathlib import Path

import psutil


def cpu_seconds(process: int) -> float:
    """What a process has had of the processors so far, in seconds."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def memory(name: str, process: int | str = "self") -> int:
    """A line of a process's status that tells of memory, in bytes; 0 of one that has ended.

    Args:
        name: VmRSS, what it has in memory; VmHWM, the peak of that; RssAnon, what of it lies in no
            file.
        process: its number.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def begin_peak(process: int | str = "self") -> None:
    """Has VmHWM begin anew."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
