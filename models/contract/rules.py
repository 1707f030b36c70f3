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
from typing import Any, NamedTuple

import tensorflow as tf

from models.inputs.item_columns import ItemColumns
from models.inputs.preprocessing import FIRST_TOKEN

_OPERATORS = ("<", "<=", "=", ">=", ">")
# Which signs of (value - number), of -1, 0 and 1, an operator takes.
_TAKES = ([1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1])
_CONDITION = r"^\s*(not\s+)?(.+?)\s*(<=|>=|=|<|>|\sin\s)\s*(.*\S)\s*$"
_BOOST = r"^(.+) => *([*+-]) *(\d*\.?\d+(?:[eE][+-]?\d+)?)\s*$"
_DIVERSITY = r"^\s*(.+?)\s*<=\s*(\d+)\s*$"
_MMR = r"^\s*mmr\s+(0?\.\d+|0|1|1\.0*|0\.0*)\s*$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_PROTECTED = ((r"\\\\", "\x01"), (r"\\\|", "\x02"), (r"\\or", "\x03"))
_SEPARATOR = "\x1f"  # between a column and a value; no text has it


class Rules(NamedTuple):
    """What [B] requests ask of their answers.

    Attributes:
        allow, where, boost, pin: ragged [B, None] strings.
        exclude_recent: [B] int32, 0 for none.
        diversity: [B] strings, "" for none.
        min_score: [B] float32, NaN for none.
    """

    allow: tf.RaggedTensor
    where: tf.RaggedTensor
    boost: tf.RaggedTensor
    pin: tf.RaggedTensor
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


def read_rules(inputs: dict[str, tf.Tensor]) -> Rules:
    """The rules of padded inputs; only pins keep their gaps."""
    lists = {
        name: tf.ragged.boolean_mask(inputs[name], inputs[name] != "")
        for name in ("allow", "where", "boost")
    }
    return Rules(
        **lists,
        pin=tf.RaggedTensor.from_tensor(inputs["pin"]),
        **{name: inputs[name] for name in ("exclude_recent", "diversity", "min_score")},
    )


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
        self._numbers = tf.Variable(
            tf.stack(list(columns.numbers.values()))
            if columns.numbers
            else tf.zeros([1, size], tf.float64),
            trainable=False,
        )
        self._texts, self._number_names = list(columns.values), list(columns.numbers)
        self._names = sorted([*self._texts, *self._number_names])
        self._text_column = _places(self._texts)
        self._number_column = _places(self._number_names)
        # All values of all columns have codes of one space from 1 on; 0 is a value of no item.
        keys = [
            tf.strings.join([name, column.flat_values], _SEPARATOR)
            for name, column in columns.values.items()
        ]
        every = tf.concat(keys, axis=0) if keys else tf.constant([], tf.string)
        tokens, code = tf.unique(every, out_idx=tf.int32)
        self._codes = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.concat([tokens, [""]], axis=0), tf.range(1, tf.size(tokens) + 2)
            ),
            0,
        )
        self._code_count = int(tf.size(tokens)) + 2
        self._item_codes = tf.Variable(tf.concat([code + 1, [0]], axis=0), trainable=False)
        splits, start = [], 0
        for column in columns.values.values():
            splits.append(column.row_splits + start)
            start += int(tf.size(column.flat_values))
        self._splits = tf.Variable(
            tf.stack(splits) if splits else tf.zeros([1, size + 1], tf.int64), trainable=False
        )
        self.vectors = None
        if vectors is not None:
            self.vectors = tf.Variable(tf.math.l2_normalize(vectors, axis=1), trainable=False)
        # Two signatures ask it, and it is traced once.
        self._hold = tf.function(
            self._conditions, input_signature=[tf.TensorSpec([None], tf.string)]
        ).__call__

    def qualifies(self, where: tf.RaggedTensor, allow: tf.RaggedTensor) -> tf.Tensor:
        """[B, N] bool: what `where` and `allow` take, ragged [B, None] strings.

        Raises:
            InvalidArgumentError: as `judge`.
        """
        rows = tf.cast(where.nrows(), tf.int32)

        def some() -> tf.Tensor:
            holds = self._hold(where.flat_values)
            return _all(holds, where.value_rowids(), rows) & self._allowed(allow, rows)

        asked = tf.size(where.flat_values) + tf.size(allow.flat_values)
        return tf.cond(asked > 0, some, lambda: tf.ones([rows, self._size], tf.bool))

    def judge(self, rules: Rules) -> Judged:
        """Evaluates `allow`, `where` and `boost`.

        Raises:
            InvalidArgumentError: a condition is none, a column or its type is another, or a boost
                is no number; by name.
        """
        rows = tf.shape(rules.diversity)[0]
        boosts = rules.boost.flat_values
        _require(
            tf.strings.regex_full_match(boosts, _BOOST),
            boosts,
            "boost: required: 'CONDITION => * FACTOR' or 'CONDITION => + NUMBER'; received",
        )
        conditions, sign, number = (
            tf.strings.regex_replace(boosts, _BOOST, rf"\{group}") for group in (1, 2, 3)
        )
        wheres = rules.where.flat_values
        holds = self._hold(tf.concat([wheres, conditions], axis=0))
        of_where, of_boost = tf.split(holds, [tf.size(wheres), tf.size(boosts)])
        qualifies = _all(of_where, rules.where.value_rowids(), rows)
        qualifies &= self._allowed(rules.allow, rows)
        amount = _numbers(number, tf.float32)
        is_factor = sign == "*"
        _require(~is_factor | (amount > 0), boosts, "boost: required: a factor above 0; received")
        factor = tf.where(of_boost & is_factor[:, tf.newaxis], amount[:, tf.newaxis], 1.0)
        amount = tf.where(sign == "-", -amount, amount)
        added = tf.where(of_boost & ~is_factor[:, tf.newaxis], amount[:, tf.newaxis], 0.0)
        row = rules.boost.value_rowids()
        return Judged(
            qualifies,
            tf.math.unsorted_segment_prod(factor, row, rows),
            tf.math.unsorted_segment_sum(added, row, rows),
        )

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
        raised = boosted(asked.scores, judged.factor, judged.added)
        newest = asked.history.row_lengths() - tf.cast(rules.exclude_recent, tf.int64)
        place = tf.range(tf.reduce_max(tf.concat([asked.history.row_lengths(), [0]], 0)))
        recent = tf.RaggedTensor.from_tensor(
            place >= newest[:, tf.newaxis], lengths=asked.history.row_lengths()
        )
        recent = tf.ragged.boolean_mask(asked.history, recent)
        out = tf.concat([asked.seen, asked.excluded, recent], axis=1)
        free = mask_items(tf.where(judged.qualifies, raised, float("-inf")), out)
        free = rerank(free)
        low = free < rules.min_score[:, tf.newaxis]  # false of a bound that is NaN
        scores = tf.where(low, float("-inf"), free)
        pins = self.pinned(rules.pin, asked.excluded)
        index = tf.RaggedTensor.from_tensor(pins) + FIRST_TOKEN
        scores = mask_items(
            scores, tf.cast(tf.ragged.boolean_mask(index, index >= FIRST_TOKEN), tf.int64)
        )
        most = tf.minimum(tf.reduce_max(tf.concat([k, [1]], axis=0)), self._size)
        position = with_pins(self.first(scores, rules.diversity, most), pins, k)
        # A pin has no place in the ranking; it has a score.
        scores = tf.where(scores > float("-inf"), scores, raised)
        score, factor, added = (
            tf.gather(values, tf.maximum(position, 0), batch_dims=1)
            for values in (scores, judged.factor, judged.added)
        )
        count = tf.reduce_sum(tf.cast(position >= 0, tf.int32), axis=1)
        parts = {
            " answered: allow and where take ": count,
            f" of {self._size} items; of these the user has had, or are excluded, ": _count(
                judged.qualifies
            ),
            ", are below min_score ": _count(judged.qualifies) - _count(free > float("-inf")),
            "": _count(low & (free > float("-inf"))),
        }
        said = [part for text, number in parts.items() for part in (_text(number), text)]
        return {
            "position": position,
            "score": tf.where(position >= 0, score, 0.0),
            "factor": tf.where(position >= 0, factor, 1.0),
            "added": tf.where(position >= 0, added, 0.0),
            "fewer": tf.where(count < k, tf.strings.join(said), ""),
        }

    def pinned(self, pin: tf.RaggedTensor, excluded: tf.RaggedTensor) -> tf.Tensor:
        """[B, P] int32 catalogue positions of pins; -1 where the ranking has the place.

        Args:
            pin: ids.
            excluded: ragged [B, None] int64 item indices that are not answered.
        """
        index = self._table.lookup(pin).to_tensor(0)
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
            _require(
                by_column | by_vector | (diversity == ""),
                diversity,
                "diversity: required: 'COLUMN <= COUNT' or 'mmr WEIGHT', 0 to 1; received",
            )
            if self.vectors is None:
                _require(~by_vector, diversity, "the model has no vectors of items, so it has no")
            name = tf.strings.regex_replace(diversity, _DIVERSITY, r"\1")
            name = tf.where(by_column, name, "")
            column = self._column(name, self._text_column, by_column, "a column of categories")
            limit = tf.strings.regex_replace(diversity, _DIVERSITY, r"\2")
            limit = tf.cast(_numbers(tf.where(by_column, limit, "0"), tf.float32), tf.int32)
            weight = tf.strings.regex_replace(diversity, _MMR, r"\1")
            weight = _numbers(tf.where(by_vector, weight, "1"), tf.float32)

            def of_row(row: Sequence[tf.Tensor]) -> tf.Tensor:
                codes = tf.where(row[2] > 0, self._of_column(row[1]).to_tensor(), 0)
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
        least = tf.reduce_min(tf.where(there, scores, float("inf")))
        span = tf.reduce_max(scores) - least
        share = tf.math.divide_no_nan(scores - least, span)
        value = tf.where(weight < 1, tf.where(there, weight * share, scores), scores)

        def step(
            place: tf.Tensor, left: tf.Tensor, likeness: tf.Tensor, chosen: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            now = tf.where(left, value - (1 - weight) * likeness, float("-inf"))
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
                vectors = tf.convert_to_tensor(self.vectors)
                near = tf.linalg.matvec(vectors, vectors[best])
                near = tf.cond(weight < 1, lambda: near, lambda: likeness)
                likeness = tf.where(place == 0, near, tf.maximum(likeness, near))
            return place + 1, left, likeness, chosen

        state = (0, there, tf.zeros_like(scores), tf.fill([k], -1))
        return tf.while_loop(lambda place, *_: place < k, step, state)[3]

    def _allowed(self, allow: tf.RaggedTensor, rows: tf.Tensor) -> tf.Tensor:
        index = self._table.lookup(allow)
        known = tf.ragged.boolean_mask(index, index >= FIRST_TOKEN)
        where = tf.stack([known.value_rowids(), known.flat_values - FIRST_TOKEN], axis=1)
        named = tf.scatter_nd(
            where, tf.ones(tf.shape(where)[:1], tf.int32), tf.cast([rows, self._size], tf.int64)
        )
        return (named > 0) | (allow.row_lengths() == 0)[:, tf.newaxis]

    def _conditions(self, conditions: tf.Tensor) -> tf.Tensor:
        """[V, N] bool: of which items each of [V] conditions holds."""
        terms = tf.strings.split(conditions, " or ")
        text = terms.flat_values
        _require(
            tf.strings.regex_full_match(text, _CONDITION),
            text,
            "where: required: COLUMN OPERATOR VALUE, with one of = in < <= > >=; received",
        )
        negated, name, operator, value = (
            tf.strings.regex_replace(text, _CONDITION, rf"\{group}") for group in (1, 2, 3, 4)
        )
        operator = tf.strings.strip(operator)
        numeric = self._number_column.lookup(name) >= 0
        compares = (operator != "=") & (operator != "in")
        text_column = self._column(
            name, self._text_column, ~numeric & ~compares, "a column of the items"
        )
        number_column = self._column(
            name, self._number_column, numeric | compares, "a column of numbers"
        )
        # What a backslash protects is taken out of the way while bars part the values of `in`.
        for sign, place in _PROTECTED:
            value = tf.strings.regex_replace(value, sign, place)
        whole = tf.strings.regex_replace(value, r"\|", "\x02")
        value = tf.where(operator == "in", value, whole)
        values = tf.strings.split(value, "|")
        flat = tf.strings.strip(values.flat_values)
        for (_, place), plain in zip(_PROTECTED, ("\\\\", "|", "or"), strict=True):
            flat = tf.strings.regex_replace(flat, place, plain)
        of_values = values.value_rowids()
        is_number = tf.gather(numeric | compares, of_values)
        _require(
            ~is_number | tf.strings.regex_full_match(flat, _NUMBER),
            flat,
            "where: required: a number to compare a column of numbers with; received",
        )
        number = _numbers(flat, tf.float64)
        own = tf.gather(tf.constant([*self._texts, ""]), tf.maximum(text_column, 0))
        code = self._codes.lookup(tf.strings.join([tf.gather(own, of_values), flat], _SEPARATOR))
        takes = tf.reduce_sum(
            tf.cast(operator[:, tf.newaxis] == _OPERATORS, tf.int32) * tf.range(len(_OPERATORS)), 1
        )
        # Of `in` a number takes what it takes of `=`.
        takes = tf.where(operator == "in", _OPERATORS.index("="), takes)

        def of_term(term: Sequence[Any]) -> tf.Tensor:
            column, number_column, numeric, takes, code, number, negated = term

            def by_value() -> tf.Tensor:
                wanted = tf.scatter_nd(code[:, tf.newaxis], tf.ones_like(code), [self._code_count])
                # 0 is the code of a value that no item has.
                wanted *= tf.cast(tf.range(self._code_count) > 0, tf.int32)
                codes = self._of_column(tf.maximum(column, 0))
                hit = tf.gather(wanted, codes.flat_values)
                row = tf.cast(codes.value_rowids(), tf.int32)
                return tf.math.unsorted_segment_max(hit, row, self._size) > 0

            def by_number() -> tf.Tensor:
                values = self._numbers[tf.maximum(number_column, 0)][:, tf.newaxis]
                sign = tf.sign(tf.where(tf.math.is_nan(values), number, values) - number)
                taken = tf.gather(
                    tf.gather(tf.constant(_TAKES), takes), tf.cast(sign, tf.int32) + 1
                )
                return tf.reduce_any((taken > 0) & ~tf.math.is_nan(values), axis=1)

            return tf.cond(numeric, by_number, by_value) ^ negated

        holds = tf.map_fn(
            of_term,
            (
                text_column,
                number_column,
                numeric,
                takes,
                values.with_values(code),
                values.with_values(number),
                negated != "",
            ),
            fn_output_signature=tf.TensorSpec([self._size], tf.bool),
        )
        return _any(holds, terms.value_rowids(), tf.size(conditions))

    def _of_column(self, column: tf.Tensor) -> tf.RaggedTensor:
        """Ragged [N, None] int32 codes of the items in a column of categories."""
        splits = self._splits[column]
        codes = self._item_codes[splits[0] : splits[-1]]
        return tf.RaggedTensor.from_row_splits(codes, splits - splits[0], validate=False)

    def _column(
        self, name: tf.Tensor, table: tf.lookup.StaticHashTable, asked: tf.Tensor, what: str
    ) -> tf.Tensor:
        """[T] int32 places of columns, -1 where they are not `asked` for.

        Raises:
            InvalidArgumentError: one that is asked for is not there; the nearest is named.
        """
        column = tf.where(asked, table.lookup(name), -1)
        lost = tf.boolean_mask(name, asked & (column < 0))

        def refuse() -> tf.Tensor:
            said = [f"required: {what}; received", lost[0], *self._nearest(lost[0])]
            tf.debugging.Assert(False, said)
            return True

        tf.cond(tf.size(lost) > 0, refuse, lambda: True)
        return column

    def _nearest(self, name: tf.Tensor) -> list[Any]:
        if not self._names:
            return ["; the items have no columns"]
        letters = tf.strings.unicode_split(tf.fill([len(self._names)], name), "UTF-8")
        others = tf.strings.unicode_split(tf.constant(self._names), "UTF-8")
        distance = tf.edit_distance(letters.to_sparse(), others.to_sparse(), normalize=False)
        kinds = ["categories"] * len(self._texts) + ["numbers"] * len(self._number_names)
        kind = dict(zip([*self._texts, *self._number_names], kinds, strict=True))
        said = tf.constant([f"{name} ({kind[name]})" for name in self._names])
        return ["; the nearest is", said[tf.argmin(distance)]]


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


@tf.function(reduce_retracing=True)
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


def _count(holds: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(holds, tf.int32), axis=1)


def _text(number: tf.Tensor) -> tf.Tensor:
    return tf.strings.as_string(number)


def _places(names: Sequence[str]) -> tf.lookup.StaticHashTable:
    """Name of a column, as in the items' table or as built examples have it, -> its place."""
    keys = [*names, *(f"item_{name}" for name in names), ""]
    values = [*range(len(names))] * 2 + [-1]
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values, tf.int32)), -1
    )


def _require(holds: tf.Tensor, received: tf.Tensor, message: str) -> None:
    """Fails in the graph with the first that does not hold."""
    tf.debugging.Assert(tf.reduce_all(holds), [message, tf.boolean_mask(received, ~holds)[:1]])


def _numbers(texts: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    """Texts as numbers; 0 for what is none, which is refused elsewhere, maybe later."""
    good = tf.strings.regex_full_match(texts, _NUMBER)
    return tf.strings.to_number(tf.where(good, texts, "0"), kind)


def _any(holds: tf.Tensor, group: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    return tf.math.unsorted_segment_max(tf.cast(holds, tf.int8), group, count) > 0


def _all(holds: tf.Tensor, group: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """[count, N] bool; of a group without members everything holds."""
    return tf.math.unsorted_segment_min(tf.cast(holds, tf.int8), group, count) > 0
