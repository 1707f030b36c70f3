"""The two tasks.

They are what the Trainer, the tests and the benchmarks ask instead of looking at a model's name.

A task has `name`, `metrics` (a `metrics.MetricSet`), and

    load(model_class, transform_graph, schema, splits)
        what a model of the class trains on
    evaluation(data, split)
        has `metrics` and `of(model)`; None where the split has no rows
    exporter(model, data)
        has `export(folder)`, and `notes` for the training log
    notes(model)
        what the training log says of what is served
"""

from collections.abc import Iterable

from models.contract.retrieve_task import RetrieveTask
from models.contract.score_task import ScoreTask
from models.names import registry
from models.names.errors import ConfigError
from models.names.index import EXACT, IndexConfig
from models.names.label import Label


def of(
    model: str,
    label: Label | None = None,
    asked: Iterable[str] = (),
    index: IndexConfig = EXACT,
    seed: int = 0,
) -> RetrieveTask | ScoreTask:
    """Returns the task of the model called `model`, with the metrics that a run asks for.

    Args:
        model: its name.
        label: of a `score` model.
        asked: metrics of a `retrieve` model besides.
        index: how a `retrieve` model finds the nearest items.
        seed: of the index.

    Raises:
        ConfigError: an unknown model, or a `score` model without a label.
    """
    if registry.get(model).task == "retrieve":
        return RetrieveTask(asked, index, seed)
    if label is None:
        raise ConfigError(
            f"{model} learns to score and requires label.column, such as rating; received no label"
        )
    return ScoreTask(label)
