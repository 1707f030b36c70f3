"""How long the nearest items of a query take: an exact index, faiss and ScaNN.

The exact index is that of the signature `retrieve`.

    python -m benchmarks.retrieval [--items 10000 100000 1000000] [--batch 32] [--seconds 3]
        [--output FILE]

TFRS' BruteForce, which a pushed dot-product model carries, beside faiss' exact IndexFlatIP and
beside TFRS' ScaNN, all in one process on vectors of 64 dimensions, the best 100 of them, the
methods taking turns. The vectors lie in clusters, as learned ones do, and queries near items. faiss
and ScaNN are no dependencies of the project: a method that is not installed is left out and said so
(faiss-cpu==1.8.0.post1 and, for TensorFlow 2.16, scann==1.3.2). Prints a Markdown table:
milliseconds a request and a query, and the share of the exact answer that was found.
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

WIDTH, K, QUERIES, ROUNDS = 64, 100, 256, 3


def vectors(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items [count, WIDTH] and queries [QUERIES, WIDTH] near items, all of length 1.

    The items lie around centres of their own, one centre to a hundred items.
    """
    random = np.random.RandomState(seed)
    centres = random.randn(max(1, count // 100), WIDTH)
    items = centres[random.randint(len(centres), size=count)] + 0.6 * random.randn(count, WIDTH)
    queries = items[random.randint(count, size=QUERIES)] + 0.4 * random.randn(QUERIES, WIDTH)
    items, queries = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (items, queries)
    )
    return items.astype(np.float32), queries.astype(np.float32)


def brute_force(items: np.ndarray):
    """TFRS' exact index, as `models.contract.retriever` exports it."""
    index = tfrs.layers.factorized_top_k.BruteForce(k=K)
    index.index(items)
    call = tf.function(
        lambda queries: index(queries)[1], input_signature=[tf.TensorSpec([None, WIDTH])]
    )
    return lambda queries: call(queries).numpy()


def scann(items: np.ndarray):
    """TFRS' ScaNN with about the square root of the items as leaves.

    A tenth of the leaves is searched, and ten times K are reordered.
    """
    leaves = max(1, int(np.sqrt(len(items))))
    index = tfrs.layers.factorized_top_k.ScaNN(
        k=K,
        distance_measure="dot_product",
        num_leaves=leaves,
        num_leaves_to_search=max(10, leaves // 10),
        num_reordering_candidates=10 * K,
        training_iterations=8,
    )
    index.index(items)
    call = tf.function(
        lambda queries: index(queries)[1], input_signature=[tf.TensorSpec([None, WIDTH])]
    )
    return lambda queries: call(queries).numpy()


def faiss_flat(items: np.ndarray):
    """The exact inner-product index of faiss."""
    import faiss

    index = faiss.IndexFlatIP(WIDTH)
    index.add(items)
    return lambda queries: index.search(queries, K)[1]


METHODS = {"BruteForce": brute_force, "faiss flat": faiss_flat, "ScaNN": scann}


def measure(count: int, batch: int, seconds: float, seed: int) -> list[dict]:
    """Rows of the table for one number of items."""
    items, queries = vectors(count, seed)
    searches, rows = {}, {}
    for name, build in METHODS.items():
        begin = time.perf_counter()
        try:
            searches[name] = build(items)
        except ImportError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        searches[name](queries[:batch])
        rows[name] = {
            "items": count,
            "method": name,
            "build_s": time.perf_counter() - begin,
            "batch": batch,
        }
    exact = searches["BruteForce"](queries)
    for name, search in searches.items():
        found = search(queries)
        rows[name]["recall"] = float(
            np.mean([len(set(one) & set(best)) / K for one, best in zip(found, exact, strict=True)])
        )
        rows[name]["ms"] = []
    for _ in range(ROUNDS):
        for name, search in searches.items():
            begin, done = time.perf_counter(), 0
            while time.perf_counter() - begin < seconds / ROUNDS or not done:
                start = done * batch % max(1, QUERIES - batch)
                search(queries[start : start + batch])
                done += 1
            rows[name]["ms"].append(1e3 * (time.perf_counter() - begin) / done)
    for row in rows.values():
        row["ms"] = statistics.median(row["ms"])
        row["over_brute_force"] = rows["BruteForce"]["ms"] / row["ms"]
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="queries a request")
    parser.add_argument("--seconds", type=float, default=3.0, help="a method and size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    rows = [
        row
        for count in arguments.items
        for batch in arguments.batch
        for row in measure(count, batch, arguments.seconds, arguments.seed)
    ]
    print(
        f"\nseed {arguments.seed}, {os.cpu_count()} cores, {platform.machine()}, best {K} of "
        f"{WIDTH} dimensions\n"
    )
    print(
        "| items | queries a request | method | ms a request | times BruteForce | recall@100 | "
        "build, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['items']:,} | {row['batch']} | {row['method']} | {row['ms']:.2f} | "
            f"{row['over_brute_force']:.2f} "
            f"| {row['recall']:.3f} | {row['build_s']:.1f} |"
        )
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
