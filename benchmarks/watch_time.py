"""YouTube's ranking on impressions whose expected watch time is known.

    python -m benchmarks.watch_time --networks "depth 0" 256 --seeds 0 1 2

Pages of twenty impressions are drawn from what the paper says of its own. Its most telling numbers
are no function of the video but of the user's past with its channel; so an impression has two of
them, both skewed: the hours since the user last watched the channel, of which interest fades at
once and then slowly, by the root of their quantile, and the minutes of it that the user has
watched, of which it grows for the few fans alone, by the square. They move the expected time as
much as the user's taste for the video's topic does, which is what depth is for: it is a product of
two embeddings. And there is what the paper weighs by time against: a video's appeal gets it
clicked, and left as much sooner.

So probability, p, and seconds of every impression are known, E[T] is their product, and the
logarithm of E[T] is nearly a sum of taste, root and square. The paper's loss learns the odds
E[T] / (1 - p), since its negatives are what was not watched; of impressions that it cannot tell
apart, the odds of all of them together, which are less than the mean of theirs.

A row of the table is a network and what was changed of the paper's. `loss` is the paper's weighted,
per-user loss, in percent of the watch time, as expected over everything that could have happened on
the pages of test, so without the noise of single clicks; `drawn` is the same of what did happen.
The rows `truth` answer the true odds, in which order the expected loss is the least that there is;
these with straight lines in place of root and square; and p. The last columns are predicted over
true means. Deviations are over the seeds. `--log "faint taste"` has half of the pages, and a taste
that moves the expected time less than the numbers do.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

PAGE, USERS, VIDEOS, TOPICS = 20, 300, 200, 4
# Pages, the odds' exponent against a click, and what taste adds to those of a click and of time.
LOGS = {"plain taste": (60_000, 3.9, 0.7, 0.3), "faint taste": (30_000, 3.8, 0.5, 0.2)}
# A column of this name is never a feature.
TIME = {"column": "dwell"}
CLICK = {"column": "dwell", "threshold": 0.001}
TRUTH = "truth.npy"
NETWORKS: dict[str, list[int]] = {
    "depth 0": [],
    "256": [256],
    "512, 256": [512, 256],
    "1024, 512, 256": [1024, 512, 256],
}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, TIME),
    "no powers": ({"powers": False}, TIME),
    "all weighted equally": ({}, CLICK),
    "every impression a negative": ({"negatives": "every"}, TIME),
}
COLUMNS = {"loss": ".2f", "drawn": ".2f", "to the odds": ".3f", "to E[T]": ".3f", "seconds": ".0f"}


def write_log(folder: Path, log: str) -> None:
    """Writes the impressions and the videos, and beside them the truth.

    Args:
        folder: where to.
        log: one of `LOGS`.

    The truth is [N, 3]: p, the seconds, and the odds if root and square were straight lines.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.RandomState(1)
    pages, against, of_click, of_time = LOGS[log]
    count = pages * PAGE
    page = np.repeat(np.arange(pages), PAGE)
    user = np.repeat(random.randint(USERS, size=pages), PAGE)
    video = random.randint(VIDEOS, size=count)
    taste = random.normal(size=(USERS, TOPICS))
    topic = random.randint(TOPICS, size=VIDEOS)
    appeal = random.normal(size=VIDEOS)[video]
    away, seen = random.uniform(size=(2, count))  # quantiles
    match, root, square = taste[user, topic[video]], np.sqrt(away), seen**2
    probability = 1 / (1 + np.exp(against - of_click * match - 0.5 * appeal + 2 * (root - square)))
    seconds = 60 * np.exp(of_time * match - 0.5 * appeal - 0.5 * (root - square))
    watched = random.uniform(size=count) < probability
    events = {
        "user_id": np.char.add("u", user.astype(str)),
        "item_id": np.char.add("v", video.astype(str)),
        "session_id": np.char.add("p", page.astype(str)),
        "timestamp": 1_000_000 + 60 * page,
        "dwell": np.where(watched, random.gamma(4, seconds / 4), 0.0).astype(np.float32),
        # Log-logistic: half are above the factor, one in a hundred above 99 times that.
        "hours_away": (24 * away / (1 - away)).astype(np.float32),
        "minutes_seen": (60 * seen / (1 - seen)).astype(np.float32),
    }
    items = {
        "item_id": [f"v{number}" for number in range(VIDEOS)],
        "topic": [f"t{number}" for number in topic],
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder that is read: what no model may know.
    odds = probability * seconds / (1 - probability)
    # The lines of least squares through sqrt(q) and q^2, q uniform in [0, 1].
    lines = (0.8 * away + 4 / 15) - (seen - 1 / 6)
    straight = odds * np.exp(2.5 * (root - square - lines))
    np.save(folder.parent / TRUTH, np.stack([probability, seconds, straight], axis=1))
    pq.write_table(pa.table(events), folder / "events.parquet")
    pq.write_table(pa.table(items), folder / "items.parquet")


def expected_loss(score: np.ndarray, probability: np.ndarray, seconds: np.ndarray) -> float:
    """The weighted, per-user loss over all that could have happened.

    A pair of a page's impressions weighs the seconds of one, where it is watched and the other is
    not; `models.measures.pointwise.watch_time_loss` is that of what did happen.

    Args:
        score: [pages, impressions] what orders a page.
        probability: [pages, impressions] that an impression is watched, by itself.
        seconds: [pages, impressions] expected of one that is.

    Returns:
        Expected mispredicted time over the expected time of all pairs.
    """
    weight = (probability * seconds)[:, :, np.newaxis] * (1 - probability)[:, np.newaxis]
    weight *= 1 - np.eye(score.shape[1])
    wrong = score[:, :, np.newaxis] < score[:, np.newaxis]
    tied = score[:, :, np.newaxis] == score[:, np.newaxis]
    return float((weight * (wrong + tied / 2)).sum() / weight.sum())


def pages_of_test(data: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """The impressions of test in the log's order, so page by page.

    Returns:
        [N] serialized examples, their [N] drawn times, and their [N] rows of the log.
    """
    import tensorflow as tf

    spec = {
        "dwell": tf.io.FixedLenFeature([], tf.float32),
        "row": tf.io.FixedLenFeature([], tf.int64),
    }
    examples = data.queries("test")
    found = tf.io.parse_example(tf.constant(examples, tf.string), spec)
    time, row = found["dwell"].numpy(), found["row"].numpy()
    order = np.argsort(row)
    return tf.constant(examples[order], tf.string), time[order], row[order]


def measures(
    prediction: np.ndarray, time: np.ndarray, truth: np.ndarray, calibrated: bool = True
) -> dict[str, float]:
    """What a row of the table holds of [N] predictions, [N] drawn times and the [N, 3] truth."""
    import tensorflow as tf

    from models.measures.pointwise import watch_time_loss

    probability, seconds, _ = truth.T
    page = np.repeat(np.arange(len(time) // PAGE), PAGE)
    drawn = watch_time_loss(*map(tf.constant, (time, prediction, page)))
    pages = (values.reshape(-1, PAGE) for values in (prediction, probability, seconds))
    found = {"loss": 100 * expected_loss(*pages), "drawn": 100 * float(drawn)}
    if calibrated:
        expected = probability * seconds
        found["to the odds"] = prediction.mean() / (expected / (1 - probability)).mean()
        found["to E[T]"] = prediction.mean() / expected.mean()
    return found


def train(
    prepared: experiment.Prepared, setting: dict[str, Any], seed: int, truth: np.ndarray
) -> dict[str, float]:
    """Trains once; the epoch is chosen on validation, the measures are of test."""
    data, model, seconds = experiment.train(prepared, "youtube_ranking", setting, seed)
    examples, time, row = pages_of_test(data)
    prediction = model.predict_rows(data.parse(examples)[0]).numpy()
    found = measures(prediction, time, truth[row], calibrated=not prepared.label.is_click)
    return {**found, "seconds": seconds}


def line(network: str, change: str, runs: list[dict[str, float]]) -> dict[str, str]:
    """A line of the table: means and deviations over the runs."""
    cells = {"network": network, "changed": change}
    for name, form in COLUMNS.items():
        values = [run[name] for run in runs if name in run]
        deviation = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
        cells[name] = f"{np.mean(values):{form}}{deviation}" if values else ""
    return cells


def lines_of_truth(time: np.ndarray, truth: np.ndarray) -> list[dict[str, str]]:
    """What could be had at best of [N] drawn times and their [N, 3] truth: lines of the table."""
    probability, seconds, straight = truth.T
    odds = probability * seconds / (1 - probability)
    orders = {"none": odds, "no powers": straight, "all weighted equally": probability}
    return [
        line("truth", change, [measures(order, time, truth, calibrated=order is odds)])
        for change, order in orders.items()
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--log", choices=list(LOGS), default=next(iter(LOGS)))
    parser.add_argument("--output", type=Path, help="left out: a folder of the log's")
    arguments = parser.parse_args()
    own = "watch-time-" + arguments.log.replace(" ", "-")
    output = arguments.output or Path(".cache/benchmarks") / own
    source = output / "source"
    if not (source / "items.parquet").exists():
        write_log(source, arguments.log)
    truth, prepared = np.load(output / TRUTH), {}
    for name, label in (("times", TIME), ("clicks", CLICK)):
        prepared[name] = experiment.prepare(
            source,
            output / name,
            "event",
            {"name": "temporal"},
            schema="generic",
            label=label,
            quantiles=True,
        )
    _, time, row = pages_of_test(prepared["times"].training_data("youtube_ranking"))
    lines = lines_of_truth(time, truth[row])
    for network in arguments.networks:
        for change in arguments.changes:
            changed, label = CHANGES[change]
            setting = {"epochs": arguments.epochs, "hidden": NETWORKS[network], **changed}
            chosen = prepared["clicks" if label is CLICK else "times"]
            runs = [train(chosen, setting, seed, truth) for seed in arguments.seeds]
            lines.append(line(network, change, runs))
            print(experiment.table(lines), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
