"""`recsys evaluate`: what rules of a request would cost the test queries of a run."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.gate.comparison import Difference
from models.names.errors import ConfigError, RecsysError
from pipeline import compare, examples, local, servable
from pipeline.lineage import RunRecord

_SIGNATURE = "recall_rules"
_QUERIES_AT_ONCE = 64
_LISTS = ("allow", "where", "boost", "pin")


def cost_of(
    record: RunRecord, rules: Mapping[str, Any], k: int, say: Callable[[str], None] = print
) -> list[Difference]:
    """Metrics of the test queries under the rules, against those without, by the measured model.

    One that was fitted again on everything has seen the test rows, so it is not asked. Lists are
    taken as the server gives them, so of equal scores the catalogue's first wins; a query knows
    what its split says, never the stored history.

    Args:
        record: a run with a model.
        rules: by the names of `serving.client.Query`: `where`, `boost` and so on.
        k: the length of the lists.
        say: takes a line of progress.

    Returns:
        Of hit rate, NDCG and items a list: both means, and the difference with its interval by
        user. And `coverage`, the share of the catalogue that is in any list, which is one number,
        so that its interval is its difference.

    Raises:
        ConfigError: the rules are not those of the model's items.
        RecsysError: the run has no model, or one that takes no rules, or no test queries.
    """
    raw = list(examples.read_serialized(Path(record.examples_uri) / "Split-test"))
    if not raw:
        raise RecsysError(f"run {record.run_id} of {record.pipeline} has no test queries")
    with local.readable_errors():
        local.quiet()
        import tensorflow as tf

        model = servable.model(record)
        if _SIGNATURE not in model.signatures:
            raise RecsysError(
                f"the model of run {record.run_id} takes no rules: it has no signature "
                f"{_SIGNATURE!r}; models that recommend have it, in runs of this version of the kit"
            )
        say(f"{record.pipeline}: {len(raw):,} test queries, with and without the rules ...")
        answers = []
        for asked in ({}, rules):
            inputs = _inputs(asked)
            found = []
            for start in range(0, len(raw), _QUERIES_AT_ONCE):
                batch = tf.constant(raw[start : start + _QUERIES_AT_ONCE])
                try:
                    answer = model.signatures[_SIGNATURE](
                        examples=batch, count=tf.constant(k), **inputs
                    )
                except tf.errors.InvalidArgumentError as error:
                    raise ConfigError(_said(str(error))) from None
                found += answer["item_id"].numpy().tolist()
            answers.append(found)
    rows = [examples.parse(one) for one in raw]
    users = [row["user_id"][0] for row in rows]
    targets = [set(row.get("targets", [])) for row in rows]
    size = sum(1 for _ in examples.read_serialized(Path(record.examples_uri) / "Split-items"))
    return _differences(users, targets, answers, k, size)


def _differences(
    users: list[bytes],
    targets: list[set[bytes]],
    answers: list[list[list[bytes]]],
    k: int,
    size: int,
) -> list[Difference]:
    """See `cost_of`; `answers` are the lists without and with the rules, "" where none is left."""
    names = (f"hr_{k}", f"ndcg_{k}", "items a list")
    values = [np.array([_metrics(*pair, k) for pair in zip(found, targets)]) for found in answers]
    parts = (compare.by_user(users, dict(zip(names, each.T, strict=True))) for each in values)
    found = compare.between(*parts)
    shown = [len({item for row in each for item in row if item}) / size for each in answers]
    change = shown[1] - shown[0]
    return [*found, Difference(f"coverage_{k}", *shown, change, change, change)]


def _metrics(answered: list[bytes], targets: set[bytes], k: int) -> tuple[float, float, float]:
    """Hit rate, NDCG and length of a list of at most k."""
    items = [item for item in answered if item]
    gain = sum(1 / math.log2(rank + 2) for rank, item in enumerate(items) if item in targets)
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(targets))))
    return float(gain > 0), gain / ideal if ideal else 0.0, float(len(items))


def _inputs(rules: Mapping[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    one = {
        "exclude_recent": tf.constant([rules.get("exclude_recent") or 0]),
        "diversity": tf.constant([rules.get("diversity") or ""]),
        "min_score": tf.constant(
            [math.nan if rules.get("min_score") is None else rules["min_score"]]
        ),
    }
    return {
        **{name: tf.constant([list(rules.get(name) or ())], tf.string) for name in _LISTS},
        **one,
    }


def _said(error: str) -> str:
    """What the graph said, of all that TensorFlow says around it."""
    return error.split("assertion failed: ")[-1].split("\n")[0].replace("[", "").replace("]", "")
