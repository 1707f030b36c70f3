"""Two stages in one SavedModel: a `retrieve` model recalls, a `score` model orders.

The candidates are recalled from the whole catalogue.

Source: the division of labour of Covington et al., RecSys 2016. Deviation: the paper's ranking
alone orders the candidates; here

    score(c) = w z(rank(c)) + (1 - w) z(recall(c))
    z(x)     = (x - mean) / deviation over the candidates of the request,

of which the paper's is w = 1. The weight is chosen on the validation queries, because a ranker that
learned ratings or clicks need not know what comes next.
"""

import math
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract import explain
from models.contract.request_reader import parse_requests
from models.contract.requests import K, save, signature
from models.contract.rules import boosted, rules_signature, unboosted, with_pins
from models.contract.scorer import RECALLED
from models.inputs.history import STRINGS
from models.inputs.traced import traced
from models.measures import ranking
from models.names import metrics
from models.names.features import HISTORY_COLUMNS, REQUEST_INPUTS

WEIGHTS = tuple(number / 10 for number in range(11))
_BATCH = 256  # queries that are ranked at once while the weight is chosen
_HASHES = 2**62
_EVENTS, _RANK, _RULES = "recommend_events", "rank_told", "recommend_rules"
_SIMILAR, _EXPLAIN, _EXPLAINED = "similar", "explain", "recommend_explained"


class TwoStage(tf.Module):
    """Answers raw requests: recall, look-up of the features, ranking.

    What was seen or is excluded is masked while recalling, so that no candidate is lost to it.
    Users who get popularity, and users whom the ranker does not know, keep the order of the recall.

    Args:
        recall: folder of a `retrieve` model's SavedModel.
        rank: folder of a `score` model's SavedModel; None leaves the order to the recall.
        source: what the recall is called in answers.
        candidates: how many items are ranked, at least 1; more where a request wants more.
        weight: of the ranking, 0 to 1.
    """

    def __init__(
        self, recall: str, rank: str | None, source: str, candidates: int, weight: float = 1.0
    ):
        super().__init__()
        self._recall = tf.saved_model.load(recall)
        self._rank = tf.saved_model.load(rank) if rank else None
        self._source = source
        self._candidates = candidates
        self.weight = tf.Variable(weight, dtype=tf.float32, trainable=False)

    def recommend(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend` signature: as of the recall, and where each item comes from.

        `recommend_events` is the same with all that the recall reads.

        Args:
            user_id: [B] strings.
            history: [B, H] strings padded with "".
            exclude: [B, E] strings padded with "".
            k: [B] int32, at least 1, or one for all.
            beside: what the recall reads besides (see `RequestReader.events_signature`) and the
                context that the ranker reads, all of it or nothing.

        Returns:
            `item_id` [B, K], "" beyond a row's k; `score` [B, K] float32, to be compared within an
            answer only; `source` [B, K]: the recall's name, `segment` or `popularity`; and
            `strategy` [B].
        """
        count = tf.fill(tf.shape(k), tf.maximum(_longest(k), self._candidates))
        recall = self._told(self._recall, _EVENTS) if beside else {}
        found = self._recall.signatures[_EVENTS if recall else "recommend"](
            user_id=user_id,
            history=history,
            exclude=exclude,
            k=count,
            **{name: beside[name] for name in recall},
        )
        told = self._told_to_rank(history, beside)
        return self._answer(self._stages(user_id, found, told), found, k)

    def recommend_rules(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend_rules` signature: `recommend` under the rules of `models.contract.rules`.

        What is answered at all, and how alike, is decided where the whole catalogue is ranked, by
        the recall and its scores (`min_score` too); boosts and pins hold of the final order too.
        """
        return self._recommend_rules(user_id, history, exclude, k, beside)[0]

    def _recommend_rules(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        beside: dict[str, tf.Tensor],
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """The answer, and what the recall says of its items, as `RECALLED` has it."""
        rules = {name: beside.pop(name) for name in rules_signature()}
        count = tf.fill(tf.shape(k), tf.maximum(_longest(k), self._candidates))
        found = self._recall.signatures[_RULES](
            user_id=user_id,
            history=history,
            exclude=exclude,
            k=count,
            **rules,
            **{name: beside[name] for name in self._told(self._recall, _RULES)},
        )
        changes = found["factor"], found["added"]
        found = {**found, "score": unboosted(found["score"], *changes)}
        told = self._told_to_rank(history, beside)
        scores = boosted(self._ordered(self._stages(user_id, found, told), self.weight), *changes)
        # The recall has put the pins where they belong, and left out those that nobody may have.
        size = tf.shape(scores)[1]
        pin = rules["pin"][:, :size]
        same = (found["item_id"][:, : tf.shape(pin)[1]] == pin) & (pin != "")
        pins = tf.where(same, tf.range(tf.shape(pin)[1]), -1)
        taken = tf.pad(same, [[0, 0], [0, size - tf.shape(pin)[1]]])
        top, place = tf.math.top_k(tf.where(taken, float("-inf"), scores), size)
        place = with_pins(tf.where(top > float("-inf"), place, -1), pins, k)
        place = place[:, : tf.minimum(_longest(k), size)]
        item, score, recalled, factor, added = (
            tf.gather(values, tf.maximum(place, 0), batch_dims=1)
            for values in (found["item_id"], scores, found["score"], *changes)
        )
        there = place >= 0
        fewer = tf.reduce_sum(tf.cast(there, tf.int32), axis=1) < k
        answer = {
            "item_id": tf.where(there, item, ""),
            "score": tf.where(there, score, 0.0),
            "factor": tf.where(there, factor, 1.0),
            "added": tf.where(there, added, 0.0),
            "source": tf.where(there, self._source_of(found)[:, tf.newaxis], ""),
            "strategy": found["strategy"],
            "fewer": tf.where(fewer, found["fewer"], ""),
        }
        return answer, {"recall_score": recalled, "recall_source": answer["source"]}

    def recommend_explained(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend_explained` signature: `recommend_rules`, and what carried each item.

        It takes besides how many `reasons` an item has, and answers what `explain` does.
        """
        reasons, pin = beside.pop("reasons"), beside["pin"]
        answer, recalled = self._recommend_rules(user_id, history, exclude, k, beside)
        why = self._explain(user_id, history, answer["item_id"], reasons, beside, recalled)
        return {**answer, **why, **explain.with_pins(why, answer["item_id"], pin)}

    def explain(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        item_id: tf.Tensor,
        reasons: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `explain` signature: what carries items in either stage.

        Args:
            user_id: as of `recommend`, which has the next and `beside` too.
            history: [B, H].
            item_id: [B, K] strings, "" for none.
            reasons: [B] int32, how many.
            beside: as of `recommend_events`.

        Returns:
            `reason`, `weight` and `basis` of the recall (`models.contract.explain`), and of the
            ranker `field` and `field_weight` [B, K, F], those first that moved its score most;
            empty where it does not order. What the recall would tell it of the items is missing.
            `strategy` [B].
        """
        missing = {"recall_score": tf.fill(tf.shape(item_id), math.nan)}
        missing["recall_source"] = tf.fill(tf.shape(item_id), "")
        return self._explain(user_id, history, item_id, reasons, beside, missing)

    def _explain(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        item_id: tf.Tensor,
        reasons: tf.Tensor,
        beside: Mapping[str, tf.Tensor],
        recalled: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        asked = {"user_id": user_id, "history": history, "reasons": reasons, "item_id": item_id}
        told = {name: beside[name] for name in self._told(self._recall, _EXPLAIN)}
        why = dict(self._recall.signatures[_EXPLAIN](**asked, **told))
        if self._rank is None:
            return why
        told = {**self._told_to_rank(history, beside), **recalled}
        _, read = self._rank.signatures[_EXPLAIN].structured_input_signature
        told = {name: told[name] for name in read if name in told}
        of_rank = self._rank.signatures[_EXPLAIN](user_id=user_id, item_id=item_id, **told)
        orders = _personal(why) & of_rank["known"] & (self.weight > 0)
        orders = orders[:, tf.newaxis, tf.newaxis]
        return {
            **why,
            "field": tf.where(orders, of_rank["reason"], ""),
            "field_weight": tf.where(orders, of_rank["weight"], 0.0),
        }

    def _answer(
        self, parts: dict[str, tf.Tensor], found: dict[str, tf.Tensor], k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The first k [B] of what was found, in the order of both stages."""
        longest = _longest(k)
        scores = self._ordered(parts, self.weight)
        # Equal scores stay in the order of the recall.
        top, place = tf.math.top_k(scores, tf.minimum(longest, tf.shape(scores)[1]))
        wanted = (tf.range(tf.shape(top)[1]) < k[:, tf.newaxis]) & (top > float("-inf"))
        source = self._source_of(found)
        return {
            "item_id": tf.where(wanted, tf.gather(found["item_id"], place, batch_dims=1), ""),
            "score": tf.where(wanted, top, 0.0),
            "source": tf.where(wanted, source[:, tf.newaxis], ""),
            "strategy": found["strategy"],
        }

    def recommend_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for serialized tf.Examples, where everything but `user_id` may be left out."""
        rows = parse_requests(examples)
        count = tf.maximum(_longest(rows["k"]), self._candidates)
        found = self._recall.signatures["recall_examples"](examples=examples, count=count)
        parts = self._stages(rows["user_id"], found, examples=examples)
        return self._answer(parts, found, rows["k"])

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `evaluate` signature of two stages.

        Maps [B] serialized query rows -> metric of `metrics.TWO_STAGE` -> [B, 1] float32.
        """
        parts = self._queries(examples)
        values = {**parts["reference"], **_measure(parts, self._ordered(parts, self.weight))}
        values["lift_alone_ndcg_10"] = values["ndcg_10"] - values["alone_ndcg_10"]
        return {name: values[name][:, tf.newaxis] for name in metrics.TWO_STAGE.means}

    def choose_weight(self, queries: npt.NDArray[np.object_]) -> list[dict[str, float]]:
        """Sets the weight to the one of `WEIGHTS` with the best NDCG@10.

        Of equal ones it takes the smallest.

        Args:
            queries: [Q] serialized validation rows; where there are none, the ranking decides
                alone.

        Returns:
            A dict a weight: `weight`, `hr_10`, `ndcg_10`.
        """
        if self._rank is None or not len(queries):
            self.weight.assign(0.0 if self._rank is None else 1.0)
            return []
        weights = tf.constant(WEIGHTS, tf.float32)

        @traced(input_signature=[tf.TensorSpec([None], tf.string)])
        def sums(examples: tf.Tensor) -> tf.Tensor:
            parts = self._queries(examples)

            def of(weight: tf.Tensor) -> tf.Tensor:
                values = _measure(parts, self._ordered(parts, weight))
                return tf.stack([tf.reduce_sum(values[name]) for name in ("hr_10", "ndcg_10")])

            return tf.map_fn(of, weights)

        parts = [
            sums(tf.constant(queries[start : start + _BATCH], tf.string))
            for start in range(0, len(queries), _BATCH)
        ]
        means = np.sum([part.numpy() for part in parts], axis=0) / len(queries)
        self.weight.assign(WEIGHTS[int(np.argmax(means[:, 1]))])
        return [
            {"weight": weight, "hr_10": float(hr), "ndcg_10": float(ndcg)}
            for weight, (hr, ndcg) in zip(WEIGHTS, means, strict=True)
        ]

    def export(self, folder: str) -> None:
        """Writes the SavedModel; the ranker's own `score` stays among the signatures."""
        examples = tf.TensorSpec([None], tf.string, name="examples")
        asked = {
            "user_id": tf.TensorSpec([None], tf.string, name="user_id"),
            "history": tf.TensorSpec([None, None], tf.string, name="history"),
            "exclude": tf.TensorSpec([None, None], tf.string, name="exclude"),
            "k": K,
        }
        recommend = signature(self.recommend, **asked)
        signatures = {
            "serving_default": recommend,
            "recommend": recommend,
            "recommend_examples": traced(self.recommend_examples).get_concrete_function(examples),
            "evaluate": traced(self.evaluate).get_concrete_function(examples),
        }
        beside = self._told(self._recall, _EVENTS) | self._told(self._rank, _RANK)
        if beside:
            signatures[_EVENTS] = signature(self.recommend, **asked, **beside)
        if _RULES in self._recall.signatures:
            beside = self._told(self._recall, _RULES) | self._told(self._rank, _RANK)
            signatures[_RULES] = signature(
                self.recommend_rules, **asked, **beside, **rules_signature()
            )
        stages = [stage for stage in (self._recall, self._rank) if stage is not None]
        if all(_EXPLAIN in stage.signatures for stage in stages):
            why = explain.reasons_signature()
            signatures[_EXPLAINED] = signature(
                self.recommend_explained, **asked, **beside, **rules_signature(), **why
            )
            signatures[_EXPLAIN] = signature(
                self.explain,
                user_id=asked["user_id"],
                history=asked["history"],
                item_id=tf.TensorSpec([None, None], tf.string, name="item_id"),
                **beside,
                **why,
            )
        if _SIMILAR in self._recall.signatures:
            signatures[_SIMILAR] = self._recall.signatures[_SIMILAR]
        if self._rank is not None:
            signatures["score"] = self._rank.signatures["score"]
        save(self, folder, signatures)

    def _queries(self, examples: tf.Tensor) -> dict[str, Any]:
        """Candidates of [B] serialized query rows.

        Beside them: where the targets are among them, and what the recall reaches alone.
        """
        rows = tf.io.parse_example(
            examples,
            {"user_id": tf.io.FixedLenFeature([], tf.string, default_value=""), "targets": STRINGS},
        )
        # As far as the recall stage is measured, though only the candidates are ranked.
        whole = self._recall.signatures["recall_queries"](
            examples=examples, count=tf.constant(max(self._candidates, *metrics.RECALL_STAGE))
        )
        found = {
            name: whole[name][:, : self._candidates]
            if name in ("item_id", "score")
            else whole[name]
            for name in whole
        }
        reference = {
            "popularity_hr_10": found["popularity_hr_10"],
            "popularity_ndcg_10": found["popularity_ndcg_10"],
        }
        reference.update({f"alone_{name}": found[name] for name in ("hr_10", "ndcg_10")})
        wanted = rows["targets"].to_tensor("")
        recalled, targets = (
            tf.strings.to_hash_bucket_fast(ids, _HASHES) for ids in (whole["item_id"], wanted)
        )
        targets, target_count = ranking.distinct(
            tf.where(wanted == "", tf.cast(-1, tf.int64), targets),
            tf.cast(rows["targets"].row_lengths(), tf.float32),
        )
        same = recalled[:, tf.newaxis] == targets[:, :, tf.newaxis]
        place = tf.where(
            tf.reduce_any(same, axis=2),
            tf.argmax(tf.cast(same, tf.int8), axis=2, output_type=tf.int32),
            -1,
        )
        # What the recall hands on is cut off by place: here a tie has been broken already.
        rank = tf.where(place >= 0, tf.cast(place, tf.float32) + 1.0, float("inf"))
        for cutoff in metrics.RECALL_STAGE:
            recall = ranking.recall(rank, target_count, cutoff)
            reference[f"recall_stage_{cutoff}"] = recall[:, tf.newaxis]
        return {
            **self._stages(rows["user_id"], found, examples=examples),
            "reference": {name: value[:, 0] for name, value in reference.items()},
            "targets": tf.where(place < self._candidates, place, -1),
            "target_count": target_count,
        }

    def _stages(
        self,
        user_id: tf.Tensor,
        found: dict[str, tf.Tensor],
        told: Mapping[str, tf.Tensor] = types.MappingProxyType({}),
        examples: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The two scores of [B, C] candidates; the context is `told`, or stands in `examples`."""
        there = found["item_id"] != ""
        parts = {
            "there": there,
            "raw": found["score"],
            "recall": _standardised(found["score"], there),
            "rank": None,
        }
        if self._rank is None:
            return parts
        shape = tf.shape(found["item_id"])
        recalled = {
            "item_id": found["item_id"],
            "recall_score": found["score"],
            "recall_source": tf.broadcast_to(self._source_of(found)[:, tf.newaxis], shape),
        }
        if examples is not None and "rank_examples" in self._rank.signatures:
            ranked = self._rank.signatures["rank_examples"](examples=examples, **recalled)
        elif told:
            ranked = self._rank.signatures[_RANK](user_id=user_id, **recalled, **told)
        else:
            ranked = self._rank.signatures["rank"](user_id=user_id, item_id=found["item_id"])
        parts["rank"] = _standardised(ranked["score"], there)
        parts["ranked"] = _personal(found) & ranked["known"]
        return parts

    def _source_of(self, found: dict[str, tf.Tensor]) -> tf.Tensor:
        """[B] what recalled a request's candidates."""
        popular = tf.where(found["strategy"] == "fallback", "popularity", found["strategy"])
        return tf.where(_personal(found), self._source, popular)

    def _told_to_rank(
        self, history: tf.Tensor, beside: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """What the ranker is told of a request: nothing of one of ids alone."""
        told = {name: beside[name] for name in self._told(self._rank, _RANK)} if beside else {}
        return {**told, "history": history} if told and self._reads_history() else told

    def _reads_history(self) -> bool:
        """Whether the ranker reads what the user had."""
        if self._rank is None:
            return False
        return "history" in self._rank.signatures[_RANK].structured_input_signature[1]

    @staticmethod
    def _told(stage: Any, signature: str) -> dict[str, tf.TensorSpec]:
        """What a stage reads of a request besides ids, by the signature that takes it."""
        if stage is None or signature not in stage.signatures:
            return {}
        _, inputs = stage.signatures[signature].structured_input_signature
        own = {"item_id", *RECALLED, *REQUEST_INPUTS, *rules_signature()} - set(HISTORY_COLUMNS)
        return {name: spec for name, spec in inputs.items() if name not in own}

    def _ordered(self, parts: dict[str, tf.Tensor], weight: tf.Tensor) -> tf.Tensor:
        """[B, C] scores of the candidates, -inf where there is none."""
        scores = parts["raw"]
        if parts["rank"] is not None:
            blended = weight * parts["rank"] + (1 - weight) * parts["recall"]
            scores = tf.where(parts["ranked"][:, tf.newaxis], blended, scores)
        return tf.where(parts["there"], scores, float("-inf"))


def _longest(k: tf.Tensor) -> tf.Tensor:
    """The largest of [B] numbers of items, which must be positive."""
    with tf.control_dependencies([tf.debugging.assert_positive(k, message="k must be at least 1")]):
        return tf.reduce_max(tf.concat([k, [1]], axis=0))


def _personal(found: dict[str, tf.Tensor]) -> tf.Tensor:
    """[B] bool: whether a model answered, and not popularity."""
    return (found["strategy"] == "model") | (found["strategy"] == "fold-in")


def _standardised(scores: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """[B, C] scores less their row's mean, over its standard deviation; 0 where all are equal."""
    mask = tf.cast(there, tf.float32)
    count = tf.reduce_sum(mask, axis=1, keepdims=True)
    centred = (
        scores - tf.math.divide_no_nan(tf.reduce_sum(scores * mask, axis=1, keepdims=True), count)
    ) * mask
    deviation = tf.sqrt(
        tf.math.divide_no_nan(tf.reduce_sum(centred**2, axis=1, keepdims=True), count)
    )
    return tf.math.divide_no_nan(centred, deviation)


def _measure(parts: dict[str, Any], scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Metrics of ordered candidates; a target that was not recalled is at no rank at all."""
    rank, optimistic = ranking.ranks(scores, parts["targets"])
    return ranking.cutoff_metrics(rank, optimistic, parts["target_count"])
