"""Names of the metrics that the `evaluate` signatures return.

Light: the gate and the command line read them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from models.names.errors import ConfigError, nearest
from models.names.label import LABEL, WEIGHT, Label

CUTOFFS = (10, 20)

RANKED = (
    "hr_10",
    "hr_20",
    "recall_10",
    "recall_20",
    "ndcg_10",
    "ndcg_20",
    "mrr_10",
    "mrr_20",
    "map_10",
    "tie_gap_10",
)
"""Per-query values that the ranks of the targets give."""

RETRIEVE_METRICS = (
    *RANKED,
    "popularity_hr_10",
    "popularity_ndcg_10",
    "lift_ndcg_10",
    "ncf99_hr_10",
    "ncf99_ndcg_10",
)
"""Per-query values, averaged over queries. \
`lift_` is ours minus popularity's on the same queries; `tie_gap_` is what
counting ties in our favour would add; \
`ncf99_` ranks among sampled candidates and is there to compare with papers."""

SAMPLED = "ncf99"
"""What the names of those among sampled candidates begin with."""

AT_CUTOFF = {
    "hr": "HR",
    "recall": "Recall",
    "recall_min": "Recall/min",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "precision": "Precision",
}
"""What a run may ask for at any cut-off, `recall_50`: the ranks of a query's targets give it."""

AUC = "auc"
"""A run may ask for it: the AUC of a query, `models.measures.ranking.query_auc`."""

INDEX_RECALL = "index_recall"
"""Of a query: which share of the exact best so many the index found, `index_recall_100`; 1 where \
there is none."""

_OF_A_LIST = {"novelty": "Novelty"}
_OF_ALL_LISTS = {"coverage": "Coverage", "gini": "Gini"}

RECOMMENDED = "recommended"
CATALOGUE = "catalogue_size"
"""Outputs of `evaluate` where a metric of recommended items was asked for: their positions in the \
catalogue, [B, K] with -1 for none, and how many items there are, [B, 1]."""

RECALL_STAGE = (50, 100, 200, 500)
"""Cut-offs at which the recall stage of a bundle is measured."""

_LOWER_IS_BETTER = ("log_loss", "mse", "mae")

GROUP_METRICS = (
    "group_ndcg_10",
    "random_group_ndcg_10",
    "lift_group_ndcg_10",
    "groups",
    "groups_left_out",
)
"""Of the rows of groups: NDCG within them, what a random order reaches, and ours minus that; \
groups that count, and those of which nothing was wanted."""

PREDICTION = "prediction"
"""The output of a `score` model's `evaluate` that pooled metrics are computed of."""


@dataclass(frozen=True)
class MetricSet:
    """What a task measures, and which of it decides.

    Attributes:
        rows: what one evaluated row is called.
        means: outputs of `evaluate`, one value a row, that are averaged.
        pooled: metric -> class of `components.gate.metrics`, for those that no
            average of rows gives; computed of the output `prediction`.
        label: the numeric column that every evaluated row has; what the pooled metrics hold the
            prediction against.
        monitor: chooses the epoch, unless a run names another; the gate compares it with the last
            blessed model's.
        choosing: what a run may choose the epoch by (the hyper-parameter `monitor`).
        lift: how much better than the reference a row is; the gate holds its mean to a floor.
        reference: what the reference is called.
        asked: what the run asks for besides, per query; see `asking`.
        of_lists: the same, of all lists together: coverage and Gini.
        shown: metric -> heading, the columns of a table for people.
        shown_reference: the same for the reference.
        weight: the column that says what a row counts for; None where all count the same.
    """

    rows: str
    means: tuple[str, ...]
    pooled: dict[str, str]
    label: str
    monitor: str
    choosing: tuple[str, ...]
    lift: str
    reference: str
    shown: dict[str, str]
    shown_reference: dict[str, str]
    asked: tuple[str, ...] = field(default=())
    of_lists: tuple[str, ...] = field(default=())
    weight: str | None = None

    @property
    def longest_list(self) -> int:
        """How many recommended items the metrics that were asked for look at; 0 for none."""
        kinds = (*_OF_A_LIST, *_OF_ALL_LISTS)
        parts = [split(name) for name in (*self.asked, *self.of_lists)]
        return max((cutoff for kind, cutoff in parts if kind in kinds), default=0)

    @property
    def of_index(self) -> tuple[str, ...]:
        """What was asked for of the index; training, which has none, does not measure it."""
        return tuple(name for name in self.asked if split(name)[0] == INDEX_RECALL)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `evaluate` returns of a `retrieve` model."""
        return (*self.means, *((RECOMMENDED, CATALOGUE) if self.longest_list else ()))

    def asking(self, names: Iterable[str]) -> "MetricSet":
        """The same with metrics that a run asks for.

        They are those of `AT_CUTOFF`, `AUC`, and of what is recommended `novelty_10`,
        `coverage_10` and `gini_10`, each with any cut-off; `recall@50` is `recall_50`. Runs with an
        index ask for `index_recall_100` by themselves.

        Raises:
            ConfigError: no such metric, or the set is not of rankings.
        """
        names = dict.fromkeys(name.lower().replace("@", "_") for name in names)
        if names and self.lift != "lift_ndcg_10":
            raise ConfigError(
                f"metrics: for models that rank the catalogue; received {', '.join(names)} in a "
                f"run that is measured by {', '.join(self.shown)}"
            )
        per_query, of_lists, shown = [], [], dict(self.shown)
        for name in names:
            kind, cutoff = split(name)
            titles = {**AT_CUTOFF, **_OF_A_LIST, **_OF_ALL_LISTS, INDEX_RECALL: "index recall"}
            if name != AUC and (kind not in titles or cutoff < 1):
                known = [AUC, *(f"{one}_{cutoff or 10}" for one in titles)]
                raise ConfigError(
                    f"metrics: a name with its cut-off required, such as recall_50, or auc; "
                    f"received {name!r}{nearest(name, known)}"
                )
            shown[name] = "AUC" if name == AUC else f"{titles[kind]}@{cutoff}"
            if kind in _OF_ALL_LISTS:
                of_lists.append(name)
            elif name not in self.means:
                per_query.append(name)
        beside = (*_OF_A_LIST, INDEX_RECALL)
        chosen_by = [name for name in per_query if split(name)[0] not in beside]
        return replace(
            self,
            means=(*self.means, *per_query),
            choosing=(*self.choosing, *chosen_by),
            shown=shown,
            asked=tuple(per_query),
            of_lists=tuple(of_lists),
        )

    @property
    def higher_is_better(self) -> bool:
        """The direction of `monitor`."""
        return self.monitor not in _LOWER_IS_BETTER

    def choosing_by(self, monitor: str | None) -> "MetricSet":
        """The same, with the epoch chosen by another metric; None leaves the task's.

        Raises:
            ConfigError: no metric to choose by.
        """
        if monitor is None:
            return self
        if monitor not in self.choosing:
            raise ConfigError(
                f"monitor: one of {', '.join(self.choosing)} required; received "
                f"{monitor!r}{nearest(monitor, self.choosing)}"
            )
        return replace(self, monitor=monitor)


RETRIEVE = MetricSet(
    rows="queries",
    means=RETRIEVE_METRICS,
    pooled={},
    # The signature scores by itself; TFMA wants a label all the same and gets a number that every
    # query has.
    label="timestamp",
    monitor="ndcg_10",
    choosing=tuple(name for name in RANKED if not name.startswith("tie_gap")),
    lift="lift_ndcg_10",
    reference="popularity",
    shown={"hr_10": "HR@10", "ndcg_10": "NDCG@10", "mrr_10": "MRR@10", "recall_20": "Recall@20"},
    shown_reference={"popularity_hr_10": "HR@10", "popularity_ndcg_10": "NDCG@10"},
)

TWO_STAGE = MetricSet(
    rows="queries",
    means=(
        *RANKED,
        "popularity_hr_10",
        "popularity_ndcg_10",
        "alone_hr_10",
        "alone_ndcg_10",
        "lift_alone_ndcg_10",
        *(f"recall_stage_{cutoff}" for cutoff in RECALL_STAGE),
    ),
    pooled={},
    label="timestamp",
    monitor="ndcg_10",
    choosing=(),  # two blessed models are put together: there are no epochs
    lift="lift_alone_ndcg_10",
    reference="the recall alone",
    shown={"hr_10": "HR@10", "ndcg_10": "NDCG@10", "mrr_10": "MRR@10", "recall_20": "Recall@20"},
    shown_reference={"alone_hr_10": "HR@10", "alone_ndcg_10": "NDCG@10"},
)

CLICK = MetricSet(
    rows="impressions",
    means=("log_loss", "constant_log_loss", "lift_log_loss"),
    pooled={"auc": "PooledAUC", "gauc": "GroupAUC", "calibration": "PooledCalibration"},
    label=LABEL,
    monitor="log_loss",
    choosing=("log_loss", "auc", "gauc"),
    lift="lift_log_loss",
    reference="the train mean",
    shown={"auc": "AUC", "log_loss": "log loss", "gauc": "GAUC", "calibration": "calibration"},
    shown_reference={"constant_log_loss": "log loss"},
)

RATING = MetricSet(
    rows="ratings",
    means=("mse", "mae", "constant_mse", "lift_mse"),
    pooled={},
    label=LABEL,
    monitor="mse",
    choosing=("mse", "mae"),
    lift="lift_mse",
    reference="the train mean",
    shown={"rmse": "RMSE", "mae": "MAE"},
    shown_reference={"constant_rmse": "RMSE"},
)


def _in_groups(rows: MetricSet) -> MetricSet:
    """The metrics of rows that are in groups: NDCG within them comes first."""
    return replace(
        rows,
        pooled={**rows.pooled, **dict.fromkeys(GROUP_METRICS, "GroupNDCG")},
        monitor="group_ndcg_10",
        choosing=("group_ndcg_10", *rows.choosing),
        lift="lift_group_ndcg_10",
        reference="a random order",
        # Errors of scores that learnt nothing but an order would say nothing.
        shown={"group_ndcg_10": "NDCG@10", **({"auc": "AUC"} if "auc" in rows.pooled else {})},
        shown_reference={"random_group_ndcg_10": "NDCG@10"},
    )


_SETS = (RETRIEVE, TWO_STAGE, CLICK, RATING, _in_groups(CLICK))


def of(task: str, label: Label | None = None, asked: Iterable[str] = ()) -> MetricSet:
    """The metrics of a run.

    That is a `retrieve` run, a bundle of two stages, or a `score` run on clicks or on ratings.

    Args:
        task: `retrieve`, `two_stage` or `score`.
        label: of a `score` run.
        asked: metrics that a `retrieve` run asks for besides, see `MetricSet.asking`.

    Raises:
        ConfigError: as `MetricSet.asking`.
    """
    if task in ("retrieve", "two_stage"):
        return (RETRIEVE if task == "retrieve" else TWO_STAGE).asking(asked)
    chosen = CLICK if label is None or label.is_click else RATING
    if label and label.group:
        chosen = _in_groups(chosen)
    chosen = replace(chosen, weight=WEIGHT) if label and label.weight else chosen
    return chosen.asking(asked)


def split(name: str) -> tuple[str, int]:
    """`recall_50` -> `recall`, 50; the cut-off is 0 where a name has none."""
    found = re.fullmatch(r"(.+)_(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)


def named(metric: str) -> MetricSet:
    """The set that a decisive metric (a monitor or a lift) belongs to."""
    return next(each for each in _SETS if metric in (each.monitor, each.lift))


def with_roots(values: dict[str, float]) -> dict[str, float]:
    """Adds `rmse` to `mse` (and `constant_rmse`): the root of the pooled mean.

    No average of batches or slices gives it.
    """
    roots = {
        name.replace("mse", "rmse"): max(values[name], 0.0) ** 0.5
        for name in ("mse", "constant_mse")
        if name in values
    }
    return {**values, **roots}
