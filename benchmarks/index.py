"""What the inverted file of a run (`index: {kind: ivf}`) brings, beside faiss' and ScaNN.

    python -m benchmarks.index [--items 1000000] [--vectors FOLDER] [--seconds 5] [--output FILE]

One query at a time, the best 100, on all cores; the methods take turns in one process, and the
table has medians, the fastest tenth and p99, and by medians and by tenths how many times faster
than exact a method is. Exact is TFRS' BruteForce, which a run without an index pushes. Methods are
tuned on one half of the queries (ours as a run does it, faiss by probing a quarter more until .96
of the exact answers are found, ScaNN as TFRS' guide says) and measured on the other.

Vectors, of which each kind is a table:

- `clustered`: `benchmarks.retrieval.vectors`, 64 numbers, a hundred items around a centre of its
  own, queries near items, all of length 1.
- `replicated`: those of a trained model, as `recsys export vectors` writes them, copied up to the
  number of items, each copy with noise of a quarter of the columns' deviations; queries are users.
- `gaussian`: independent normal numbers, 64 of them: no lists are there to be found, and nothing
  learnt looks like that; it is the worst case.

faiss and ScaNN are no dependencies of the project: what is not installed is left out, and said so
(faiss-cpu==1.8.0.post1 and, for TensorFlow 2.16, scann==1.3.2).
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import retrieval
from models.contract.index import InvertedFile, exact_best
from models.names.index import IndexConfig

K, QUERIES, ROUNDS = retrieval.K, retrieval.QUERIES, 5
Search = Callable[[np.ndarray], np.ndarray]


def clustered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """See the module."""
    return retrieval.vectors(count, seed)


def gaussian(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """See the module."""
    draw = np.random.default_rng(seed)
    items, queries = (
        draw.normal(size=[rows, retrieval.WIDTH]).astype(np.float32) for rows in (count, QUERIES)
    )
    return items, queries


def replicated(folder: Path, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """See the module."""
    draw = np.random.default_rng(seed)
    items, users = (np.load(folder / f"{entity}.npy") for entity in ("items", "users"))
    copies = items[np.arange(count) % len(items)]
    noise = draw.normal(size=copies.shape).astype(np.float32) * (items.std(axis=0) / 4)
    return copies + noise, users[draw.permutation(len(users))[:QUERIES]]


def ours(
    items: np.ndarray, tuning: np.ndarray, best: np.ndarray, wanted: float = 0.98
) -> tuple[Search, str]:
    """The inverted file with its defaults, or less of `index.recall` wanted."""
    settings = IndexConfig(kind="ivf", recall=wanted)
    index = InvertedFile(items, np.arange(len(items)), settings, 0, tuning)
    count = tf.constant([K])
    return lambda query: index.nearest(tf.constant(query), count)[1].numpy(), (
        f"{index.lists:,} lists, {index.probes:,} probed"
    )


def faiss_ivf(items: np.ndarray, tuning: np.ndarray, best: np.ndarray) -> tuple[Search, str]:
    """IndexIVFFlat of faiss, of inner products, with as many lists as ours."""
    import faiss

    lists = round(4 * len(items) ** 0.5)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(items.shape[1]), items.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    index.train(items[np.random.default_rng(0).permutation(len(items))[: 50 * lists]])
    index.add(items)
    while recall(index.search(tuning, K)[1], best) < 0.96 and index.nprobe < lists:
        index.nprobe = int(1.25 * index.nprobe) + 1
    return lambda query: index.search(query, K)[1], f"{lists:,} lists, {index.nprobe:,} probed"


def scann(items: np.ndarray, tuning: np.ndarray, best: np.ndarray) -> tuple[Search, str]:
    """TFRS' ScaNN, as `benchmarks.retrieval` sets it."""
    return retrieval.scann(items), "a tenth of the leaves"


def brute_force(items: np.ndarray, tuning: np.ndarray, best: np.ndarray) -> tuple[Search, str]:
    """TFRS' exact index."""
    return retrieval.brute_force(items), "all items"


METHODS = {
    "BruteForce": brute_force,
    "ours": ours,
    "ours, recall: .96": functools.partial(ours, wanted=0.96),
    "faiss IVF": faiss_ivf,
    "ScaNN": scann,
}


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """The mean share of the best items of each query that were found."""
    return float(np.mean([np.isin(right, one).mean() for one, right in zip(found, best)]))


def measure(items: np.ndarray, queries: np.ndarray, seconds: float) -> list[dict]:
    """Rows of the table of one kind of vectors."""
    tuning, asked = queries[: QUERIES // 2], queries[QUERIES // 2 :]
    best_of_tuning, best = exact_best(items, tuning), exact_best(items, asked)
    rows, searches = [], {}
    for name, build in METHODS.items():
        begin = time.perf_counter()
        try:
            searches[name], how = build(items, tuning, best_of_tuning)
        except ImportError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        took = time.perf_counter() - begin
        found = np.concatenate([searches[name](asked[row : row + 1]) for row in range(len(asked))])
        rows.append(
            {"method": name, "how": how, "build_s": took, "recall": recall(found, best), "ms": []}
        )
    for _ in range(ROUNDS):
        for row in rows:
            search, begin, times = searches[row["method"]], time.perf_counter(), []
            while time.perf_counter() - begin < seconds / ROUNDS or not times:
                query = asked[len(times) % len(asked)][np.newaxis]
                started = time.perf_counter()
                search(query)
                times.append(1e3 * (time.perf_counter() - started))
            row["ms"] += times
    for row in rows:
        # Other work on the machine slows the median; the fastest tenth it slows least.
        row["p10"], row["p99"] = np.quantile(row["ms"], [0.1, 0.99]).tolist()
        row["ms"] = statistics.median(row["ms"])
    for row in rows:
        row["times"] = [rows[0][of] / row[of] for of in ("ms", "p10")]
    return rows


def main() -> None:
    """Prints a table for every kind of vectors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=Path, help="what `recsys export vectors` wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="a method and kind of vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    kinds: dict[str, Callable] = {"clustered": clustered, "gaussian": gaussian}
    if arguments.vectors:
        kinds["replicated"] = lambda *of: replicated(arguments.vectors, *of)
    tables = {}
    for kind, make in kinds.items():
        items, queries = make(arguments.items, arguments.seed)
        tables[kind] = measure(items, queries, arguments.seconds)
        print(
            f"\n{kind}: {len(items):,} x {items.shape[1]}, one query, the best {K}, "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, seed {arguments.seed}\n\n"
            "| method | median, ms | tenth | p99 | times BruteForce | recall | how | build, s |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        for row in tables[kind]:
            print(
                f"| {row['method']} | {row['ms']:.2f} | {row['p10']:.2f} | {row['p99']:.2f} | "
                f"{' / '.join(f'{one:.1f}' for one in row['times'])} | "
                f"{row['recall']:.3f} | {row['how']} | {row['build_s']:.0f} |",
                flush=True,
            )
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(tables, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
