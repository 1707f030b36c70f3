"""YouTube's ranking on impressions whose expected watch time is known.

    python -m benchmarks.watch_time --seeds 0 1 2

Pages of twenty impressions are drawn: whether one is watched follows from the user's taste, the
video's topic and how often the user was shown its channel; for how long, from the video's length
(by its root) and the match. So the expected seconds E[T] of every impression are known, and the
odds E[T] / (1 - p) that the paper's loss learns, since its negatives are what was not watched. A
row of the table is a setting; `loss` is the paper's weighted, per-user loss (in percent of the
watch time, on pages of the test split), the last columns are predicted over true means.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

PAGES, PAGE, USERS, VIDEOS, TOPICS = 60_000, 20, 1_000, 500, 8
# A column of this name is never a feature.
LABEL = {"column": "dwell"}
CLICK = {"column": "dwell", "threshold": 0.001}
TRUTH = "truth.npy"
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "depth 0": ({"hidden": []}, LABEL),
    "256": ({"hidden": [256]}, LABEL),
    "512, 256": ({"hidden": [512, 256]}, LABEL),
    "1024, 512, 256: the paper's": ({}, LABEL),
    "the same without powers": ({"powers": False}, LABEL),
    "the same, positives and negatives weighted equally": ({}, CLICK),
    "the same, every impression a negative": ({"negatives": "every"}, LABEL),
    "256, every impression a negative": ({"hidden": [256], "negatives": "every"}, LABEL),
}


def write_log(folder: Path) -> None:
    """Writes the impressions as atomic files, and beside them what to expect."""
    random = np.random.RandomState(1)
    count = PAGES * PAGE
    page = np.repeat(np.arange(PAGES), PAGE)
    user = np.repeat(random.randint(USERS, size=PAGES), PAGE)
    video = random.randint(VIDEOS, size=count)
    taste = random.normal(size=(USERS, TOPICS))
    topic = random.randint(TOPICS, size=VIDEOS)
    length = np.exp(random.normal(5, 1, size=VIDEOS))
    shown = random.poisson(2, size=count)
    match = taste[user, topic[video]]
    probability = 1 / (1 + np.exp(3.6 - 0.7 * match + 0.3 * shown))
    rank = np.argsort(np.argsort(length)) / VIDEOS
    seconds = 60 * (0.2 + np.sqrt(rank[video])) * np.exp(0.3 * match)
    watched = random.uniform(size=count) < probability
    time = np.where(watched, random.gamma(4, seconds / 4), 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder that is read: what no model may know.
    expected = probability * seconds
    truth = np.stack([expected, expected / (1 - probability)], axis=1)
    np.save(folder.parent / TRUTH, truth.astype(np.float32))
    rows = zip(user, video, page, time, shown, strict=True)
    with (folder / "watch.inter").open("w") as file:
        file.write(
            "user_id:token\titem_id:token\tsession_id:token\ttimestamp:float\tdwell:float\t"
            "shown:float\n"
        )
        for u, v, p, t, s in rows:
            file.write(f"u{u}\tv{v}\tp{p}\t{1_000_000 + 60 * p}\t{t:.3f}\t{s}\n")
    with (folder / "watch.item").open("w") as file:
        file.write("item_id:token\ttopic:token\tlength:float\n")
        file.writelines(f"v{n}\tt{topic[n]}\t{length[n]:.2f}\n" for n in range(VIDEOS))


def measure(
    prepared: experiment.Prepared, setting: dict[str, Any], seed: int, truth: np.ndarray
) -> dict[str, float]:
    """Trains once; the epoch is chosen on validation, the measures are of test."""
    import tensorflow as tf

    from models.measures.pointwise import watch_time_loss

    data, model, seconds = experiment.train(prepared, "youtube_ranking", setting, seed)
    spec = {
        "dwell": tf.io.FixedLenFeature([], tf.float32),
        "row": tf.io.FixedLenFeature([], tf.int64),
        "session_id": tf.io.FixedLenFeature([], tf.string),
    }
    examples = tf.constant(data.queries("test"), tf.string)
    rows = tf.io.parse_example(examples, spec)
    prediction = model.predict_rows(data.parse(examples)[0])
    page = tf.strings.to_hash_bucket_fast(rows["session_id"], 2**62)
    expected, odds = float(tf.reduce_mean(prediction)) / truth[rows["row"].numpy()].mean(axis=0)
    return {
        "loss": 100 * float(watch_time_loss(rows["dwell"], prediction, page)),
        "expected": expected,
        "odds": odds,
        "seconds": seconds,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/watch-time"))
    arguments = parser.parse_args()
    source = arguments.output / "source"
    if not (source / "watch.item").exists():
        write_log(source)
    truth, lines = np.load(arguments.output / TRUTH), []
    for name in arguments.rows:
        setting, label = ROWS[name]
        prepared = experiment.prepare(
            source,
            arguments.output / ("clicks" if label is CLICK else "times"),
            "event",
            {"name": "temporal"},
            schema="generic",
            label=label,
            quantiles=True,
        )
        setting = {"epochs": arguments.epochs, **setting}
        runs = [measure(prepared, setting, seed, truth) for seed in arguments.seeds]
        found = {key: np.mean([run[key] for run in runs]) for key in runs[0]}
        clicks = label is CLICK
        lines.append(
            {
                "setting": name,
                "loss": f"{found['loss']:.2f} %",
                "to the odds": "" if clicks else f"{found['odds']:.3f}",
                "to E[T]": "" if clicks else f"{found['expected']:.3f}",
                "seconds": f"{found['seconds']:.0f}",
            }
        )
        print(experiment.table(lines), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
