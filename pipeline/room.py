"""Whether a machine has what a run will want: said before anything starts.

An estimate (`pipeline.estimate`) is right within a third or so, so a run that is refused for it can
be let run all the same: `room.refuse: false`.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.read import counts
from components.read.sources import Source
from models.names import memory
from models.names.errors import ConfigError
from models.names.features import ID
from models.names.hyper_parameters import HyperParameters
from pipeline.cluster import gigabytes
from pipeline.config import RunConfig
from pipeline.estimate import Estimate, Need, estimate, in_gib

_CLEARLY = 0.5  # of what there is: what wants less by an upper bound is not looked at any closer


@dataclass(frozen=True)
class Room:
    """What a run may take, in bytes.

    Attributes:
        memory: of memory.
        disk: of the disk where the runs lie.
        temporary: of the disk where temporary files lie; None where it is the same one.
    """

    memory: float
    disk: float
    temporary: float | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Room":
        """What the run says, else what this machine (or its container) has."""
        folder, temporary = Path(config.output).absolute(), tempfile.gettempdir()
        while not folder.exists():
            folder = folder.parent
        own, is_same = config.room, os.stat(folder).st_dev == os.stat(temporary).st_dev
        return cls(
            gigabytes(own.memory) * 1e9 if own.memory else memory.total_bytes(),
            gigabytes(own.disk) * 1e9 if own.disk else shutil.disk_usage(folder).free,
            None if is_same else shutil.disk_usage(temporary).free,
        )

    def part(self, share: float) -> "Room":
        """Returns a share of it."""
        temporary = None if self.temporary is None else share * self.temporary
        return Room(share * self.memory, share * self.disk, temporary)


def lacks(estimate: Estimate, room: Room) -> list[str]:
    """Returns in words what a run wants and does not get; empty where it fits."""
    found = []
    most = estimate.most_memory
    if most.bytes > room.memory:
        found.append(
            f"memory: {most.name} will want about {in_gib(most.bytes)} ({most.of}); there are "
            f"{in_gib(room.memory)}"
        )
    needs, columns = _on_disk(estimate, room), estimate.temporary
    wanted = sum(need.bytes for need in needs)
    if wanted > room.disk:
        largest = max(needs, key=lambda need: need.bytes)
        found.append(
            f"disk: the run will want about {in_gib(wanted)} (of them {in_gib(largest.bytes)} for "
            f"{largest.name}); there are {in_gib(room.disk)}"
        )
    if room.temporary is not None and columns.bytes > room.temporary:
        found.append(
            f"temporary files: {columns.name} will want about {in_gib(columns.bytes)} in "
            f"{tempfile.gettempdir()}; there are {in_gib(room.temporary)}; TMPDIR=FOLDER says "
            "another disk"
        )
    return found


def _on_disk(estimate: Estimate, room: Room) -> tuple[Need, ...]:
    """What is wanted of the disk where the runs lie."""
    is_same = room.temporary is None and estimate.temporary.bytes > 0
    return (*estimate.disk, estimate.temporary) if is_same else estimate.disk


def require_room(
    config: RunConfig, settings: HyperParameters, tables: Sequence[Source], schemas: str
) -> list[str]:
    """Refuses a run that does not fit this machine.

    The log is read only where the run would not clearly fit if every event were of another user and
    another item.

    Args:
        config: the run.
        settings: the model's hyper-parameters.
        tables: what the tables are read from.
        schemas: name or folder of the table schemas.

    Returns:
        In words, what it lacks where it runs all the same (`room.refuse: false`).

    Raises:
        ConfigError: it wants more memory or disk than it may take.
    """
    room = Room.of(config)
    if not lacks(estimate(config, settings, tables, schemas, reads=False), room.part(_CLEARLY)):
        return []
    found = lacks(estimate(config, settings, tables, schemas), room)
    if found and config.room.refuse:
        raise ConfigError(
            f"{config.model} does not fit this machine: {'; '.join(found)}. Required: fewer ids "
            "(features.min_count), smaller hyper-parameters, or more room; room.refuse: false "
            "runs it all the same"
        )
    return found


def lines(estimate: Estimate, room: Room) -> list[tuple[str, str, str, str]]:
    """Returns an estimate as the rows of a table: what, how many, how many there are, how known."""
    read = estimate.read
    how = "read whole" if read == 1 else f"{read:.0%} read, the rest taken to be like it"

    def distinct(number: int) -> str:
        return "exact" if number < counts.KEPT and read == 1 else f"{counts.ERROR:.1%} off, or so"

    sizes, own = estimate.sizes, estimate.parameters
    found = [("events", f"{estimate.rows['events']:,}", "", how)]
    found.append(("users of the events", f"{sizes.users:,}", "", distinct(sizes.users)))
    most, known = "", distinct(sizes.items)
    if estimate.most_items:
        most = f"{estimate.most_items:,}"
        # ExampleBuilder refuses by the items of train, of which there may be fewer.
        known += "; fits" if sizes.items <= estimate.most_items else "; train may not have so many"
    found.append(("items of the events", f"{sizes.items:,}", most, known))
    for name in ("users", "items"):
        if estimate.rows.get(name):
            found.append((f"rows of {name}", f"{estimate.rows[name]:,}", "", "read whole"))
    for column in sizes.columns:
        if column.kind != ID:
            found.append((column.name, f"{column.values:,} values", "", column.kind))
    if own:
        numbers = [("learnt", own.learnt), ("solved for or counted", own.held)]
        told = ", ".join(f"{number:,} {name}" for name, number in numbers if number)
        found.append(("parameters", f"{own.learnt + own.held:,}", "", told))
    else:
        found.append(("parameters", "?", "", "the model's file does not say"))
    for need in estimate.memory:
        fits = "fits" if need.bytes <= room.memory else "does not fit"
        told = f"{fits}; {need.of}"
        found.append((f"memory, {need.name}", in_gib(need.bytes), in_gib(room.memory), told))
    needs = _on_disk(estimate, room)
    for need in needs:
        found.append((f"disk, {need.name}", in_gib(need.bytes), "", need.of))
    wanted = sum(need.bytes for need in needs)
    fits = "fits" if wanted <= room.disk else "does not fit"
    found.append(("disk, in all", in_gib(wanted), in_gib(room.disk), fits))
    if room.temporary is not None:
        need = estimate.temporary
        fits = "fits" if need.bytes <= room.temporary else "does not fit"
        told = f"{fits}; {tempfile.gettempdir()} is another disk"
        there = in_gib(room.temporary)
        found.append((f"temporary files, {need.name}", in_gib(need.bytes), there, told))
    return found
