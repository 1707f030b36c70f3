"""How well a `retrieve` model ranks: metrics of serialized query rows, as they are exported."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from models.contract.ranker import Ranker
from models.contract.request_reader import RequestReader
from models.contract.rules import mask_items
from models.inputs.data import TrainingData
from models.inputs.traced import traced
from models.measures import ranking
from models.names import metrics


class Measurer(tf.Module):
    """Ranks the whole catalogue for queries whose targets are known.

    Args:
        ranker: what ranks.
        reader: of the queries.
        data: what the model was trained on.
        measured: what `evaluate` returns.
    """

    def __init__(
        self,
        ranker: Ranker,
        reader: RequestReader,
        data: TrainingData,
        measured: metrics.MetricSet,
    ):
        super().__init__()
        self._ranker = ranker
        self._reader = reader
        self._measured = measured
        self._information = None
        if measured.longest_list:
            share = np.maximum(data.item_counts, 1) / max(data.item_counts.sum(), 1)
            self._information = tf.Variable(-np.log2(share).astype(np.float32), trainable=False)
        # What two signatures have in common is traced once.
        self._measure = traced(self._measure_queries).__call__

    def metrics(self, queries: dict[str, Any], catalogue: Any) -> dict[str, tf.Tensor]:
        """Ranks the whole catalogue for parsed queries: metric name -> [B] float32."""
        return self._ranked(queries, catalogue)[0]

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `evaluate` signature: [B] serialized query rows -> metric name -> [B, 1] float32.

        They are of the exact ranking, and the recall of an index is what it finds of that. Where
        the run asks for metrics of what is recommended, `recommended` is [B, K] int32.
        """
        return self._by_parts(lambda rows: self._measure(rows)[0], examples)

    def recall_queries(self, examples: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `recall_queries` signature, on which a second stage is evaluated.

        It returns what `recommend` returns and what `evaluate` does.

        Args:
            examples: [B] serialized query rows; their own history is what the user has had, never
                the stored one.
            count: scalar int32, how many items.
        """

        def recalled(rows: tf.Tensor) -> dict[str, tf.Tensor]:
            values, scores, user, answered = self._measure(rows)
            k = tf.fill(tf.shape(rows), count)
            return {**self._ranker.top(scores, user, answered, k), **values}

        return self._by_parts(recalled, examples)

    def _by_parts(self, function: Callable[[tf.Tensor], Any], examples: tf.Tensor) -> Any:
        at_once = ranking.rows_at_once(self._ranker.item_ids.shape[0])
        return ranking.by_parts(function, examples, at_once)

    def _measure_queries(
        self, examples: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B] serialized query rows -> metrics [B, 1], and what to recall from.

        That is masked scores [B, N], users and who was answered.
        """
        queries = self._reader.parse_queries(examples)
        values, scores, answered = self._ranked(queries, self._ranker.catalogue)
        for name in self._measured.of_index:
            values[name] = self._ranker.index_recall(queries, scores, metrics.split(name)[1])
        return (
            {
                name: values[name][:, tf.newaxis] if values[name].shape.rank == 1 else values[name]
                for name in self._measured.outputs
            },
            scores,
            queries["query"].user,
            answered,
        )

    def _ranked(
        self, queries: dict[str, Any], catalogue: Any
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Metrics [B], masked scores [B, N] and who was answered [B]."""
        scores, popularity, answered = self._ranker.scores(queries["query"], catalogue)
        scores, popularity = (
            mask_items(scores, queries["masked"]),
            mask_items(popularity, queries["masked"]),
        )
        scores = self._ranker.reranked(queries["query"], scores, answered)
        values = ranking.retrieve_metrics(
            scores,
            popularity,
            queries["targets"],
            queries["target_count"],
            queries["candidates"],
            tuple(name for name in self._measured.asked if name not in self._measured.of_index),
            self._measured.longest_list,
            None if self._information is None else tf.convert_to_tensor(self._information),
        )
        return values, scores, answered
