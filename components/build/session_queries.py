"""Queries of sessions: every position of a held-out session asks for the next item.

The papers on sessions evaluate so.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from components.build import rows, session_splits
from components.build.config import BuildConfig
from components.build.splits import Log


def query_rows(
    log: Log, part: int, users: "rows.Side", popularity: "rows.Popularity", build: BuildConfig
) -> tuple[pa.Table, dict[str, int]]:
    """One row an event of the split, which is its target; the history is its session before it.

    Args:
        log: the users' events, split.
        part: VALID or TEST.
        users: their features.
        popularity: counts of train, for the slices.
        build: `split.drop_repeats` leaves targets out that the session had before; papers keep
            them. And what stands beside the items of a history.

    Returns:
        The queries in the order of the log; and, by reason, how many events are no target.
    """
    session = pd.factorize(session_splits.hashes(log.table, by_session=True))[0]
    order = np.lexsort((np.arange(len(log)), session))
    session = session[order]
    first = (
        np.concatenate([[True], session[1:] != session[:-1]]) if len(order) else np.zeros(0, bool)
    )
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    position = np.arange(len(order)) - start
    items = log.column("item_id")[order]
    held_out = log.split[order] == part
    target = held_out & (position > 0) & log.target[order]
    dropped = {"first events of sessions": int((held_out & (position == 0)).sum())}
    if build.split.drop_repeats:
        item, names = pd.factorize(items)
        again = pd.Series(session * max(len(names), 1) + item).duplicated().to_numpy()
        dropped["repeated targets"] = int((target & again).sum())
        target &= ~again
    places = np.flatnonzero(target)
    places = places[np.argsort(order[places], kind="stable")]
    lengths = position[places]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    before = np.repeat(start[places], lengths) + within
    events = log.table.take(pa.array(order[places]))
    ids = events.column("user_id").to_numpy()
    columns = {
        "user_id": pa.array(ids, pa.large_binary()),
        "history": rows.to_lists(items[before], lengths),
        "exclude": rows.to_lists(np.array([], object), np.zeros(len(places), np.int64)),
        "targets": rows.to_lists(items[places], np.ones(len(places), np.int64)),
    }
    columns |= rows.beside_history(log.table, order[before], lengths, build.history)
    columns |= users.join(ids)
    columns |= rows.context_of(log.table, order[places], build.context)
    columns["timestamp"] = rows.times(log)[order[places]]
    return rows.with_slices(
        pa.table(columns), log, log.user[order[places]], items[places], popularity
    ), dropped
