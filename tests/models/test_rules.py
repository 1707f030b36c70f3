"""Rules of a request: against filter-then-sort in NumPy, and each kind by hand."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import tensorflow as tf

from models.contract.requests import signature
from models.contract.rules import Asked, Rulebook, Rules, rules_signature
from models.inputs.int8 import Int8Table
from models.inputs.item_columns import ItemColumns
from models.inputs.preprocessing import FIRST_TOKEN
from serving.server.rules import Judge
from serving.state import Item

COLOURS = ["red", "green", "blue", "odd | one or two"]
TAGS = ["a", "b", "c", "d", "e"]


class Catalogue:
    """Items with a colour (one in ten has none), 0 to 3 tags, and a price (one in ten has none)."""

    def __init__(self, size: int, seed: int):
        draw = np.random.default_rng(seed)
        self.ids = [f"i{place}" for place in range(size)]
        self.colour = [
            None if draw.random() < 0.1 else COLOURS[draw.integers(4)] for _ in range(size)
        ]
        self.tags = [
            draw.choice(TAGS, draw.integers(0, 4), replace=False).tolist() for _ in range(size)
        ]
        price = np.where(draw.random(size) < 0.1, np.nan, draw.integers(0, 100, size))
        # One by one, numbers of Python's compare much faster than NumPy's.
        self.price = price.tolist()
        # Of equal scores the first position wins, so many are equal; some are below 0.
        self.scores = (draw.integers(-20, 60, size) / 10).astype(np.float32)
        self.vectors = draw.normal(size=[size, 8]).astype(np.float32)

    def rulebook(self) -> Rulebook:
        columns = ItemColumns(
            {
                "colour": tf.ragged.constant(
                    [[c] if c else [] for c in self.colour], tf.string, ragged_rank=1
                ),
                "tags": tf.ragged.constant(self.tags, tf.string, ragged_rank=1),
            },
            {"price": np.array(self.price)},
        )
        keys = tf.constant(self.ids)
        index = tf.range(FIRST_TOKEN, len(self.ids) + FIRST_TOKEN, dtype=tf.int64)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, index), 1)
        return Rulebook(columns, table, len(self.ids), tf.constant(self.vectors))


class Asking:
    """Answers of a rulebook, as a signature gives them: one row a request."""

    def __init__(self, catalogue: Catalogue, in_bytes: bool = False):
        self.catalogue = catalogue
        self.book = catalogue.rulebook()
        if in_bytes:
            self.book.vectors = Int8Table(self.book.vectors.numpy())

        def answer(scores, history, seen, excluded, k, **rules):
            lists = (
                tf.RaggedTensor.from_tensor(each, padding=0) for each in (history, seen, excluded)
            )
            return self.book.answer(Asked(scores, *lists), Rules(**rules), lambda scores: scores, k)

        lists = {
            name: tf.TensorSpec([None, None], tf.int64, name=name)
            for name in ("history", "seen", "excluded")
        }
        self._answer = signature(
            answer,
            scores=tf.TensorSpec([None, len(catalogue.ids)], tf.float32, name="scores"),
            **lists,
            k=tf.TensorSpec([None], tf.int32, name="k"),
            **rules_signature(),
        )

    def __call__(self, k=10, history=(), seen=(), excluded=(), **rules):
        """Positions, scores, and why there are fewer, of one request."""
        inputs = {
            **{name: [list(rules.get(name, []))] for name in ("allow", "where", "boost", "pin")},
            "exclude_recent": [rules.get("exclude_recent", 0)],
            "diversity": [rules.get("diversity", "")],
            "min_score": [rules.get("min_score", np.nan)],
        }
        kinds = {name: spec.dtype for name, spec in rules_signature().items()}
        ids = {"history": history, "seen": seen, "excluded": excluded}
        answer = self._answer(
            scores=self.catalogue.scores[np.newaxis],
            k=tf.constant([k]),
            **{
                name: tf.constant([[place + FIRST_TOKEN for place in places]], tf.int64)
                for name, places in ids.items()
            },
            **{name: tf.constant(value, kinds[name]) for name, value in inputs.items()},
        )
        position = answer["position"][0].numpy()
        there = position >= 0
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        return position[there].tolist(), answer["score"][0].numpy()[there], answer["fewer"][0]


@pytest.fixture(scope="module")
def asking():
    return Asking(Catalogue(60, 0))


def random_term(draw) -> tuple[str, callable]:
    """A condition in words, and as a function of a catalogue's item."""
    kind = draw.integers(3)
    turned = draw.random() < 0.3
    if kind == 0:
        chosen = draw.choice(COLOURS, draw.integers(1, 3), replace=False).tolist()
        written = [c.replace("|", r"\|").replace(" or ", r" \or ") for c in chosen]
        if len(chosen) == 1 and draw.random() < 0.5:
            text = f"colour = {written[0]}"
        else:
            text = f"colour in {' | '.join(written)}"

        def holds(items, place):
            return items.colour[place] in chosen

    elif kind == 1:
        chosen = draw.choice([*TAGS, "nobody has it"], 2, replace=False).tolist()
        text = f"tags in {'|'.join(chosen)}"

        def holds(items, place):
            return any(tag in chosen for tag in items.tags[place])

    else:
        sign = draw.choice(["<", "<=", ">", ">=", "=", "in"])
        bound = int(draw.integers(0, 100))
        text = f"price {sign} {bound}" + (" | 7" if sign == "in" else "")
        compare = {
            "<": operator.lt,
            "<=": operator.le,
            ">": operator.gt,
            ">=": operator.ge,
            "=": operator.eq,
            "in": lambda value, bound: value in (bound, 7),
        }[sign]

        def holds(items, place):
            return compare(items.price[place], bound)

    if turned:
        return f"not {text}", lambda items, place: not holds(items, place)
    return text, holds


def random_condition(draw) -> tuple[str, callable]:
    terms = [random_term(draw) for _ in range(draw.integers(1, 3))]
    return (
        " or ".join(text for text, _ in terms),
        lambda items, place: any(holds(items, place) for _, holds in terms),
    )


def filter_then_sort(items, k, seen, excluded, history, wheres, boosts, rules) -> list[int]:
    """What the rules say, item by item."""
    allow = {*rules.get("allow", [])}
    out = {
        *seen,
        *excluded,
        *(history[-rules["exclude_recent"] :] if rules["exclude_recent"] else ()),
    }
    left = []
    for place, score in enumerate(items.scores):
        if place in out or (allow and items.ids[place] not in allow):
            continue
        if not all(holds(items, place) for holds in wheres):
            continue
        factor, added = np.float32(1), np.float32(0)
        for holds, sign, number in boosts:
            if holds(items, place):
                factor, added = (
                    (factor * np.float32(number), added)
                    if sign == "*"
                    else (factor, added + number)
                )
        score = (score * factor if score >= 0 else score / factor) + np.float32(added)
        if not score < rules.get("min_score", np.nan):
            left.append((-score, place))
    return [place for _, place in sorted(left)][:k]


def test_200_random_rules_over_10_000_items_are_filter_then_sort():
    items = Catalogue(10_000, 1)
    asking, draw = Asking(items), np.random.default_rng(2)
    answers = []
    for _ in range(200):
        wheres = [random_condition(draw) for _ in range(draw.integers(0, 3))]
        boosts = [
            (*random_condition(draw), str(draw.choice(["*", "+"])), int(draw.integers(1, 4)))
            for _ in range(draw.integers(0, 3))
        ]
        k = int(draw.integers(1, 200))
        seen, excluded, history = (draw.choice(10_000, 50).tolist() for _ in range(3))
        rules = {"exclude_recent": int(draw.integers(0, 20))}
        if draw.random() < 0.3:
            rules["allow"] = [items.ids[place] for place in draw.choice(10_000, 300)] + ["nobody"]
        if draw.random() < 0.3:
            rules["min_score"] = 3.0
        expected = filter_then_sort(
            items,
            k,
            seen,
            excluded,
            history,
            [holds for _, holds in wheres],
            [(holds, sign, number) for _, holds, sign, number in boosts],
            rules,
        )
        found, _, fewer = asking(
            k,
            history,
            seen,
            excluded,
            where=[text for text, _ in wheres],
            boost=[f"{text} => {sign} {number}" for text, _, sign, number in boosts],
            **rules,
        )
        assert found == expected, (wheres, boosts, rules)
        assert (fewer == b"") == (len(expected) == k)
        answers.append(len(expected))
    assert min(answers) < 20 < max(answers)  # some rules leave little, some much


def test_what_a_server_was_told_of_items_is_judged_as_their_columns_are():
    """Items that entered are in no graph: `serving.server.rules` reads the same conditions."""
    items, draw = Catalogue(200, 3), np.random.default_rng(4)
    told = [
        Item(
            item_id.encode(),
            {
                **({"colour": items.colour[place]} if items.colour[place] else {}),
                "item_tags": [str(tag) for tag in items.tags[place]],
                **({} if np.isnan(items.price[place]) else {"price": float(items.price[place])}),
            },
        )
        for place, item_id in enumerate(items.ids)
    ]
    judge, book, taken = Judge(told), items.rulebook(), []
    for number in range(200):
        wheres = [random_condition(draw)[0] for _ in range(draw.integers(0, 3))]
        boosts = [
            f"{random_condition(draw)[0]} => {draw.choice(['*', '+', '-'])} {draw.integers(1, 4)}"
            for _ in range(draw.integers(0, 3))
        ]
        allow = [str(each) for each in draw.choice(items.ids, 150)] if number % 3 == 0 else []
        lists = {"allow": allow, "where": wheres, "boost": boosts, "pin": []}
        rules = Rules(
            **{name: tf.constant([values], tf.string) for name, values in lists.items()},
            exclude_recent=tf.constant([0]),
            diversity=tf.constant([""]),
            min_score=tf.constant([np.nan]),
        )
        judged = book.judge(rules)
        coded = {name: [each.encode() for each in values] for name, values in lists.items()}
        qualifies = judge.qualifies(coded["allow"], coded["where"])
        factor, added = judge.boosts(coded["boost"])
        np.testing.assert_array_equal(qualifies, judged.qualifies[0], str((wheres, allow)))
        np.testing.assert_array_equal(factor, judged.factor[0], str(boosts))
        np.testing.assert_array_equal(added, judged.added[0], str(boosts))
        taken.append(qualifies.mean())
    assert min(taken) < 0.1 and 0.3 < np.mean(taken) < 0.9


def test_why_there_are_fewer(asking):
    """Two items are allowed, one of them is seen: one answer where three were asked."""
    found, _, fewer = asking(3, seen=[1], allow=["i1", "i2", "nobody"])
    assert found == [2]
    assert fewer == (
        b"1 answered: allow and where take 2 of 60 items; of these the user has had, or are "
        b"excluded, 1, are below min_score 0"
    )


def test_pins_stand_where_they_are_asked_for(asking):
    best = asking(4)[0]
    low = int(np.argmin(asking.catalogue.scores))
    ids = asking.catalogue.ids
    # The second and the third place; an unknown id and the same once more leave theirs.
    found = asking(5, pin=["", ids[low], "nobody", ids[low]])[0]
    assert found == [best[0], low, *best[1:4]]
    # Whatever the rules say, but for what is excluded.
    assert asking(2, pin=[ids[low]], where=["price > 1000"])[0] == [low]
    assert asking(2, pin=[ids[low]], excluded=[low])[0] == best[:2]
    assert asking(1, pin=["", ids[low]])[0] == best[:1]  # beyond k


def test_a_factor_above_1_is_up_for_scores_below_0_too(asking):
    """-1 / 2 is above -1."""
    place = int(np.argmin(asking.catalogue.scores))
    score = asking.catalogue.scores[place]
    assert score < 0
    _, scores, _ = asking(
        1, allow=[asking.catalogue.ids[place]], boost=["price >= 0 or not price >= 0 => * 2"]
    )
    np.testing.assert_allclose(scores, [score / 2])


def test_at_most_so_many_of_a_value(asking):
    """Down the ranking, an item is taken unless one of its tags stands twice above it."""
    items = asking.catalogue
    order = sorted(range(60), key=lambda place: (-items.scores[place], place))
    expected, counts = [], dict.fromkeys(TAGS, 0)
    for place in order:
        if all(counts[tag] < 2 for tag in items.tags[place]):
            expected.append(place)
            for tag in items.tags[place]:
                counts[tag] += 1
    assert asking(60, diversity="tags <= 2")[0] == expected
    assert asking(4, diversity="tags <= 2")[0] == expected[:4]


@pytest.mark.parametrize("in_bytes", [False, True])
def test_maximal_marginal_relevance(asking, in_bytes):
    if in_bytes:
        asking = Asking(asking.catalogue, in_bytes=True)
    items = asking.catalogue
    share = (items.scores - items.scores.min()) / np.ptp(items.scores)
    unit = asking.book.vectors.numpy()
    expected = [int(np.argmax(share))]
    while len(expected) < 10:
        value = 0.3 * share - 0.7 * (unit @ unit[expected].T).max(1)
        value[expected] = -np.inf
        expected.append(int(np.argmax(value)))
    assert asking(10, diversity="mmr .3")[0] == expected
    assert asking(10, diversity="mmr 1")[0] == asking(10)[0]


@pytest.mark.parametrize(
    "rules, said",
    [
        ({"where": ["color = red"]}, r"color.*nearest is.*colour \(categories\)"),
        ({"where": ["colour > 3"]}, r"a column of numbers.*colour \(categories\)"),
        ({"where": ["price < cheap"]}, "a number to compare.*cheap"),
        ({"where": ["price"]}, "COLUMN OPERATOR VALUE.*price"),
        ({"boost": ["price > 3"]}, "CONDITION => .* FACTOR.*price > 3"),
        ({"boost": ["price > 3 => * 0"]}, "a factor above 0"),
        ({"boost": ["price"]}, "CONDITION => .* FACTOR.*price"),  # nor is it a condition
        ({"diversity": "price <= 2"}, r"a column of categories.*price \(numbers\)"),
        ({"diversity": "tags"}, "COLUMN <= COUNT.*tags"),
        ({"diversity": "tags <= 0"}, "COLUMN <= COUNT.*1 or more.*tags <= 0"),
        ({"exclude_recent": -1}, "exclude_recent: required: 0 or more.*-1"),
        ({"exclude_recent": -1, "history": [2]}, "exclude_recent: required: 0 or more.*-1"),
    ],
)
def test_what_is_wrong_is_named(asking, rules, said):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s){said}"):
        asking(3, **rules)
