"""EMCDR for users and items that are new in the target domain, beside what the target alone knows.

    python -m benchmarks.cross_domain electronics --data FOLDER/cross_elec_cell
    python -m benchmarks.cross_domain movielens

electronics: Amazon, from Electronics to Cell Phones, of the same 3,325 users. A tenth of them are
validation and a fifth test: all their phones are held out and are ranked among all phones that the
train users have. Beside popularity; AUC is over pairs of a held-out phone and one of the others.

movielens: from MovieLens-1M to 100K, films matched by title and year. A tenth and a fifth of the
films that both have are held out. RMSE over the ratings that they have in the target, beside the
mean of its train; and AUC over pairs of two held-out films that a user has rated differently, where
popularity knows nothing (0.5).

The vectors' setting is chosen on validation with the linear map (the first seed), the map's own for
either kind of map; both kinds are fitted on the same vectors. Test is measured for what was chosen.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import experiment

SPLIT = {"name": "cross_domain", "seed": 42, "test_fraction": 0.2, "valid_fraction": 0.1}
FAST = {"factors": 20, "epochs": 20, "learning_rate": 0.01, "lazy_adam": True}
_NO_BIASES = {"item_biases": False}
MAPS = {
    "linear": [{"map_l2": 0.01}, {"map_l2": 1.0}, {"map_l2": 0.01, "active_share": 0.5}],
    "mlp": [{"map_learning_rate": 0.05}, {"map_learning_rate": 0.01}],
}


@dataclass(frozen=True)
class Set:
    """One pair of domains and the rows of its table.

    Attributes:
        split: beside `SPLIT`.
        rows: name -> settings of the vectors to choose from, the metric to choose by, and 1 or -1
            for whether more or less of it is better.
        metrics: of the table.
        by_grade: whether AUC is over pairs of different ratings.
    """

    split: dict[str, str]
    rows: dict[str, tuple[list[dict[str, Any]], str, int]]
    metrics: tuple[str, ...]
    by_grade: bool


SETS = {
    "electronics": Set(
        {"source": "electronics", "target": "phones", "shared": "users"},
        {
            "bpr": (
                [
                    {**_NO_BIASES, "l2": 0.0025},
                    {**_NO_BIASES, "l2": 0.02},
                    {"l2": 0.02, "item_biases": True},
                ],
                "ndcg_10",
                1,
            ),
            "mf": (
                [
                    {**_NO_BIASES, "objective": "mf", "l2": l2, "negatives": 8}
                    for l2 in (0.0025, 0.02)
                ],
                "ndcg_10",
                1,
            ),
        },
        ("hr_10", "ndcg_10", "recall_20", "auc"),
        False,
    ),
    "movielens": Set(
        {"source": "1m", "target": "100k", "shared": "items"},
        {
            "mf": (
                [
                    {**_NO_BIASES, "objective": "ratings", "batch_size": 4096, "l2": l2}
                    for l2 in (0.03, 0.1)
                ],
                "rmse",
                -1,
            ),
            "bpr": (
                [
                    {**_NO_BIASES, "pairs": "graded", "batch_size": 4096, "l2": l2}
                    for l2 in (0.01, 0.03)
                ],
                "auc",
                1,
            ),
        },
        ("rmse", "auc"),
        True,
    ),
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, help="the folder of electronic_cell, cell_electronic")
    parser.add_argument("--rows", nargs="+", help="rows of the table; default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/cross_domain"))
    arguments = parser.parse_args()
    pair, output = SETS[arguments.set], arguments.output / arguments.set
    events = amazon(arguments.data) if arguments.set == "electronics" else movielens()
    source = write(events, output / "source")
    prepared = experiment.prepare(source, output, "event", {**SPLIT, **pair.split}, "generic")
    target = events[events["domain"] == pair.split["target"]]
    rating = {(user, item): value for user, item, value in target[_KEYS].itertuples(index=False)}
    measure = Measure(rating, pair.by_grade)
    overrides = experiment.overrides(arguments.overrides)
    table: list[dict[str, str]] = []
    for name in arguments.rows or pair.rows:
        settings, metric, sign = pair.rows[name]
        settings = [{**FAST, **setting, **overrides} for setting in settings]
        runs = _row(prepared, settings, metric, sign, measure, arguments.seeds)
        (output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        kinds = [kind for kind in MAPS if kind in runs[0]]
        reference = [{"test": run["reference"], "seconds": 0} for run in runs]
        if not table or "rmse" in runs[0]["reference"]:
            table = [{"model": "the target alone", **summary(reference, pair), "setting": ""}]
        for kind in kinds:
            of_kind = [run[kind] for run in runs]
            valid = ", ".join(f"{run['valid'][metric]:.4f}" for run in of_kind)
            table.append(
                {
                    "model": f"{name}, {kind}",
                    **summary(of_kind, pair),
                    "setting": experiment.described(of_kind[0]["setting"]),
                }
            )
            print(f"{name}, {kind}: {metric} on validation, by seed: {valid}", flush=True)
        print(experiment.table(table), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


_KEYS = ["user_id", "item_id", "rating"]


def summary(runs: list[dict[str, Any]], pair: Set) -> dict[str, str]:
    return experiment.summary(runs, pair.metrics)


def _row(prepared, settings, metric, sign, measure, seeds) -> list[dict[str, Any]]:
    """The runs of one kind of vectors: a dict a seed, kind of map -> what was measured."""
    runs, chosen, maps = [], settings[0], MAPS
    for seed in seeds:
        best: dict[str, Any] = {}
        for setting in settings if seed == seeds[0] else [chosen]:
            data, fitted = fit(prepared, setting, maps, seed)
            found = {}
            for kind, models in fitted.items():
                ranked = [(sign * measure(data, m, "valid")[metric], s, m, t) for s, m, t in models]
                found[kind] = max(ranked, key=lambda one: one[0])
                print(f"seed {seed} {kind} {setting}: {[one[0] for one in ranked]}", flush=True)
            # The linear map decides which vectors are taken.
            if not best or found["linear"][0] > best["linear"][0]:
                best, chosen = found, setting
        maps = {kind: [own] for kind, (_, own, _, _) in best.items()}
        run: dict[str, Any] = {"seed": seed}
        for kind, (_, own, model, seconds) in best.items():
            run[kind] = {
                "setting": {**chosen, **own},
                "valid": measure(data, model, "valid"),
                "test": measure(data, model, "test"),
                "seconds": seconds,
            }
        run["reference"] = measure.reference(data, "test")
        runs.append(run)
    return runs


def fit(prepared, setting: dict[str, Any], maps: dict[str, list], seed: int):
    """Learns the vectors once and fits every map on them.

    Returns:
        The data, and kind of map -> (its setting, the model, seconds) of each.
    """
    import tensorflow as tf

    from models.embedding.emcdr import EMCDR
    from models.training.loop import TrainingLoop
    from models.training.trainer import resolve

    data = prepared.training_data("emcdr")
    vectors, fitted = None, {}
    for kind, settings in maps.items():
        for own in settings:
            tf.keras.utils.set_random_seed(seed)
            parameters = resolve("emcdr", {**setting, **own, "map": kind, "map_epochs": 50})
            model = EMCDR(parameters, data)
            # No epoch is chosen: the metric of the table may be none of the task's.
            loop, started = TrainingLoop(parameters, data, seed=seed), time.monotonic()
            if vectors is None:
                model.learn(loop)
                vectors, spent = model, time.monotonic() - started
                seconds = spent
            else:
                model.source, model.target = vectors.source, vectors.target
                model.learn_map(loop)
                seconds = spent + time.monotonic() - started
            fitted.setdefault(kind, []).append((own, model, round(seconds, 1)))
    return data, fitted


class Measure:
    """Metrics of held-out users or items.

    Args:
        rating: (user, item) -> rating, of all events of the target.
        by_grade: AUC is over pairs of held-out items that the user has rated differently; else over
            pairs of a held-out item and one that the user has not.
    """

    def __init__(self, rating: dict[tuple[str, str], float], by_grade: bool):
        self._rating, self._by_grade = rating, by_grade
        self._queries: dict[str, Any] = {}

    def __call__(self, data, model, split: str) -> dict[str, float]:
        """What a model reaches: of the task's metrics where a rank is asked for, and of ours."""
        import tensorflow as tf

        from models.contract.query import Query
        from models.contract.retrieve_task import Evaluation

        users, targets, _ = self._asked(data, split)
        index = data.user_table.lookup(tf.constant(users))
        nothing = tf.RaggedTensor.from_row_lengths(tf.constant([], tf.int64), [0] * len(users))
        query = Query(index, data.users.in_train(index), nothing)
        scores = model.score_items(query, model.catalogue()).numpy()
        if self._by_grade:
            # Who is not answered gets the mean.
            answered = model.answers(query).numpy()[:, np.newaxis]
            return self._graded(np.where(answered, scores, _mean(data)), data, split)
        found = Evaluation(data, data.queries(split)).of(model)()
        return {**found, "auc": self._ranked(scores, targets)}

    def reference(self, data, split: str) -> dict[str, float]:
        """What the target alone reaches: its mean rating, its popularity."""
        from models.contract.retrieve_task import Evaluation
        from models.names import registry
        from models.training.loop import TrainingLoop

        users, targets, _ = self._asked(data, split)
        if self._by_grade:
            return self._graded(np.full((len(users), len(data.items)), _mean(data)), data, split)
        module = registry.load("popularity")
        model = module.Model(module.HyperParameters(), data)
        model.learn(TrainingLoop(model.hyper_parameters, data))
        found = Evaluation(data, data.queries(split)).of(model)()
        counts = np.tile(data.item_counts.astype(float), (len(users), 1))
        return {**found, "auc": self._ranked(counts, targets)}

    def _asked(self, data, split: str):
        """The users of a split and, by user, where in the catalogue its targets are, and ratings.

        A target that is not in the catalogue is at -1.
        """
        import tensorflow as tf

        if split not in self._queries:
            lists = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
            spec = {"user_id": tf.io.FixedLenFeature([], tf.string), "targets": lists}
            rows = tf.io.parse_example(data.queries(split), spec)
            users, targets = rows["user_id"].numpy(), [row.numpy() for row in rows["targets"]]
            catalogue = pd.Index(data.items.ids)
            self._queries[split] = (
                users,
                [catalogue.get_indexer(pd.Index(row)) for row in targets],
                [
                    np.array([self._rating[user.decode(), item.decode()] for item in row])
                    for user, row in zip(users, targets, strict=True)
                ],
            )
        return self._queries[split]

    def _graded(self, scores: np.ndarray, data, split: str) -> dict[str, float]:
        _, targets, ratings = self._asked(data, split)
        errors: list[float] = []
        areas = []
        for row, (places, rating) in enumerate(zip(targets, ratings, strict=True)):
            found = scores[row, places]
            errors.extend((np.clip(found, 1, 5) - rating) ** 2)
            better = rating[:, np.newaxis] > rating
            if better.any():
                ahead = np.sign(found[:, np.newaxis] - found) / 2 + 0.5
                areas.append(ahead[better].mean())
        return {"rmse": float(np.mean(errors)) ** 0.5, "auc": float(np.mean(areas))}

    @staticmethod
    def _ranked(scores, targets) -> float:
        areas = []
        for row, places in enumerate(targets):
            own = places[places >= 0]
            others = np.delete(scores[row], own)
            others = np.sort(others[np.isfinite(others)])
            # A target that train has not is behind all, as in the ranking.
            below = np.searchsorted(others, scores[row, own])
            through = np.searchsorted(others, scores[row, own], side="right")
            areas.append((below + through).sum() / 2 / len(others) / len(places))
        return float(np.mean(areas))


def _mean(data) -> float:
    return float(np.mean(data.events.rating))


def amazon(folder: Path) -> pd.DataFrame:
    """Electronics and Cell Phones of the same users; ids of items begin anew in each."""
    parts = []
    for domain, name in (("electronics", "electronic_cell"), ("phones", "cell_electronic")):
        frame = pd.read_csv(
            folder / name / "new_reindex.txt", sep="\t", names=["user_id", "item_id", "rating"]
        )
        parts.append(frame.astype({"user_id": str, "item_id": str}).assign(domain=domain))
    return pd.concat(parts, ignore_index=True)


def movielens() -> pd.DataFrame:
    """MovieLens-1M and 100K, whose films are called by title and year."""
    from components.read import datasets

    parts = []
    for domain, name in (("1m", "movielens-1m"), ("100k", "movielens-100k")):
        folder = Path(datasets.get(name))
        frame = pd.read_csv(next(folder.glob("*.inter")), sep="\t", dtype={0: str, 1: str})
        frame.columns = [column.split(":")[0] for column in frame.columns]
        if domain == "100k":
            films = pd.read_csv(next(folder.glob("*.item")), sep="\t", dtype=str)
            title = films["movie_title:token_seq"] + " (" + films["release_year:token"] + ")"
            # A title that stands for two films stays with the first.
            title = title.where(~title.duplicated(), films["item_id:token"])
            names = dict(zip(films["item_id:token"], title, strict=True))
            frame["item_id"] = frame["item_id"].map(names).fillna(frame["item_id"])
            frame["user_id"] = "100k_" + frame["user_id"]
        parts.append(frame[_KEYS].assign(domain=domain))
    return pd.concat(parts, ignore_index=True)


def write(events: pd.DataFrame, folder: Path) -> Path:
    """Writes the log as RecBole's; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"user_id": "token", "item_id": "token", "rating": "float", "domain": "token"}
    named = events[list(kinds)].rename(columns={name: f"{name}:{kinds[name]}" for name in kinds})
    named.to_csv(folder / "events.inter", sep="\t", index=False)
    return folder


if __name__ == "__main__":
    main()
