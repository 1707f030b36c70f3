r"""Rules of a request, applied to the whole ranking before it is cut to k: plain TensorFlow ops.

All are optional and hold together:

- `allow`: ids; nothing else is answered.
- `where`: conditions on the items' columns, all of which hold of what is answered. A condition is
  `COLUMN = VALUE`, `COLUMN in VALUE | VALUE`, or of a number `<`, `<=`, `>`, `>=`; `not` before it
  turns it around; ` or ` between conditions asks for one of them. So any formula of `and`, `or` and
  `not` can be said. A column of lists fits where one of its values does; an item that misses a
  column fits no condition on it, and every `not`. `\|`, `\or` and `\\` are those signs in a value.
- `boost`: `CONDITION => * 1.5` or `CONDITION => + 0.2`. Factors multiply a score, and divide one
  below 0, so that more than 1 is always up; what is added is added after that.
- `exclude_recent`: how many of the newest items of the user's history are not answered, whatever
  the model's own filter does.
- `min_score`: of a score after boosts.
- `diversity`: `COLUMN <= 2`, at most so many items a value (an item without one is never too many),
  or `mmr 0.7`: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), .7 x the score,
  scaled to [0, 1] over what qualifies, less .3 x the greatest cosine to what stands above. Either
  is greedy from the top.
- `pin`: ids at positions, "" where none is. They are answered whatever the other rules say but for
  `exclude`; ids that nobody knows leave the position to the ranking, and the second of two alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from models.contract.conditions import Conditions, require, to_numbers
from models.inputs import int8
from models.inputs.columns import choose
from models.inputs.item_columns import ItemColumns
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.traced import traced

_BOOST = r"^(.+) => *([*+-]) *(\d*\.?\d+(?:[eE][+-]?\d+)?)\s*$"
_DIVERSITY = r"^\s*(.+?)\s*<=\s*(0*[1-9]\d*)\s*$"
_MMR = r"^\s*mmr\s+(0?\.\d+|0|1|1\.0*|0\.0*)\s*$"


class Rules(NamedTuple):
    """What [B] requests ask of their answers.

    Attributes:
        allow, where, boost, pin: [B, R] strings, "" for none.
        exclude_recent: [B] int32, 0 for none.
        diversity: [B] strings, "" for none.
        min_score: [B] float32, NaN for none.
    """

    allow: tf.Tensor
    where: tf.Tensor
    boost: tf.Tensor
    pin: tf.Tensor
    exclude_recent: tf.Tensor
    diversity: tf.Tensor
    min_score: tf.Tensor


def rules_signature() -> dict[str, tf.TensorSpec]:
    """The inputs of a signature that takes rules: lists are [B, R], padded with ""."""
    lists = ("allow", "where", "boost", "pin")
    one = {"exclude_recent": tf.int32, "diversity": tf.string, "min_score": tf.float32}
    return {
        **{name: tf.TensorSpec([None, None], tf.string, name=name) for name in lists},
        **{name: tf.TensorSpec([None], kind, name=name) for name, kind in one.items()},
    }


class Asked(NamedTuple):
    """A ranking of [B] requests before the rules.

    Attributes:
        scores: [B, N] of the model, or of what answers instead of it.
        history: ragged [B, None] int64 item indices, oldest first.
        seen: likewise, what is not answered since the user has had it.
        excluded: likewise, what the request excludes.
    """

    scores: tf.Tensor
    history: tf.RaggedTensor
    seen: tf.RaggedTensor
    excluded: tf.RaggedTensor


class Judged(NamedTuple):
    """What rules say of the items.

    Attributes:
        qualifies: [B, N] bool, by `allow` and `where`.
        factor, added: [B, N] float32, of the boosts.
    """

    qualifies: tf.Tensor
    factor: tf.Tensor
    added: tf.Tensor


class Rulebook(tf.Module):
    """Applies rules to a catalogue.

    Args:
        columns: of its items.
        table: id -> index; position p of the catalogue is index p + 2.
        size: how many items there are.
        vectors: [N, D] of the items, for `mmr`; None where the model has none.

    Attributes:
        vectors: the same, of unit length or 0.
    """

    def __init__(
        self,
        columns: ItemColumns,
        table: tf.lookup.StaticHashTable,
        size: int,
        vectors: tf.Tensor | None = None,
    ):
        super().__init__()
        self._size = size
        self._table = table
        self._conditions = Conditions(columns, size)
        self.vectors = None
        if vectors is not None:
            self.vectors = tf.Variable(tf.math.l2_normalize(vectors, axis=1), trainable=False)
        # Two signatures ask it, and it is traced once.
        self._hold = traced(
            self._conditions.hold, input_signature=[tf.TensorSpec([None], tf.string)]
        ).__call__

    def qualifies(self, where: tf.Tensor, allow: tf.Tensor) -> tf.Tensor:
        """[B, N] bool: what `where` and `allow` take, [B, R] strings, "" for none.

        Raises:
            InvalidArgumentError: as `judge`.
        """
        rows = tf.shape(where)[0]

        def some() -> tf.Tensor:
            wheres, row = _said(where)
            return self._allowed(_all(self._hold(wheres), row, rows), allow, rows)

        asked = tf.concat([where, allow], axis=1)
        return tf.cond(
            tf.reduce_any(asked != ""), some, lambda: tf.ones([rows, self._size], tf.bool)
        )

    def judge(self, rules: Rules) -> Judged:
        """Evaluates `allow`, `where` and `boost`.

        Raises:
            InvalidArgumentError: a condition is none, a column or its type is another, or a boost
                is no number; by name.
        """
        rows = tf.shape(rules.diversity)[0]

        def nothing_asked() -> Judged:
            shape = [rows, self._size]
            return Judged(tf.fill(shape, True), tf.ones(shape), tf.zeros(shape))

        asked = tf.concat([rules.allow, rules.where, rules.boost], axis=1)
        return tf.cond(tf.reduce_any(asked != ""), lambda: self._judged(rules, rows), nothing_asked)

    def _judged(self, rules: Rules, rows: tf.Tensor) -> Judged:
        wheres, row_of_where = _said(rules.where)
        boosts, row_of_boost = _said(rules.boost)
        any_boosts = tf.size(boosts) > 0
        conditions, amount, is_factor = tf.cond(
            any_boosts,
            lambda: _read_boosts(boosts),
            lambda: (boosts, tf.zeros([0]), tf.zeros([0], tf.bool)),
        )
        holds = self._hold(tf.concat([wheres, conditions], axis=0))
        of_where, of_boost = tf.split(holds, [tf.size(wheres), tf.size(boosts)])
        qualifies = self._allowed(_all(of_where, row_of_where, rows), rules.allow, rows)

        def products() -> tuple[tf.Tensor, tf.Tensor]:
            ones = tf.ones(tf.shape(of_boost))
            scales = of_boost & is_factor[:, tf.newaxis]
            factor = tf.where(scales, amount[:, tf.newaxis] * ones, ones)
            added = tf.cast(of_boost, tf.float32) * tf.where(is_factor, 0.0, amount)[:, tf.newaxis]
            return (
                tf.math.unsorted_segment_prod(factor, row_of_boost, rows),
                tf.math.unsorted_segment_sum(added, row_of_boost, rows),
            )

        shape = [rows, self._size]
        factor, added = tf.cond(any_boosts, products, lambda: (tf.ones(shape), tf.zeros(shape)))
        return Judged(qualifies, factor, added)

    def answer(
        self, asked: Asked, rules: Rules, rerank: Callable[[tf.Tensor], tf.Tensor], k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The first k [B] positions under the rules, their scores, and why there are fewer.

        Args:
            asked: what is ranked, and what may not be answered anyway.
            rules: of each request.
            rerank: the model's own order of its first items, of masked scores.
            k: at least 1.

        Returns:
            `position` [B, K] int32, -1 beyond what is answered; `score` [B, K] float32, after the
            boosts, and their `factor` and what they `added`; `fewer` [B] strings, "" where k items
            are answered.
        """
        judged = self.judge(rules)
        raised = tf.cond(
            tf.reduce_any(rules.boost != ""),
            lambda: boosted(asked.scores, judged.factor, judged.added),
            lambda: asked.scores,
        )
        never = tf.fill(tf.shape(raised), float("-inf"))  # where() is slow where it broadcasts
        free = mask_items(
            tf.where(judged.qualifies, raised, never),
            _unwanted(asked, rules.exclude_recent),
        )
        free = rerank(free)
        low = free < rules.min_score[:, tf.newaxis]  # false of a bound that is NaN
        scores = tf.where(low, never, free)
        most = tf.minimum(tf.reduce_max(tf.concat([k, [1]], axis=0)), self._size)

        def best() -> tuple[tf.Tensor, ...]:
            top, position = tf.math.top_k(scores, most)
            there = (top > float("-inf")) & (tf.range(most) < k[:, tf.newaxis])
            ones = tf.ones(tf.shape(top))
            return tf.where(there, position, -1), top, ones, tf.zeros_like(ones)

        def chosen() -> tuple[tf.Tensor, ...]:
            pins = self.pinned(rules.pin, asked.excluded)
            ranked = self.first(_without_pins(scores, pins), rules.diversity, most)
            position = with_pins(ranked, pins, k)
            score, before, factor, added = (
                tf.gather(values, tf.maximum(position, 0), batch_dims=1)
                for values in (scores, raised, judged.factor, judged.added)
            )
            # A pin has no place in the ranking; it has a score.
            return position, tf.where(score > float("-inf"), score, before), factor, added

        # What most requests ask is short: operations cost more than what they do.
        more = tf.concat([rules.boost, rules.pin, rules.diversity[:, tf.newaxis]], axis=1)
        position, score, factor, added = tf.cond(tf.reduce_any(more != ""), chosen, best)
        count = tf.reduce_sum(tf.cast(position >= 0, tf.int32), axis=1)

        def reasons() -> tf.Tensor:
            parts = {
                " answered: allow and where take ": count,
                f" of {self._size} items; of these the user has had, or are excluded, ": _count(
                    judged.qualifies
                ),
                ", are below min_score ": _count(judged.qualifies) - _count(free > float("-inf")),
                "": _count(low & (free > float("-inf"))),
            }
            said = [part for text, number in parts.items() for part in (_text(number), text)]
            return tf.where(count < k, tf.strings.join(said), "")

        return {
            "position": position,
            "score": tf.where(position >= 0, score, 0.0),
            "factor": tf.where(position >= 0, factor, 1.0),
            "added": tf.where(position >= 0, added, 0.0),
            "fewer": tf.cond(tf.reduce_any(count < k), reasons, lambda: tf.fill(tf.shape(k), "")),
        }

    def pinned(self, pin: tf.Tensor, excluded: tf.RaggedTensor) -> tf.Tensor:
        """[B, P] int32 catalogue positions of pins; -1 where the ranking has the place.

        Args:
            pin: [B, P] ids, "" where there is none.
            excluded: ragged [B, None] int64 item indices that are not answered.
        """
        index = self._table.lookup(pin)
        out = excluded.to_tensor(-1)
        taken = tf.reduce_any(index[:, :, tf.newaxis] == out[:, tf.newaxis, :], axis=2)
        place = tf.range(tf.shape(index)[1])
        same = index[:, :, tf.newaxis] == index[:, tf.newaxis, :]
        again = tf.reduce_any(same & (place[tf.newaxis, :] < place[:, tf.newaxis]), axis=2)
        good = (index >= FIRST_TOKEN) & ~taken & ~again
        return tf.where(good, tf.cast(index, tf.int32) - FIRST_TOKEN, -1)

    def first(self, scores: tf.Tensor, diversity: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        """The first k of [B, N] scores: [B, k] int32 positions, -1 where no item is left.

        Args:
            scores: -inf where an item does not qualify; of equal ones the first position wins.
            diversity: [B] strings.
            k: a scalar.

        Raises:
            InvalidArgumentError: a diversity that is none, or of a column that there is not.
        """

        def best() -> tf.Tensor:
            top, position = tf.math.top_k(scores, k)
            return tf.where(top > float("-inf"), position, -1)

        def greedy() -> tf.Tensor:
            by_column = tf.strings.regex_full_match(diversity, _DIVERSITY)
            by_vector = tf.strings.regex_full_match(diversity, _MMR)
            require(
                by_column | by_vector | (diversity == ""),
                diversity,
                "diversity: required: 'COLUMN <= COUNT', 1 or more, or 'mmr WEIGHT', 0 to 1; "
                "received",
            )
            if self.vectors is None:
                require(~by_vector, diversity, "the model has no vectors of items, so it has no")
            name = tf.strings.regex_replace(diversity, _DIVERSITY, r"\1")
            name = tf.where(by_column, name, "")
            column = self._conditions.categories(name, by_column)
            limit = tf.strings.regex_replace(diversity, _DIVERSITY, r"\2")
            limit = tf.cast(to_numbers(tf.where(by_column, limit, "0"), tf.float32), tf.int32)
            weight = tf.strings.regex_replace(diversity, _MMR, r"\1")
            weight = to_numbers(tf.where(by_vector, weight, "1"), tf.float32)

            def of_row(row: Sequence[tf.Tensor]) -> tf.Tensor:
                codes = tf.where(row[2] > 0, self._conditions.codes_of(row[1]).to_tensor(), 0)
                return self._greedy(row[0], codes, row[2], row[3], k)

            return tf.map_fn(
                of_row,
                (scores, tf.maximum(column, 0), limit, weight),
                fn_output_signature=tf.TensorSpec([None], tf.int32),
            )

        return tf.cond(tf.reduce_any(diversity != ""), greedy, best)

    def _greedy(
        self, scores: tf.Tensor, codes: tf.Tensor, limit: tf.Tensor, weight: tf.Tensor, k: tf.Tensor
    ) -> tf.Tensor:
        """[k] positions: each the best that is left, given those above it.

        Args:
            scores: [N].
            codes: [N, L] of the column whose values are limited, 0 pads.
            limit: most items a value, 0 for any number.
            weight: of the score, against the likeness to those above; 1 for the score alone.
            k: how many.
        """
        there = scores > float("-inf")
        never = tf.fill(tf.shape(scores), float("-inf"))  # where() is slow where it broadcasts
        least = tf.reduce_min(tf.where(there, scores, -never))
        span = tf.reduce_max(scores) - least
        share = tf.math.divide_no_nan(scores - least, span)
        value = tf.where(weight < 1, tf.where(there, weight * share, scores), scores)

        def step(
            place: tf.Tensor, left: tf.Tensor, likeness: tf.Tensor, chosen: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            now = tf.where(left, value - (1 - weight) * likeness, never)
            best = tf.argmax(now, output_type=tf.int32)
            found = now[best] > float("-inf")
            chosen = tf.tensor_scatter_nd_update(chosen, [[place]], [tf.where(found, best, -1)])
            above = (
                tf.gather(codes, tf.maximum(chosen, 0))
                * tf.cast(chosen >= 0, tf.int32)[:, tf.newaxis]
            )
            own = codes[best]
            often = tf.reduce_sum(tf.cast(above[:, :, tf.newaxis] == own, tf.int32), axis=[0, 1])
            full = tf.where((often >= limit) & (own > 0), own, -1)
            closed = tf.reduce_any(codes[:, :, tf.newaxis] == full, axis=[1, 2])
            left &= ~closed & (tf.range(self._size) != best)
            if self.vectors is not None:
                near = int8.products(int8.take(self.vectors, best[tf.newaxis]), self.vectors)[0]
                near = tf.cond(weight < 1, lambda: near, lambda: likeness)
                # Nothing stands above the first, and a cosine may be below 0.
                likeness = tf.cond(place > 0, lambda: tf.maximum(likeness, near), lambda: near)
            return place + 1, left, likeness, chosen

        state = (0, there, tf.zeros_like(scores), tf.fill([k], -1))
        return tf.while_loop(lambda place, *_: place < k, step, state)[3]

    def _allowed(self, taken: tf.Tensor, allow: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """[B, N] bool: those of `taken` that `allow` names; all of a row where it names none."""

        def named() -> tf.Tensor:
            ids, row = _said(allow)
            place = tf.stack([row, self._table.lookup(ids)], axis=1)
            shape = tf.cast([rows, self._size + FIRST_TOKEN], tf.int64)
            named = tf.scatter_nd(place, tf.ones_like(row, tf.int32), shape)[:, FIRST_TOKEN:] > 0
            return taken & (named | ~tf.reduce_any(allow != "", axis=1, keepdims=True))

        return tf.cond(tf.reduce_any(allow != ""), named, lambda: taken)


def with_pins(ranked: tf.Tensor, pins: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """[B, K] int32 what is answered: pins in their places, the ranking in the others.

    Args:
        ranked: [B, K] int32 without the pins, -1 where nothing is left; a pin below the end of it
            moves up to the end.
        pins: [B, P] int32, -1 where the ranking has the place.
        k: [B] how many are asked for.
    """
    most = tf.shape(ranked)[1]
    pinned = tf.concat([pins, tf.fill(tf.shape(ranked), -1)], axis=1)[:, :most]
    rank = tf.cumsum(tf.cast(pinned < 0, tf.int32), axis=1, exclusive=True)
    position = tf.where(pinned < 0, tf.gather(ranked, rank, batch_dims=1), pinned)
    position = tf.where(tf.range(most) < k[:, tf.newaxis], position, -1)
    order = tf.argsort(tf.cast(position < 0, tf.int32), axis=1, stable=True)
    return tf.gather(position, order, batch_dims=1)


def boosted(scores: tf.Tensor, factor: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    """Scores after boosts; all of one shape."""
    return tf.where(scores >= 0, scores * factor, scores / factor) + added


def unboosted(scores: tf.Tensor, factor: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    """What `boosted` made these scores of."""
    scaled = scores - added
    return tf.where(scaled >= 0, scaled / factor, scaled * factor)


@traced(reduce_retracing=True)
def mask_items(scores: tf.Tensor, items: tf.RaggedTensor) -> tf.Tensor:
    """Sets scores [B, N] to -inf at ragged [B, None] item indices."""
    positions = tf.stack([items.value_rowids(), items.flat_values - FIRST_TOKEN], axis=1)
    return tf.tensor_scatter_nd_update(
        scores, positions, tf.fill(tf.shape(positions)[:1], float("-inf"))
    )


def mask_found(scores: tf.Tensor, position: tf.Tensor, items: tf.RaggedTensor) -> tf.Tensor:
    """The same for scores [B, C] of the items at some positions [B, C] alone."""
    size = tf.reduce_max(tf.concat([items.flat_values, [0]], axis=0)) + 1
    row = tf.range(tf.shape(scores, tf.int64)[0])[:, tf.newaxis]
    index = tf.cast(position, tf.int64) + FIRST_TOKEN
    out = tf.sort(tf.concat([items.value_rowids() * size + items.flat_values, [-1]], axis=0))
    found = row * size + index
    place = tf.searchsorted(out, tf.reshape(found, [-1]), side="right") - 1
    same = tf.reshape(tf.gather(out, place), tf.shape(found)) == found
    return tf.where(same & (index < size), float("-inf"), scores)


def _unwanted(asked: Asked, exclude_recent: tf.Tensor) -> tf.RaggedTensor:
    """Ragged [B, None]: what the user has had, what is excluded, and the newest of the history.

    Raises:
        InvalidArgumentError: a count is below 0.
    """

    def with_recent() -> tf.RaggedTensor:
        required = "exclude_recent: required: 0 or more; received"
        most = require(exclude_recent >= 0, exclude_recent, required)
        lengths = asked.history.row_lengths()
        row = asked.history.value_rowids()
        from_end = tf.gather(asked.history.row_splits, row + 1) - tf.range(tf.size(row, tf.int64))
        count = tf.gather(tf.cast(most, tf.int64), row)
        recent = tf.RaggedTensor.from_row_lengths(from_end <= count, lengths, validate=False)
        return tf.concat([out, choose(asked.history, recent)], axis=1)

    out = tf.concat([asked.seen, asked.excluded], axis=1)
    return tf.cond(tf.reduce_any(exclude_recent != 0), with_recent, lambda: out)


def _without_pins(scores: tf.Tensor, pins: tf.Tensor) -> tf.Tensor:
    index = tf.RaggedTensor.from_tensor(pins) + FIRST_TOKEN
    return mask_items(scores, tf.cast(choose(index, index >= FIRST_TOKEN), tf.int64))


def _said(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Those [V] of padded [B, R] texts that are not "", and the row [V] int64 of each."""
    place = tf.where(texts != "")
    return tf.gather_nd(texts, place), place[:, 0]


def _read_boosts(boosts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """[V] boosts -> their conditions, what is multiplied with or added, and whether it is a factor.

    Raises:
        InvalidArgumentError: one is none, or its factor is not above 0.
    """
    boosts = require(
        tf.strings.regex_full_match(boosts, _BOOST),
        boosts,
        "boost: required: 'CONDITION => * FACTOR' or 'CONDITION => + NUMBER'; received",
    )
    conditions, sign, number = (
        tf.strings.regex_replace(boosts, _BOOST, rf"\{group}") for group in (1, 2, 3)
    )
    amount, is_factor = to_numbers(number, tf.float32), sign == "*"
    required = "boost: required: a factor above 0; received"
    with tf.control_dependencies([require(~is_factor | (amount > 0), boosts, required)]):
        return tf.identity(conditions), tf.where(sign == "-", -amount, amount), is_factor


def _count(holds: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(holds, tf.int32), axis=1)


def _text(number: tf.Tensor) -> tf.Tensor:
    return tf.strings.as_string(number)


def _all(holds: tf.Tensor, group: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """[count, N] bool; of a group without members everything holds."""
    return tf.math.unsorted_segment_min(tf.cast(holds, tf.int8), group, count) > 0
