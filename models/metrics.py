"""Names of the metrics that the `evaluate` signatures return. Light: the gate and the command line read them."""

CUTOFFS = (10, 20)

RETRIEVE_METRICS = (
    "hr_10",
    "hr_20",
    "recall_10",
    "recall_20",
    "ndcg_10",
    "ndcg_20",
    "mrr_10",
    "map_10",
    "popularity_hr_10",
    "popularity_ndcg_10",
    "lift_ndcg_10",
    "tie_gap_10",
    "ncf99_hr_10",
    "ncf99_ndcg_10",
)
"""Per-query values, averaged over queries. `lift_` is ours minus popularity's on the same queries; `tie_gap_` is what
counting ties in our favour would add; `ncf99_` ranks among sampled candidates and is there to compare with papers."""

MONITOR = "ndcg_10"
"""The metric that chooses the epoch and that the gate compares with the last blessed model."""

LIFT = "lift_ndcg_10"
"""The metric that the gate holds to a floor: better than popularity."""
