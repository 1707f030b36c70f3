"""Airbnb's ranker on searches whose truth is known: NDCG within them, with embeddings and without.

    python -m benchmarks.airbnb_searches --seeds 0 1 2

Guests have a style that no table tells, each listing one of its own, of as many as there are
styles in each market, and a price. A search is in a market that the guest is drawn to for a while
(a trip has several searches), shows ten of its listings, and what comes of each follows from style,
price and chance: it is clicked, its host contacted, it is booked or refused, passed over for a
later click (a skip), or no more than shown. Styles are in the sessions of clicks alone, so whoever
knows which listings are like those that the guest has clicked knows more than the fields say.

Rows: the ranker with and without the similarities; the truth, which orders by the expected grade,
and a random order. The epoch is chosen on validation, which is later than train; test is later yet.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

GRADES = {
    "booking": 1.0,
    "contact": 0.25,
    "click": 0.01,
    "skip": 0.0,
    "impression": 0.0,
    "rejection": -0.4,
}
LABEL = {"column": "event_type", "grades": GRADES, "group": "search_id"}
SPLIT = {"name": "temporal"}
TRUTH = "truth.npy"
SHOWN, TRIP = 10, 4
SETTING = {"listings": {"market": "item_market"}}
ROWS: dict[str, dict[str, Any]] = {
    "fields and similarities": {},
    "fields alone": {"similarities": False},
}


def write_log(
    folder: Path,
    guests: int = 3_000,
    listings: int = 600,
    markets: int = 6,
    styles: int = 5,
    trips: int = 1,
    seed: int = 1,
) -> None:
    """Writes the searches as atomic files, and beside the folder the expected grade of every row.

    Args:
        folder: where to.
        guests: how many.
        listings: how many, in equal parts of all markets and styles.
        markets: places that a search is in.
        styles: tastes that nobody writes down.
        trips: of each guest, of `TRIP` searches each.
        seed: of the log.
    """
    random = np.random.RandomState(seed)
    market, style = np.arange(listings) % markets, np.arange(listings) // markets % styles
    price = np.exp(random.normal(4.5, 0.5, listings))
    taste, budget = random.randint(styles, size=guests), np.exp(random.normal(4.5, 0.4, guests))
    in_market = [np.flatnonzero(market == number) for number in range(markets)]
    events, truth = [], []
    for trip in random.permutation(np.repeat(np.arange(guests), trips)).tolist():
        place = random.randint(markets)
        for _ in range(TRIP):
            search = len(truth) // SHOWN
            shown = random.choice(in_market[place], SHOWN, replace=False)
            like = style[shown] == taste[trip]
            cheap = -np.abs(np.log(price[shown] / budget[trip]))
            clicked = 1 / (1 + np.exp(2.2 - 2.6 * like - 0.8 * cheap))
            # Of what is clicked a share is contacted, booked, refused: more where the style fits.
            booked, contacted, refused = 0.25 * like + 0.05, 0.15 * like + 0.05, 0.06
            rest = 1 - booked - contacted - refused
            truth += [*clicked * (booked + 0.25 * contacted - 0.4 * refused + 0.01 * rest)]
            chance, outcome = random.uniform(size=SHOWN) < clicked, random.uniform(size=SHOWN)
            last = np.flatnonzero(chance)[-1] if chance.any() else 0
            kinds = np.select(
                [
                    ~chance & (np.arange(SHOWN) < last),
                    ~chance,
                    outcome < booked,
                    outcome < booked + contacted,
                    outcome > 1 - refused,
                ],
                ["skip", "impression", "booking", "contact", "rejection"],
                "click",
            )
            at = f"{1_000_000 + 600 * search}\ts{search}\tt{search // TRIP}"
            events += [f"g{trip}\tl{one}\t{at}\t{kind}" for one, kind in zip(shown, kinds)]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder.parent / TRUTH, np.array(truth, np.float32))
    header = (
        "user_id:token\titem_id:token\ttimestamp:float\tsearch_id:token\tsession_id:token\t"
        "event_type:token"
    )
    (folder / "searches.inter").write_text("\n".join([header, *events]) + "\n")
    header = "item_id:token\tmarket:token\tprice:float"
    lines = [f"l{n}\tm{market[n]}\t{price[n]:.2f}" for n in range(listings)]
    (folder / "searches.item").write_text("\n".join([header, *lines]) + "\n")
    lines = [f"g{n}\t{budget[n]:.0f}" for n in range(guests)]
    (folder / "searches.user").write_text("\n".join(["user_id:token\tbudget:float", *lines]) + "\n")


def bounds(prepared: experiment.Prepared, truth: np.ndarray) -> dict[str, float]:
    """What the truth and a random order reach on test."""
    import tensorflow as tf

    from models.measures import lists
    from models.names.label import GROUP

    data = prepared.training_data("airbnb_ranker")
    examples = tf.constant(data.queries("test"), tf.string)
    row = tf.io.parse_example(examples, {"row": tf.io.FixedLenFeature([], tf.int64)})["row"]
    label, group = data.parse(examples)[1], data.beside(examples)[GROUP]
    values = lists.group_metrics(label, truth[row.numpy()], group)
    return {name: float(value) for name, value in values.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument("--validation", action="store_true", help="look at validation alone")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/airbnb-searches"))
    arguments = parser.parse_args()
    from models.industry.airbnb_ranker import Model

    source = arguments.output / "source"
    if not (source / "searches.user").exists():
        write_log(source)
    prepared = experiment.prepare(
        source,
        arguments.output / "built",
        "event",
        SPLIT,
        schema="generic",
        label=LABEL,
        carries=Model.carries(),
        quantiles=True,
    )
    lines, part = [], "valid" if arguments.validation else "test"
    for name in arguments.rows:
        setting = {**SETTING, **ROWS[name], **experiment.overrides(arguments.set)}
        runs = [
            experiment.measure(
                prepared, "airbnb_ranker", setting, seed, test=not arguments.validation
            )
            for seed in arguments.seeds
        ]
        found = np.array([run[part]["group_ndcg_10"] for run in runs])
        deviation = found.std(ddof=1) if len(found) > 1 else 0.0
        lines.append(
            {
                "order": name,
                "NDCG@10": f"{found.mean():.4f} ± {deviation:.4f}",
                "seconds": f"{np.mean([run['seconds'] for run in runs]):.0f}",
            }
        )
        print(experiment.table(lines), flush=True)
    if not arguments.validation:
        ends = bounds(prepared, np.load(arguments.output / TRUTH))
        for name, metric in (("the truth", "group_ndcg_10"), ("random", "random_group_ndcg_10")):
            lines.append({"order": name, "NDCG@10": f"{ends[metric]:.4f}", "seconds": ""})
        print(experiment.table(lines))
        print(f"\n{ends['groups']:.0f} searches, {ends['groups_left_out']:.0f} left out")
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
