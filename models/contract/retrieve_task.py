"""The task `Retrieve`: what the Trainer asks of it, and validation while training."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract.retrieve import RetrieveModel
from models.contract.retriever import Retriever
from models.inputs.data import TrainingData
from models.inputs.traced import traced
from models.measures import ranking, recommended
from models.names import metrics
from models.names.index import EXACT, IndexConfig


class Evaluation:
    """Mean metrics of a model on fixed queries, for validation while training.

    Args:
        data: the training data (for its look-ups).
        queries: [Q] serialized query rows.
        measured: the metrics.
    """

    def __init__(
        self,
        data: TrainingData,
        queries: npt.NDArray[np.object_],
        measured: metrics.MetricSet = metrics.RETRIEVE,
    ):
        self.metrics = measured
        self._data = data
        self._queries = queries

    def of(
        self, model: RetrieveModel[Any], exporter: Retriever | None = None
    ) -> Callable[[], dict[str, float]]:
        """Returns a function that evaluates `model` as it then is.

        The function is () -> {metric: mean over queries}.

        Args:
            model: the model.
            exporter: what serves it; given, the catalogue is as that has stored it.
        """
        retriever = Retriever(model, self._data, self.metrics)
        size = ranking.rows_at_once(len(self._data.items))
        batches = [
            retriever.reader.parse_queries(
                tf.constant(self._queries[start : start + size], tf.string)
            )
            for start in range(0, len(self._queries), size)
        ]
        compute = traced(retriever.measurer.metrics, reduce_retracing=True)

        def evaluate() -> dict[str, float]:
            catalogue = exporter.ranker.frozen_catalogue() if exporter else model.catalogue()
            totals: dict[str, list[float]] = {}
            shown = []
            for batch in batches:
                values = compute(batch, catalogue)
                if self.metrics.longest_list:
                    shown.append(values.pop(metrics.RECOMMENDED).numpy())
                    del values[metrics.CATALOGUE]
                for name, value in values.items():
                    totals.setdefault(name, []).append(float(tf.reduce_sum(value)))
            means = {name: sum(parts) / len(self._queries) for name, parts in totals.items()}
            return {**means, **self._of_lists(shown)}

        return evaluate

    def _of_lists(self, shown: list[npt.NDArray[np.int32]]) -> dict[str, float]:
        """Metrics of all lists together, of the positions [B, K] that each batch was shown."""
        found = {}
        for name in self.metrics.of_lists:
            kind, k = metrics.split(name)
            positions = np.concatenate([batch[:, :k].ravel() for batch in shown])
            counts = np.bincount(positions[positions >= 0], minlength=len(self._data.items))
            found[name] = recommended.OF_LISTS[kind](counts)
        return found


class RetrieveTask:
    """What the Trainer asks of the task; see `models.contract.tasks`.

    Args:
        asked: metrics that the run asks for besides, see `metrics.MetricSet.asking`.
        index: how what is exported finds the nearest items.
        seed: of the index.
    """

    name = "retrieve"

    def __init__(self, asked: Iterable[str] = (), index: IndexConfig = EXACT, seed: int = 0):
        self.metrics = metrics.of(self.name, asked=asked)
        self._index, self._seed = index, seed

    def load(
        self,
        model_class: type[RetrieveModel[Any]],
        transform_graph: str,
        schema: str,
        splits: dict[str, str],
    ) -> TrainingData:
        """Returns what a model of the class trains on."""
        return TrainingData(
            transform_graph,
            schema,
            splits,
            model_class.cold_items,
            model_class.reads_history,
            model_class.reads_context,
        )

    def evaluation(self, data: TrainingData, split: str) -> Evaluation | None:
        """Returns the evaluation on a split, None where it has no queries."""
        queries = data.queries(split)
        return Evaluation(data, queries, self.metrics) if len(queries) else None

    def exporter(self, model: RetrieveModel[Any], data: TrainingData) -> Retriever:
        """Returns the module whose `export(folder)` writes the SavedModel."""
        return Retriever(model, data, self.metrics, self._index, self._seed)

    def notes(self, model: RetrieveModel[Any]) -> dict[str, str]:
        """Returns what the training log says of the served model.

        It is `history`, see `RetrieveModel.session_based`.
        """
        return {"history": "session" if model.session_based else "added"}
