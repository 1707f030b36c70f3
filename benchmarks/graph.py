"""Link prediction over an item graph: BGE, GES and EGES as their paper measures them.

    python -m benchmarks.graph --data FOLDER/micro_jdata_mkmsr --seeds 0 1 2
    python -m benchmarks.graph --data FOLDER/seq_s3rec

A third of the edges is removed, walks are made over the rest, and the removed edges are to be told
by the cosine of their ends from as many pairs of items that no edge joins either way: AUC. An item
that has lost all of its edges has a vector by its side information, or none and a cosine of 0.

The graph is that of transitions within an hour in JD's sessions of three days (`train.csv` and
`with_new_item/`), whose products have a brand, a shop, a category and a year; or that of Amazon's
Beauty (`Beauty.txt`, `Beauty_item2attributes.json`), where what users bought one after the other is
joined, whatever the time between, and products have a few of 637 attributes. `--validation` removes
a third of what is left once more and measures on that: for choosing settings.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment
from components.build.config import WalkConfig
from components.build.splits import TRAIN, Log
from components.build.walks import Graph, Transitions, count_transitions, walk
from models.names import registry

NAMES = ("bge", "ges", "eges")
WALKS = registry.get("eges").defaults["walks"]
# What is not asked here goes to test, so that nearly all of the log is the graph's.
SPLIT = {"name": "temporal", "valid_fraction": 0.0, "test_fraction": 0.01}


@dataclass
class Items:
    """As much of `models.inputs.data.TrainingData` as the three models need."""

    items: Any
    walks: Any = None
    has_walks: bool = True


@dataclass
class Links:
    """An item graph and the models' data for it.

    Attributes:
        transitions: of the N items.
        index: [N] int64, which index of the catalogue each of them has.
        data: what the models are made with; its walks are replaced.
    """

    transitions: Transitions
    index: np.ndarray
    data: Items


def part(transitions: Transitions, share: float, seed: int) -> tuple[Transitions, np.ndarray]:
    """Removes a share of the edges.

    Returns:
        What is left, and the removed edges: [R, 2] int64 positions in the items.
    """
    edges = np.stack([transitions.source, transitions.target], axis=1)
    order = np.random.RandomState(seed).permutation(len(edges))
    count = round(share * len(edges))
    left = np.sort(order[count:])
    rest = replace(
        transitions,
        source=transitions.source[left],
        target=transitions.target[left],
        count=transitions.count[left],
    )
    return rest, edges[order[:count]]


def unconnected(transitions: Transitions, count: int, seed: int) -> np.ndarray:
    """[count, 2] int64 positions of different items that have edges, but none to each other."""
    random, size = np.random.RandomState(seed), len(transitions.items)
    nodes = np.unique([transitions.source, transitions.target])
    joined = np.r_[
        transitions.source * size + transitions.target,
        transitions.target * size + transitions.source,
    ]
    pairs = nodes[random.randint(len(nodes), size=[4 * count + 100, 2])]
    free = pairs[(pairs[:, 0] != pairs[:, 1]) & ~np.isin(pairs[:, 0] * size + pairs[:, 1], joined)]
    if len(free) < count:
        raise ValueError(f"the graph is too dense: {len(free)} free pairs of {count} were drawn")
    return free[:count]


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The share of pairs of one of each that are in the right order; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.r_[positive, negative])[: len(positive)].sum()
    count = len(positive)
    return float((ranks - count * (count + 1) / 2) / (count * len(negative)))


def measure(
    links: Links, name: str, overrides: dict[str, Any], seed: int, validation: bool = False
) -> dict[str, Any]:
    """Trains one model on what is left of the graph, and measures it on what was removed."""
    import tensorflow as tf

    from models.training.loop import TrainingLoop
    from models.training.trainer import resolve

    rest, removed = part(links.transitions, 1 / 3, seed)
    if validation:
        rest, removed = part(rest, 1 / 3, seed)
    config = WalkConfig.parse({**WALKS, "seed": seed})
    number = np.arange(config.walks_per_node * len(rest.items))
    path = walk(Graph(rest, config), config, number % len(rest.items), number)
    path = path[path[:, 1] >= 0]
    links.data.walks = tf.RaggedTensor.from_row_lengths(
        links.index[path[path >= 0]].astype(np.int64), (path >= 0).sum(axis=1).astype(np.int64)
    )
    parameters = resolve(name, overrides)
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    started = time.monotonic()
    model = registry.load(name).Model(parameters, links.data)
    TrainingLoop(parameters, links.data, seed=seed).fit(model)
    seconds = time.monotonic() - started
    vectors = model.item_embeddings().numpy()[links.index - 2]
    absent = unconnected(links.transitions, len(removed), seed)
    cosines = [
        np.sum(vectors[pairs[:, 0]] * vectors[pairs[:, 1]], axis=1) for pairs in (removed, absent)
    ]
    return {
        "model": name,
        "seed": seed,
        "auc": auc(*cosines),
        "seconds": round(seconds, 1),
        "removed": len(removed),
        "hyper_parameters": parameters.model_dump(),
    }


def jdata(folder: Path, source: Path) -> dict[str, str]:
    """Writes JD's sessions and products; returns the types of columns that are to be told."""
    import pandas as pd

    events = pd.read_csv(folder / "train.csv")
    since_1970 = pd.to_datetime(events["action_time"]) - pd.Timestamp(0)
    events.assign(item_id=events["sku_id"], timestamp=since_1970 // pd.Timedelta(seconds=1))[
        ["user_id", "item_id", "timestamp"]
    ].to_csv(source / "events.csv", index=False)
    entities = pd.read_csv(folder / "with_new_item" / "entity2id", sep="\t", dtype=str)
    facts = pd.read_csv(folder / "with_new_item" / "kg2id", sep="\t", dtype=str)
    sku = entities[entities["type"] == "item"].set_index("id")["entity"]
    relations = {"1": "brand", "2": "shop", "3": "category", "4": "year"}
    items = facts.pivot_table(index="head", columns="relation", values="tail", aggfunc="first")
    items = items.rename(columns=relations).join(sku.rename("item_id"), how="inner")
    # Numbers of entities: names of categories, not quantities.
    items = items.set_index("item_id").apply(lambda column: "v" + column)
    items.to_csv(source / "items.csv")
    return {}


def beauty(folder: Path, source: Path) -> dict[str, str]:
    """Writes Beauty's sequences and products; returns the types of columns that are to be told.

    The sequences have no times: a second lies between an item and the next.
    """
    import pandas as pd

    events = []
    for line in (folder / "Beauty.txt").read_text().splitlines():
        user, *items = line.split()
        events += [(user, item, 1_400_000_000 + place) for place, item in enumerate(items)]
    columns = ["user_id", "item_id", "timestamp"]
    pd.DataFrame(events, columns=columns).to_csv(source / "events.csv", index=False)
    facts = json.loads((folder / "Beauty_item2attributes.json").read_text())
    rows = [(item, "|".join(f"v{one}" for one in found)) for item, found in facts.items()]
    pd.DataFrame(rows, columns=["item_id", "attributes"]).to_csv(source / "items.csv", index=False)
    return {"attributes": "bytes_list"}


def item_graph(folder: Path, output: Path) -> Links:
    """The graph of a data set; see the module."""
    import pyarrow as pa

    source = output / "source"
    source.mkdir(parents=True, exist_ok=True)
    types = (beauty if (folder / "Beauty.txt").exists() else jdata)(folder, source)
    prepared = experiment.prepare(
        source,
        output,
        "walk",
        SPLIT,
        "generic",
        carries=registry.load("eges").Model.carries(),
        types=types or None,
    )
    data = prepared.training_data("eges")
    log = data.events
    users, user = np.unique(log.user, return_inverse=True)
    table = pa.table(
        {
            "item_id": pa.array(data.items.ids[log.item - 2], pa.large_binary()),
            "timestamp": pa.array(log.timestamp),
        }
    )
    starts = np.searchsorted(user, np.arange(len(users) + 1))
    every = np.ones(len(user), bool)
    whole = Log(table, users, user, starts, np.full(len(user), TRAIN, np.int8), every)
    transitions = count_transitions(whole, False, WALKS["within"])
    place = {item: number for number, item in enumerate(data.items.ids)}
    index = np.array([place[item] + 2 for item in transitions.items])
    return Links(transitions, index, Items(data.items))


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="micro_jdata_mkmsr or seq_s3rec")
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/graph"))
    arguments = parser.parse_args()
    output = arguments.output / arguments.data.name
    links = item_graph(arguments.data, output)
    overrides, rows = experiment.overrides(arguments.set), []
    edges = links.transitions
    print(f"{len(np.unique([edges.source, edges.target])):,} items, {len(edges.source):,} edges")
    for name in arguments.models:
        runs = [
            measure(links, name, overrides, seed, arguments.validation) for seed in arguments.seeds
        ]
        (output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        found = [run["auc"] for run in runs]
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        rows.append(
            {
                "model": name,
                "AUC": f"{statistics.mean(found):.4f} ± {deviation:.4f}",
                "seconds": f"{statistics.mean(run['seconds'] for run in runs):.0f}",
            }
        )
        print(experiment.table(rows), flush=True)
    where = "validation" if arguments.validation else "removed edges"
    print(f"\n{where}, seeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
