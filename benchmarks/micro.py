"""Micro-behaviours: the next item of a session, of which train knows what was done and how long.

    python -m benchmarks.micro --data FOLDER/micro_jdata_mkmsr
    python -m benchmarks.micro --data FOLDER/micro_jdata_mkmsr --models rib --seeds 0 1 2

`train.csv` and `test.csv` (action_time, user_id, sku_id, type, sessionId) are the split; validation
is the tenth of the train sessions that end last. Events that follow one another on one item are a
visit; its dwell is the seconds until the next one begins, and nobody knows it of a session's last.

A query is every event of a held-out session whose item the session has not had, so none of the
target's own micro-behaviours is in the history; all items but those seen are ranked.
`gru4rec_items` reads an event a visit, which is what there is without micro-behaviours; the queries
are the same. `gru4rec_events` reads the items of all events. `rib_all_items` ranks whatever is near
the session or not; the rows of binn leave a part of it out. An order is what `airbnb` calls a
booking; item2vec beside it has the same sessions, and the columns `bought` are of the queries whose
target was ordered in its session. Settings are the models' defaults; `--validate` is for choosing
others, and does not look at test.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import experiment
from models.names import registry

METRICS = ("recall_20", "mrr_20", "hr_10", "ndcg_10")
SPLIT = {"name": "predefined", "sequence_by": "session"}
VALID_SHARE = 0.1  # of the train sessions, the last to end
EVENTS, VISITS = "events", "visits"
ORDER = "2"
BOUGHT = ("recall_20", "mrr_20")
# Two events an item: with fewer steps all vectors are near one another. Chosen on validation.
VECTORS = {"vector_epochs": 40, "vector_batch_size": 4096}
# row -> model, what it reads, settings.
ROWS = {
    "popularity": ("popularity", EVENTS, {}),
    "item_knn": ("item_knn", VISITS, {}),
    "gru4rec_items": ("gru4rec", VISITS, {}),
    "gru4rec_events": ("gru4rec", EVENTS, {}),
    "rib": ("rib", EVENTS, VECTORS),
    "rib_all_items": ("rib", EVENTS, {**VECTORS, "neighbours": 0}),
    "binn": ("binn", EVENTS, VECTORS),
    "binn_item2vec": ("binn", EVENTS, {**VECTORS, "weighted": False}),
    "binn_session": ("binn", EVENTS, {**VECTORS, "parts": "session"}),
    "binn_preference": ("binn", EVENTS, {**VECTORS, "parts": "preference"}),
    "item2vec": ("item2vec", EVENTS, {}),
    "airbnb": ("airbnb", EVENTS, {"booking_types": [ORDER]}),
}


def convert(source: Path, folder: Path) -> None:
    """Writes `events/events.csv` and `visits/events.csv` below `folder`."""
    parts = [pd.read_csv(source / f"{part}.csv").assign(split=part) for part in ("train", "test")]
    log = pd.concat(parts, ignore_index=True)
    since = pd.to_datetime(log["action_time"]) - pd.Timestamp(0)
    seconds = since // pd.Timedelta(seconds=1)
    log = log.assign(timestamp=seconds).sort_values(["sessionId", "timestamp"], kind="stable")
    ends = log[log["split"] == "train"].groupby("sessionId")["timestamp"].max()
    valid = ends.index[ends.rank(method="first") > len(ends) * (1 - VALID_SHARE)]
    log.loc[log["sessionId"].isin(valid) & (log["split"] == "train"), "split"] = "valid"
    session = log["sessionId"].to_numpy()
    starts = np.append(
        True, (session[1:] != session[:-1]) | np.diff(log["sku_id"].to_numpy()).astype(bool)
    )
    visits = log[starts]
    until = visits.groupby("sessionId")["timestamp"].shift(-1) - visits["timestamp"]
    dwell = until.to_numpy()[np.cumsum(starts) - 1]
    events = pd.DataFrame(
        {
            "user_id": log["user_id"],
            "item_id": log["sku_id"],
            "session_id": log["sessionId"],
            "event_type": log["type"],
            "dwell": pd.Series(dwell, log.index).astype("Int64"),
            "timestamp": log["timestamp"],
            "split": log["split"],
        }
    )
    for name, table in ((EVENTS, events), (VISITS, events[starts])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / name / "events.csv", index=False)


def prepare(source: Path, folder: Path) -> dict[str, experiment.Prepared]:
    """Builds both readings of the log; rows carry what the models read beside the items."""
    convert(source, folder / "source")
    carries = registry.load("rib").Model.carries()
    return {
        name: experiment.prepare(
            folder / "source" / name, folder / name, "sequence", SPLIT, "generic", carries=carries
        )
        for name in (EVENTS, VISITS)
    }


def bought(folder: Path) -> Callable[[Any, str], dict[str, np.ndarray]]:
    """Returns the `parts` of `experiment.measure`: the queries whose target was ordered."""
    log = pd.read_csv(folder / "source" / EVENTS / "events.csv", dtype=str)
    pair = log["session_id"] + " " + log["item_id"]
    log = log[pair.isin(set(pair[log["event_type"] == ORDER]))]
    ordered = set(zip(log["user_id"], log["item_id"], log["timestamp"], strict=True))

    def parts(data: Any, split: str) -> dict[str, np.ndarray]:
        import tensorflow as tf

        kept = []
        for query in data.queries(split):
            feature = tf.train.Example.FromString(query).features.feature
            user, target = (
                feature[name].bytes_list.value[0].decode() for name in ("user_id", "targets")
            )
            if (user, target, str(feature["timestamp"].int64_list.value[0])) in ordered:
                kept.append(query)
        return {"bought": np.array(kept, object)}

    return parts


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    experiment.add_setting(parser)
    parser.add_argument(
        "--validate", action="store_true", help="print validation, and do not look at test"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/micro"))
    arguments = parser.parse_args()

    overrides = experiment.overrides(arguments.set)
    folder = arguments.output / arguments.data.name
    prepared = prepare(arguments.data, folder)
    parts = bought(folder)
    split = "valid" if arguments.validate else "test"
    rows = []
    for row in arguments.models:
        model, reads, settings = ROWS[row]
        runs = [
            experiment.measure(
                prepared[reads],
                model,
                {**settings, **overrides},
                seed,
                test=not arguments.validate,
                parts=parts,
            )
            for seed in arguments.seeds
        ]
        if arguments.validate:
            runs = [{**run, "test": run["valid"]} for run in runs]
        else:
            (arguments.output / f"{row}.json").write_text(json.dumps(runs, indent=1))
        of_bought = [{"test": run["parts"][split]["bought"], "seconds": 0} for run in runs]
        found = experiment.summary(of_bought, BOUGHT)
        rows.append(
            {
                "model": row,
                **experiment.summary(runs, METRICS),
                **{f"bought: {name}": found[name] for name in BOUGHT},
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
