"""Mini-batches of sequences: session-parallel, and windows.

They are a function of (seed, epoch, step) alone, as in models/inputs/sampling.py.
"""

import dataclasses
import heapq

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.columns import as_tensor, chunks, room, take_index
from models.inputs.event_log import require_successors
from models.names.label import WEIGHT

IDLE = -1


def session_parallel(starts: np.ndarray, slots: int) -> np.ndarray:
    """Lays sequences side by side.

    A slot that has come to the end of one goes on with the next that nobody has begun.

    Args:
        starts: [S + 1] where each sequence begins in the list of events, and the end; their order
            is the order of reading.
        slots: sequences read at a time.

    Returns:
        [T, slots] int32 (int64 of more than 2^31 events): step -> the event that every slot reads;
        its target is the event after it. IDLE where none is left.
    """
    lengths = np.diff(starts)
    usable = np.flatnonzero(lengths > 1)
    steps = lengths[usable] - 1
    begin, slot = np.empty(len(usable), np.int64), np.empty(len(usable), np.int64)
    # One look at a small heap a sequence, once a training: who is free first is next, the lower
    # slot where two are.
    free = [(0, number) for number in range(slots)]
    for number, length in enumerate(steps.tolist()):
        begin[number], slot[number] = free[0]
        heapq.heapreplace(free, (free[0][0] + length, free[0][1]))
    kind = np.int32 if starts[-1] <= np.iinfo(np.int32).max else np.int64
    schedule = room((int((begin + steps).max(initial=0)), slots), kind)
    schedule[:] = IDLE
    first, before = starts[:-1][usable], np.r_[0, np.cumsum(steps)]
    for here, there in chunks(before):
        these = slice(*np.searchsorted(before, [here, there]))
        length = steps[these]
        within = np.arange(here, there) - np.repeat(before[:-1][these], length)
        schedule[np.repeat(begin[these], length) + within, np.repeat(slot[these], length)] = (
            np.repeat(first[these], length) + within
        )
    return schedule


def parallel_batches(
    items: np.ndarray,
    starts: np.ndarray,
    slots: int,
    samples: sampling.PopularitySamples | None,
    seed: int,
    first_epoch: int = 0,
    weight: np.ndarray | None = None,
) -> sampling.Batches:
    """Endless session-parallel batches.

    Every epoch reads the sequences in the same order, as time has it. A replica's share are slots
    of its own.

    Args:
        items: [E] item indices, sequence after sequence.
        starts: [S + 1], see `session_parallel`.
        slots: rows of a batch.
        samples: draws the additional negatives of a step; None for none.
        seed: of the draws.
        first_epoch: the epoch to start with.
        weight: [E] float32 of the events; None: all alike.

    Returns:
        Batches of `item` and `target` ([slots] int64), `fresh` ([slots] bool: the slot begins a
        sequence), `valid` ([slots] bool: the slot reads anything) and, with `samples`, `sampled`;
        with weights WEIGHT, [slots] float32 of the targets.

    Raises:
        DataError: no sequence has two events.
    """
    require_successors(starts)
    schedule = as_tensor(session_parallel(starts, slots))
    steps, rows = schedule.shape[0], int((np.maximum(np.diff(starts), 1) - 1).sum())
    begins, items = tf.constant(starts, schedule.dtype), as_tensor(items)
    weights = None if weight is None else as_tensor(weight)
    last = max(len(items) - 1, 0)

    def make(later: int, share: sampling.Share | None = None) -> tf.data.Dataset:
        def batch(number):
            event, step_seed = tf.gather(schedule, number % steps), tf.stack([seed, number])
            if share:
                event, step_seed = share.cut(event, step_seed)
            valid, place = event >= 0, tf.maximum(event, 0)
            after = tf.minimum(place + 1, last)  # there is none of a slot that reads nothing
            read = tf.where(valid, take_index(items, [place, after]), 0)
            found = {
                "item": read[0],
                "target": read[1],
                "fresh": tf.gather(begins, tf.searchsorted(begins, place)) == place,
                "valid": valid,
                **({} if weights is None else {WEIGHT: tf.gather(weights, after)}),
            }
            return {**found, "sampled": samples.draw(step_seed)} if samples else found

        numbers = tf.data.Dataset.range(first_epoch * steps + later, np.iinfo(np.int64).max)
        return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    return sampling.Batches(steps, rows, make)


def window_batches(
    items: np.ndarray,
    starts: np.ndarray,
    length: int,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    weight: np.ndarray | None = None,
) -> sampling.Batches:
    """Endless shuffled batches of windows of `length` events.

    Where long sequences are cut moves from epoch to epoch.

    Every event but a sequence's first is a target exactly once an epoch.

    Returns:
        Batches of `item`, `target` ([B, length] int64) and `valid` ([B, length] bool: the place
        holds an event and its target); with the weights of events, WEIGHT, [B, length] float32 of
        the targets.

    Raises:
        DataError: no sequence has two events.
    """
    require_successors(starts)
    sizes = np.diff(starts) - 1
    # A sequence that is cut anywhere touches one window more than its length has.
    counts = np.where(sizes > length, -(-sizes // length) + 1, (sizes > 0).astype(np.int64))
    owner = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = {
        "first": starts[owner],
        "end": starts[owner + 1] - 1,
        "from": starts[owner] + number * length,
        "moves": counts[owner] > 1,
    }
    batches = sampling.shuffled_batches(columns, batch_size, seed, first_epoch)
    items, weights = as_tensor(items), None if weight is None else as_tensor(weight)
    last = max(len(items) - 1, 0)

    def window(batch):
        epoch = batch["step_seed"][1] // batches.steps
        phase = tf.random.stateless_uniform(
            [], tf.stack([tf.cast(seed, tf.int64), epoch]), 0, length, tf.int64
        )
        start = batch["from"] - tf.where(batch["moves"], phase, 0)
        place = start[:, tf.newaxis] + tf.range(length, dtype=tf.int64)
        valid = (place >= batch["first"][:, tf.newaxis]) & (place < batch["end"][:, tf.newaxis])
        place = tf.where(valid, place, 0)
        after = tf.minimum(place + 1, last)
        return {
            "item": tf.where(valid, take_index(items, place), 0),
            "target": take_index(items, after),
            "valid": valid,
            **({} if weights is None else {WEIGHT: tf.gather(weights, after)}),
        }

    return dataclasses.replace(batches.map(window), rows=int(sizes.clip(0).sum()))


def newest(starts: np.ndarray, share: float) -> np.ndarray:
    """The newest of the sequences, which are in the order of time.

    Args:
        starts: [S + 1] where each sequence begins, and the end.
        share: of the sequences, greater than 0; at least one that has two events is left.

    Returns:
        [R + 1] where the newest R sequences begin, and the end.

    Raises:
        DataError: no sequence has two events.
    """
    require_successors(starts)
    first = len(starts) - 1 - int(np.ceil(share * (len(starts) - 1)))
    return starts[min(first, np.flatnonzero(np.diff(starts) > 1)[-1]) :]


def last_events(starts: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts every sequence to its last `count` events: which these are, and the new starts."""
    sizes = np.minimum(np.diff(starts), count)
    ends = np.cumsum(sizes)
    within = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    return np.repeat(starts[1:] - sizes, sizes) + within, np.r_[0, ends]


def only_last_target(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Of every window only the last target is valid; its items stay."""
    valid = batch["valid"]
    return {**batch, "valid": valid & ~tf.pad(valid[:, 1:], [[0, 0], [0, 1]])}


def backward(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Windows that are read from their end: the target of an event is the one before it.

    A step weighs what the later of its two events does, whichever way it is taken.
    """
    valid = batch["valid"]
    weight = {WEIGHT: batch[WEIGHT][:, ::-1]} if WEIGHT in batch else {}
    return {
        "item": tf.where(valid, batch["target"], 0)[:, ::-1],
        "target": batch["item"][:, ::-1],
        "valid": valid[:, ::-1],
        **weight,
    }
