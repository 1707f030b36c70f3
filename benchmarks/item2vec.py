"""Item2vec on MovieLens-100K: baskets, DeepWalk and node2vec walks side by side, and speed.

Speed is pairs a second, against gensim's.

    python -m benchmarks.item2vec quality --seeds 0 1 2
    python -m benchmarks.item2vec speed --gensim .cache/gensim/bin/python

Quality is on the split of benchmarks.movielens. Speed trains on the train baskets without
subsampling, so that both sides have the same pairs, K(K-1) a basket: 100 dimensions, 15 negatives a
pair, the window over the whole basket. The two take turns. `--gensim` is a Python of an environment
of its own that has gensim. Beside wall time stands time of the processors, which other work on the
machine disturbs less.
"""

import argparse
import json
import resource
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks import experiment

METRICS = ("hr_10", "ndcg_10", "mrr_10", "recall_20")
WALKS = {
    "baskets": {"kind": "baskets"},
    "deepwalk": {"kind": "deepwalk"},
    "node2vec": {"kind": "node2vec", "p": 0.5, "q": 2.0},
}
SPLIT = {"name": "leave_one_out", "query_history": "train"}
_GENSIM = """
import json, resource, sys, time
from gensim.models import Word2Vec
sets, width, negatives, workers = json.load(sys.stdin)
pairs = sum(len(one) * (len(one) - 1) for one in sets)
# A sentence longer than 10,000 would be cut; the window reaches over the longest.
model = Word2Vec(vector_size=width, window=max(map(len, sets)), shrink_windows=False, \
negative=negatives, sg=1, sample=0, min_count=1,
                 workers=workers, epochs=1, seed=1)
model.build_vocab(sets)
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
started, before = time.monotonic(), used()
model.train(sets, total_examples=len(sets), epochs=1)
print(json.dumps({"pairs": pairs, "seconds": time.monotonic() - started, \
"processor": used() - before}))
"""


def quality(arguments) -> None:
    """Trains each kind of walks with each seed, and prints the table."""
    from components.read import datasets

    source, rows = Path(datasets.get("movielens-100k")), []
    overrides = experiment.overrides(arguments.set)
    for kind in arguments.kinds:
        prepared = experiment.prepare(
            source, arguments.output / kind, "walk", SPLIT, walks=WALKS[kind]
        )
        runs = [
            experiment.measure(prepared, "item2vec", overrides, seed) for seed in arguments.seeds
        ]
        (arguments.output / f"{kind}.json").write_text(json.dumps(runs, indent=1))
        validation = statistics.mean(run["valid"]["ndcg_10"] for run in runs)
        rows.append(
            {
                "rows": kind,
                **experiment.summary(runs, METRICS),
                "NDCG@10 on validation": f"{validation:.4f}",
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


def speed(arguments) -> None:
    """Lets the two train in turns for one epoch each, and prints pairs a second."""
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    data = experiment.prepare(
        source, arguments.output / "baskets", "walk", SPLIT, walks=WALKS["baskets"]
    ).training_data("item2vec")
    data.walks = data.walks[: arguments.users]
    sets = json.dumps(
        [[[str(item) for item in one] for one in data.walks.to_list()], arguments.width, 15, 2]
    )
    one_epoch = ours(data, arguments.width)
    sides: dict[str, list[dict]] = {"recsys-tfx": [], "gensim": []}
    for _ in range(arguments.repeats):
        sides["recsys-tfx"].append(one_epoch())
        answer = subprocess.run(
            [arguments.gensim, "-c", _GENSIM],
            input=sets,
            capture_output=True,
            text=True,
            check=True,
        )
        sides["gensim"].append(json.loads(answer.stdout))
    rows = []
    for name, runs in sides.items():
        wall, processor = (
            statistics.median(run["pairs"] / run[clock] for run in runs)
            for clock in ("seconds", "processor")
        )
        rows.append(
            {
                "": name,
                "pairs": f"{runs[0]['pairs']:,}",
                "pairs/s": f"{wall:,.0f}",
                "pairs a processor second": f"{processor:,.0f}",
            }
        )
    print(experiment.table(rows))
    print(f"\nmedian of {arguments.repeats}, in turns; {experiment.machine()}")
    (arguments.output / "speed.json").write_text(json.dumps(sides, indent=1))


def ours(data, width: int):
    """Returns a function that trains one more epoch on the data and tells its pairs and seconds."""
    import tensorflow as tf

    from models.names import registry
    from models.training.trainer import resolve

    parameters = resolve(
        "item2vec", {"subsample": 0.0, "embedding_dim": width, "batch_size": 65_536}
    )
    tf.keras.utils.set_random_seed(0)
    model = registry.load("item2vec").Model(parameters, data)
    batches = model.batches(data, 0, 0)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), steps_per_execution=8)
    iterator = iter(batches.dataset.prefetch(tf.data.AUTOTUNE))
    model.fit(iterator, steps_per_epoch=16, verbose=0)  # traced, and the first epoch is drawn

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def one_epoch() -> dict[str, float]:
        started, before = time.monotonic(), used()
        model.fit(iterator, steps_per_epoch=batches.steps, verbose=0)
        return {
            "pairs": batches.rows,
            "seconds": time.monotonic() - started,
            "processor": used() - before,
        }

    return one_epoch


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("--kinds", nargs="+", default=list(WALKS), choices=list(WALKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument("--gensim", metavar="PYTHON", help="a Python that has gensim")
    parser.add_argument("--users", type=int, help="speed: only so many baskets")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/item2vec"))
    arguments = parser.parse_args()
    if arguments.what == "speed" and not arguments.gensim:
        parser.error("speed requires --gensim, a Python that has gensim")
    (quality if arguments.what == "quality" else speed)(arguments)


if __name__ == "__main__":
    main()
