"""Two domains in one log, such as two shops of the same customers: the split `cross_domain`.

Pure functions on arrays.

The rows, queries and catalogue that are built are the target domain's alone, as if there were no
other; the source's events are a split of their own, `source`, for the models that read them. Of the
users (or items) that are in both domains some are drawn, and all that the target has of them is
held out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.build.config import SplitConfig
from components.tables.hashing import hash_ids, mix
from models.names.errors import DataError
from models.names.label import WEIGHT

DOMAIN = "domain"
_SOURCE_COLUMNS = ("user_id", "item_id", "timestamp", "rating", "label", "row", WEIGHT)
_NOBODY = np.array([], object)


@dataclass
class Members:
    """Who and what is in a domain, in the whole log.

    Attributes:
        users: ascending distinct ids; empty where the items are shared.
        items: ascending distinct ids.
    """

    users: np.ndarray = field(default_factory=lambda: _NOBODY)
    items: np.ndarray = field(default_factory=lambda: _NOBODY)


@dataclass
class DomainFacts:
    """What the split must know about the whole log.

    Attributes:
        source: who and what is in the source.
        target: likewise.
        names: ascending distinct names of domains that the log has.
    """

    source: Members = field(default_factory=Members)
    target: Members = field(default_factory=Members)
    names: np.ndarray = field(default_factory=lambda: _NOBODY)

    @property
    def size(self) -> int:
        """How many ids are held."""
        return sum(len(one.users) + len(one.items) for one in (self.source, self.target))

    def in_both(self, shared: str) -> np.ndarray:
        """The ids of the `users` or `items` that both domains have, ascending."""
        here, there = getattr(self.source, shared), getattr(self.target, shared)
        return np.intersect1d(here, there, assume_unique=True)

    def held_out(self, ids: np.ndarray, config: SplitConfig) -> np.ndarray:
        """Draws among those that are in both domains, by a seeded hash.

        Args:
            ids: [N] of users or items, whichever are shared.
            config: the split.

        Returns:
            [N] int8: 2 for test, 1 for validation, 0 for all others.
        """
        pool = np.sort(mix(hash_ids(self.in_both(config.shared)), config.seed))
        own = mix(hash_ids(ids), config.seed)
        test = round(len(pool) * config.test_fraction)
        valid = round(len(pool) * config.valid_fraction)
        rank = np.searchsorted(pool, own)
        part = np.where(rank < test, 2, np.where(rank < test + valid, 1, 0)).astype(np.int8)
        return np.where(np.isin(own, pool), part, np.int8(0))

    def counts(self, config: SplitConfig) -> dict[str, int | str]:
        """What the report says of the draw."""
        ids = self.in_both(config.shared)
        part = self.held_out(ids, config)
        return {
            "source": config.source,
            "target": config.target,
            "shared": config.shared,
            "in both": len(ids),
            "held out for valid": int((part == 1).sum()),
            "held out for test": int((part == 2).sum()),
        }


def names_of(table: pa.Table) -> np.ndarray:
    """[E] object array: the domain of every event, bytes; None where it has none."""
    column = table.column(DOMAIN)
    if column.type != pa.large_binary():  # domains that are numbers
        column = pc.cast(pc.cast(column, pa.large_utf8()), pa.large_binary())
    return column.to_numpy()


def gather(table: pa.Table, config: SplitConfig) -> DomainFacts:
    """The facts of one batch of events."""
    names = names_of(table)

    def members(domain: str) -> Members:
        mask = names == domain.encode()

        def ids(column: str) -> np.ndarray:
            return np.unique(table.column(column).to_numpy()[mask]).astype(object)

        return Members(ids("user_id") if config.shared == "users" else _NOBODY, ids("item_id"))

    known = pd.unique(names[~pd.isna(names)])
    return DomainFacts(members(config.source), members(config.target), np.sort(known))


def merge(parts: Iterable[DomainFacts]) -> DomainFacts:
    """The facts of all batches together."""
    parts = list(parts)

    def union(of) -> np.ndarray:
        return np.unique(np.concatenate([_NOBODY, *map(of, parts)])).astype(object)

    source, target = (
        Members(
            union(lambda part, name=name: getattr(part, name).users),
            union(lambda part, name=name: getattr(part, name).items),
        )
        for name in ("source", "target")
    )
    return DomainFacts(source, target, union(lambda part: part.names))


def check(facts: DomainFacts, config: SplitConfig) -> None:
    """Raises DataError where the log lacks a domain, or nobody is in both."""
    names = ", ".join(name.decode("utf-8", "backslashreplace") for name in facts.names)
    for role in ("source", "target"):
        if not len(getattr(facts, role).items):
            raise DataError(
                f"split.{role}: required: a name that the events' column {DOMAIN!r} has; "
                f"received {getattr(config, role)!r}, and the column has {names or 'nothing'}"
            )
    if not len(facts.in_both(config.shared)):
        raise DataError(
            f"split.shared: required: {config.shared} that have the same id in the domains "
            f"{config.source!r} and {config.target!r}; received none. Where it is the others that "
            f"are shared, say split.shared: {'items' if config.shared == 'users' else 'users'}"
        )


def source_rows(lists: pa.Table, shared: str) -> pa.Table:
    """The rows of the split `source`.

    Args:
        lists: one row a user, every column of its events in the source as a list.
        shared: `users` or `items`; every row says which.
    """
    table = lists.select([name for name in _SOURCE_COLUMNS if name in lists.column_names])
    says = pa.array([shared.encode()] * len(table), pa.large_binary())
    return table.append_column("shared", says)


def of_the_catalogue(
    table: pa.Table, own: np.ndarray, facts: DomainFacts, config: SplitConfig
) -> tuple[pa.Table, np.ndarray]:
    """What the target's catalogue has of the items.

    These are the items of the target's events and those of the table, but for those of the table
    that only the source has had events of. Where the table has a column `domain`, it decides of the
    items that it says something of: one that names the target, among others or alone, belongs to
    the catalogue though it has no events there, and one that names others alone does not.

    Args:
        table: of the items.
        own: ascending ids of the items of these that the target's log has.
        facts: of the whole log.
        config: the split.

    Returns:
        The rows of the table that belong to it, and the ids that do though the table may lack them
        and train has none of their events: where the items are shared, those held out.
    """
    ids = table.column("item_id").to_numpy()
    keep = ~np.isin(ids, facts.source.items)
    if DOMAIN in table.column_names:
        column, target = table.column(DOMAIN), config.target.encode()
        many = pa.types.is_large_list(column.type)
        for row, value in enumerate(column.to_pylist()):
            if value:
                keep[row] = target in value if many else value == target
    keep |= np.isin(ids, own)
    return table.filter(pa.array(keep)), own if config.shared == "items" else _NOBODY
