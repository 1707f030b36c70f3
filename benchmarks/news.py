"""News, MIND's layout: step one and step two of Yahoo's model, each apart.

    python -m benchmarks.news articles --data FOLDER/news_mind_subset --seeds 0 1 2
    python -m benchmarks.news clicks --data FOLDER/news_mind_subset --seeds 0 1 2

`articles`: articles are drawn into train, validation and test; the words, the vocabulary and the
encoder are of train alone. Each held-out article ranks those of train by the cosine: how many of
the ten nearest are of its category, and the AUC of its category against the others.

`clicks`: the slice has no text of most articles that were clicked, so their vectors are of a
truncated singular value decomposition of who in train read what, the same for all rows. Impressions
are drawn at random into train, validation and test: articles live for a day, so that a cut in time
leaves vectors of few.
What was displayed is ranked, all of it; AUC, MRR and NDCG of each impression, their means.

Settings and epochs are chosen on validation with the first seed; test is measured once a seed.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

PARTS = ("train", "valid", "test")
SHARES = (0.7, 0.85)  # where validation and test begin
SPLIT = {"name": "predefined"}
ALPHAS = (0.0, 1e3, 1e4, 3e4)
ARTICLES: dict[str, Any] = {"article_epochs": 20, "article_length": 100, "vocabulary": 4000}
USERS: dict[str, Any] = {
    "article_dim": 100,
    "batch_size": 100,
    "history_length": 30,
    "epochs": 10,
    "patience": 3,
    "monitor": "auc",
}
RATES = (5e-3, 1e-3)
LENGTHS = (5, 10, 30)


def parts_of(count: int) -> np.ndarray:
    """[count] strings: the part of each, drawn with a seed of its own."""
    place = np.random.RandomState(42).permutation(count) / count
    return np.array(PARTS)[np.searchsorted(SHARES, place, side="right")]


def write_articles(source: Path, folder: Path) -> Path:
    """Articles with their texts; twenty at a time are read by one who is there for that alone."""
    rows = [line.split("\t") for line in (source / "news.tsv").read_text("utf-8").splitlines()]
    parts = parts_of(len(rows))
    events = [
        (f"reader {number // 20}", row[0], number + 1, part)
        for number, (row, part) in enumerate(zip(rows, parts, strict=True))
    ]
    write(folder / "events.csv", ("user_id", "item_id", "timestamp", "split"), events)
    items = [(row[0], row[1], row[3], row[4]) for row in rows]
    write(folder / "items.csv", ("item_id", "category", "title", "text"), items)
    return folder


def write_clicks(source: Path, folder: Path) -> Path:
    """What users had read, in order, and their impressions: a click is an event beside `shown`."""
    events, seen = [], {}
    titles = {
        row[0]: row[3]
        for row in csv.reader(
            (source / "news.tsv").open(encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE
        )
    }
    for one in impressions_of(source):
        if one.user not in seen:
            for number, item in enumerate(one.history):
                events.append((one.user, item, number + 1, "train", ""))
        seen[one.user] = True
        shown = "|".join(one.items)
        events += [
            (one.user, item, one.seconds, one.part, shown)
            for item, clicked in zip(one.items, one.clicked, strict=True)
            if clicked
        ]
    write(folder / "events.csv", ("user_id", "item_id", "timestamp", "split", "shown"), events)
    items = sorted({item for one in impressions_of(source) for item in (*one.items, *one.history)})
    rows = [(item, titles.get(item, "")) for item in items]
    write(folder / "items.csv", ("item_id", "title"), rows)
    return folder


def write(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@dataclass
class Impression:
    """What was displayed to a user, and what was clicked of it."""

    user: str
    seconds: int
    history: list[str]
    items: list[str]
    clicked: np.ndarray
    part: str


def impressions_of(source: Path) -> list[Impression]:
    """The impressions that have both clicks and something else."""
    lines = (source / "behaviors.tsv").read_text("utf-8").splitlines()
    found = []
    for line, part in zip(lines, parts_of(len(lines)), strict=True):
        _, user, time, history, shown = line.split("\t")
        moment = datetime.strptime(time, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=timezone.utc)
        items, clicks = zip(*(each.rsplit("-", 1) for each in shown.split()), strict=True)
        clicked = np.array(clicks) == "1"
        if 0 < clicked.sum() < len(clicked):
            seconds = int(moment.timestamp())
            found.append(Impression(user, seconds, history.split(), [*items], clicked, part))
    return found


def ranked(scores: np.ndarray, clicked: np.ndarray) -> dict[str, float]:
    """The measures of one impression; ties rank against the clicks, and count half in the AUC."""
    order = np.lexsort((clicked, -scores))
    hit = clicked[order]
    rank = np.flatnonzero(hit) + 1
    apart = scores[clicked][:, None] - scores[~clicked]
    ideal = 1 / np.log2(np.arange(min(len(rank), 10)) + 2)
    return {
        "auc": float(((apart > 0) + 0.5 * (apart == 0)).mean()),
        "mrr": float((1 / rank).mean()),
        "ndcg_5": float(gain(rank, 5) / ideal[:5].sum()),
        "ndcg_10": float(gain(rank, 10) / ideal.sum()),
    }


def gain(rank: np.ndarray, limit: int) -> float:
    return float((1 / np.log2(rank[rank <= limit] + 1)).sum())


class Impressions:
    """Impressions of one part as indices of a run's items: scores of users to measures."""

    def __init__(self, data: Any, found: list[Impression]):
        import tensorflow as tf

        from models.names.metrics import CLICK

        self.metrics = CLICK
        place = {item.decode(): number + 2 for number, item in enumerate(data.items.ids)}
        self.items = [np.array([place[item] for item in one.items]) for one in found]
        self.clicked = [one.clicked for one in found]
        known = [[place[item] for item in one.history] for one in found]
        self.history = tf.ragged.constant(known, dtype=tf.int64, ragged_rank=1)

    def by_vectors(self, users: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
        """Users [Q, D], vectors by item index."""
        return self.by_scores(
            [vectors[items] @ user for user, items in zip(users, self.items, strict=True)]
        )

    def by_scores(self, scores: list[np.ndarray]) -> dict[str, float]:
        """The mean measures of scores of what each impression displays."""
        rows = [ranked(np.float64(one), of) for one, of in zip(scores, self.clicked, strict=True)]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def of(self, model: Any) -> Any:
        """As the training loop wants an evaluation: of the model as it then is."""
        import tensorflow as tf

        read = tf.function(lambda history: model.user(model.read(history)), reduce_retracing=True)
        length = model.hyper_parameters.history_length
        padded = self.history[:, -length:].to_tensor(shape=[None, length])

        def evaluate() -> dict[str, float]:
            return self.by_vectors(read(padded).numpy(), model.articles.embeddings.numpy())

        return evaluate


def new_model(data: Any, setting: dict[str, Any], seed: int, evaluation: Any = None):
    """A model and a loop for it."""
    import tensorflow as tf

    from models.industry.yahoo_news import YahooNews
    from models.training.loop import TrainingLoop
    from models.training.trainer import resolve

    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    parameters = resolve("yahoo_news", setting)
    loop = TrainingLoop(parameters, data, seed=seed, evaluation=evaluation)
    return YahooNews(parameters, data), loop


def carried() -> dict[str, Any]:
    from models.industry.yahoo_news import YahooNews

    return YahooNews.carries()


def articles(source: Path, output: Path, seeds: list[int], settings: dict[str, Any]) -> None:
    """Step one."""
    import tensorflow as tf

    folder = write_articles(source, output / "articles" / "source")
    prepared = experiment.prepare(
        folder, output / "articles", "event", SPLIT, "generic", carries=carried()
    )
    data = prepared.training_data("yahoo_news")
    part = dict(
        zip(*np.loadtxt(folder / "events.csv", str, delimiter=",", skiprows=1)[:, [1, 3]].T)
    )
    of_item = np.array([part[item.decode()] for item in data.items.ids])
    category = np.asarray(data.items.features["item_category"])[2:]

    def measured(vectors: np.ndarray, name: str) -> dict[str, float]:
        """Of [N, D] vectors in catalogue order."""
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        train = of_item == "train"
        rows = []
        for query in np.flatnonzero(of_item == name):
            same = category[train] == category[query]
            if not 0 < same.sum() < len(same):
                continue
            scores = unit[train] @ unit[query]
            nearest = same[np.lexsort((same, -scores))][:10].mean()
            rows.append((nearest, ranked(scores, same)["auc"]))
        return dict(zip(("same_10", "auc"), np.mean(rows, axis=0).tolist(), strict=True))

    def encoded(alpha: float, seed: int) -> np.ndarray:
        setting = {**ARTICLES, "similarity": alpha, **settings}
        model, loop = new_model(data, setting, seed)
        model.learn_articles(loop)
        return model.articles.embeddings.numpy()[2:]

    words = new_model(data, ARTICLES, 0)[0]._words
    bag = np.zeros([len(data.items), len(words.tokens)], np.float32)
    texts = words.of_items[2:]
    bag[texts.value_rowids().numpy(), texts.flat_values.numpy() - 2] = 1
    inverse = np.log((of_item == "train").sum() / np.maximum(bag[of_item == "train"].sum(0), 1))
    rows: dict[str, list[np.ndarray]] = {
        "by chance": [np.random.RandomState(seed).normal(size=[len(bag), 100]) for seed in seeds],
        "words": [bag],
        "words, weighted by TF-IDF": [bag * inverse],
    }
    tried = {alpha: encoded(alpha, seeds[0]) for alpha in ALPHAS}
    rows["auto-encoder, alpha 0, the first seed"] = [tried[0.0]]
    chosen = max(tried, key=lambda alpha: measured(tried[alpha], "valid")["same_10"])
    for alpha, vectors in tried.items():
        print(f"validation, alpha {alpha}: {measured(vectors, 'valid')}", flush=True)
    if chosen:
        more = [encoded(chosen, seed) for seed in seeds[1:]]
        rows[f"auto-encoder, alpha {chosen:g}"] = [tried[chosen], *more]
    report(output / "articles.json", rows, measured)
    if chosen:
        vectors = tried[chosen][of_item == "train"]
        unit = tf.math.l2_normalize(vectors, axis=1)
        near = tf.linalg.set_diag(tf.matmul(unit, unit, transpose_b=True), -tf.ones(len(vectors)))
        largest = np.sort(tf.reduce_max(near, axis=1))
        shares = [0.5, 0.9, 0.95, 0.99]
        print("cosine with the nearest, quantiles", shares, np.quantile(largest, shares).round(3))


def clicks(source: Path, output: Path, seeds: list[int], settings: dict[str, Any]) -> None:
    """Step two."""
    folder = write_clicks(source, output / "clicks" / "source")
    prepared = experiment.prepare(
        folder, output / "clicks", "event", SPLIT, "generic", carries=carried()
    )
    data = prepared.training_data("yahoo_news")
    found = impressions_of(source)
    impressions = {
        name: Impressions(data, [one for one in found if one.part == name]) for name in PARTS
    }
    counts = np.zeros(data.items.index_count)
    log = data.events
    displayed = np.bincount(log.shown.flat_values, minlength=len(counts))
    np.add.at(counts, log.item[log.shown.row_lengths().numpy() > 0], 1)
    rate = (counts + 0.4) / (displayed + 10)  # a rate of four in a hundred, ten displays strong

    vectors = read_vectors(log, data.items.index_count, USERS["article_dim"])

    def mean_of_vectors(length: int, name: str) -> dict[str, float]:
        import tensorflow as tf

        history = impressions[name].history[:, -length:]
        read = tf.gather(vectors, history.flat_values)
        users = tf.math.unsorted_segment_mean(read, history.value_rowids(), history.nrows())
        return impressions[name].by_vectors(users.numpy(), vectors)

    def trained(seed: int, rate: float) -> dict[str, dict[str, float]]:
        setting = {**USERS, "learning_rate": rate, **settings}
        model, loop = new_model(data, setting, seed, impressions["valid"])
        model.articles.embeddings.assign(vectors)
        model.learn_users(loop)
        print(f"seed {seed}, {setting}: epochs {loop.best_epochs}", flush=True)
        return {name: impressions[name].of(model)() for name in ("valid", "test")}

    first = seeds[0]
    length = max(LENGTHS, key=lambda each: mean_of_vectors(each, "valid")["auc"])
    rates = {each: trained(first, each) for each in RATES}
    best = max(rates, key=lambda each: rates[each]["valid"]["auc"])
    for each in RATES:
        print(f"validation, learning_rate {each}: {rates[each]['valid']}", flush=True)

    def by_item(scores: np.ndarray) -> dict[str, dict[str, float]]:
        return {
            name: impressions[name].by_scores([scores[items] for items in impressions[name].items])
            for name in ("valid", "test")
        }

    rows = {
        "popularity: clicks": [by_item(counts)],
        "popularity: clicks a display": [by_item(rate)],
        f"mean of the vectors of the last {length}": [
            {name: mean_of_vectors(length, name) for name in ("valid", "test")}
        ],
        f"yahoo_news, learning_rate {best}": [
            rates[best] if seed == first else trained(seed, best) for seed in seeds
        ],
    }
    report(output / "clicks.json", rows, lambda row, name: row[name])
    known = {
        name: [vectors[items].any(axis=1) for items in each.items]
        for name, each in impressions.items()
    }
    print("displayed articles with a vector, test:", np.concatenate(known["test"]).mean().round(3))
    print("impressions:", {name: len(each.items) for name, each in impressions.items()})


def read_vectors(log: Any, index_count: int, width: int) -> np.ndarray:
    """[N + 2, D] unit vectors of articles by index, 0 of those that nobody in train has read."""
    import scipy.sparse.linalg

    matrix = log.matrix(index_count - 2)
    matrix = scipy.sparse.diags(1 / np.sqrt(np.maximum(matrix.sum(1).A1, 1))) @ matrix
    _, size, right = scipy.sparse.linalg.svds(matrix.astype(np.float64), width, random_state=0)
    table = np.zeros([index_count, width], np.float32)
    table[2:] = right.T * size
    length = np.linalg.norm(table, axis=1, keepdims=True)
    return table / np.where(length > 1e-9, length, np.inf)


def report(path: Path, rows: dict[str, list], measured: Any) -> None:
    """Prints the table of validation and test, and writes the figures."""
    table, written = [], {}
    for name, runs in rows.items():
        values = {part: [measured(run, part) for run in runs] for part in ("valid", "test")}
        written[name] = values
        metrics = tuple(values["test"][0])
        shown = experiment.summary(
            [{"test": each, "seconds": 0} for each in values["test"]], metrics
        )
        valid = np.mean([each[metrics[0]] for each in values["valid"]])
        table.append(
            {
                "row": name,
                **{metric: shown[metric] for metric in metrics},
                f"validation {metrics[0]}": f"{valid:.4f}",
            }
        )
    path.write_text(json.dumps(written, indent=1))
    print(experiment.table(table), flush=True)


def main() -> None:
    """Prints the table of one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("articles", "clicks"))
    parser.add_argument("--data", type=Path, required=True, help="news.tsv and behaviors.tsv")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/news"))
    arguments = parser.parse_args()
    step = articles if arguments.step == "articles" else clicks
    step(
        arguments.data,
        arguments.output,
        arguments.seeds,
        experiment.overrides(arguments.set),
    )
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
