"""Large vocabularies: what keeps their tables small, and what that costs.

    python -m benchmarks.vocabularies cost [--split FOLDER] [--rows 1000] [--seeds 0 1 2]
        FM on the clicks of MovieLens-100K: a row an id; admission by frequency; ids that share rows
        by one hash and by two; each as it was learnt and in int8
    python -m benchmarks.vocabularies rank [--seeds 0 1 2]
        BPR-MF and the two-tower on MovieLens-100K, leave-one-out: as they were learnt and in int8
    python -m benchmarks.vocabularies request [--items 200000]
        the best 10 of so many items of 64 numbers: tables of floats, of bytes that all become
        floats at every request, and of bytes that do so by blocks
    python -m benchmarks.vocabularies memory [--ids 1000000] [--rows 4000000] [--column ad|user_id]
        a log in which a column has so many values, each once at least, through all stages of FM
        with 16 factors, whose values share rows: seconds and memory of every stage. Of `ad` no
        vocabulary is kept, of `user_id` there is one
    python -m benchmarks.vocabularies count [--ids 30000000]
        Transform's vocabulary of so many values, each there once
    python -m benchmarks.vocabularies train [--ids 30000000] [--rows 4000000]
        the stage of training alone, on rows that are drawn rather than read

Every stage is a process of its own, so that its peak of anonymous memory (what does not lie in
files) is its own. All print Markdown tables.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import clicks, experiment
from benchmarks.usage import begin_peak, memory

STAGES = ("read", "build", "transform", "train", "serve")
_FACTORS = 16
_BATCH = 1_000_000
_LABEL = {"column": "label"}
_USERS, _ITEMS = 10_000, 1_000


def cost(split: Path | None, rows: int, seeds: list[int], folder: Path) -> list[dict[str, str]]:
    """Rows of the table: ways to keep a table small, and what is measured on test.

    Args:
        split: folder of given validation and test rows; None draws them.
        rows: that the users share, and the items.
        seeds: of the trainings.
        folder: where to.
    """
    from components.read import datasets
    from models.inputs import fields

    source = Path(datasets.get("movielens-100k"))
    source = clicks.with_parts(source, split, folder / "source") if split else source
    label = {"column": "rating", "threshold": 4.0}
    parts = {"name": "predefined" if split else "ratio"}
    one_hash = mock.patch.object(fields, "_ODD", fields._ODD[:1] * 2)
    sharing = {"hash_rows": {"user_id": rows, "item_id": rows}}
    found = []
    for name, least, setting, patched in (
        ("a row an id", 1, {}, None),
        ("at least 20 times in train", 20, {}, None),
        (f"{rows} rows of users and of items, one hash", 1, sharing, one_hash),
        (f"{rows} rows of users and of items, two hashes", 1, sharing, None),
    ):
        prepared = experiment.prepare(
            source, folder / f"least-{least}", "event", parts, "movielens", label, least
        )
        setting = {"monitor": "auc", "factors": _FACTORS, **setting}
        with patched or mock.MagicMock():
            measured = [_measured(prepared, setting, seed) for seed in seeds]
        for kind in ("float32", "int8"):
            values = {
                metric: np.array([one[kind][metric] for one in measured])
                for metric in ("auc", "log_loss")
            }
            deviation = values["auc"].std(ddof=1) if len(seeds) > 1 else 0.0
            found.append(
                {
                    "FM, 16 factors": f"{name}, {kind}",
                    "table": f"{measured[0][kind]['bytes'] / 1e3:,.0f} kB",
                    "AUC": f"{values['auc'].mean():.4f} ± {deviation:.4f}",
                    "log loss": f"{values['log_loss'].mean():.4f}",
                    "int8 - float32, AUC": ", ".join(
                        f"{one['int8']['auc'] - one['float32']['auc']:+.5f}" for one in measured
                    )
                    if kind == "int8"
                    else "",
                }
            )
    return found


def _measured(
    prepared: experiment.Prepared, setting: dict[str, Any], seed: int
) -> dict[str, dict[str, float]]:
    """Trains once: metrics of test and bytes of the tables, as learnt and in int8."""
    from models.training.export import in_int8

    data, model, _ = experiment.train(prepared, "fm", setting, seed)
    evaluation = prepared.task("fm").evaluation(data, "test")
    size = 4 * model.rows.count * (1 + _FACTORS)
    learnt = {**evaluation.of(model)(), "bytes": size}
    with in_int8(model, 1) as saved:
        return {"float32": learnt, "int8": {**evaluation.of(model)(), "bytes": size - saved}}


def rank(seeds: list[int], folder: Path) -> list[dict[str, str]]:
    """Rows of the table: models that rank, as learnt and with their tables in int8, on test.

    Args:
        seeds: of the trainings.
        folder: where to.
    """
    from benchmarks import movielens
    from components.read import datasets
    from models.training.export import in_int8

    found = []
    for name in ("bpr_mf", "two_tower"):
        row = movielens.ROWS[name]
        prepared = movielens.prepare(row, Path(datasets.get("movielens-100k")), folder)
        for seed in seeds:
            data, model, _ = experiment.train(prepared, name, dict(row.setting), seed)
            task = prepared.task(name)
            evaluation, exporter = task.evaluation(data, "test"), task.exporter(model, data)
            learnt = evaluation.of(model)()
            exporter.store_in_int8(1)
            with in_int8(model, 1):
                served = evaluation.of(model, exporter)()
            values = {
                metric: f"{learnt[metric]:.5f}, {served[metric] - learnt[metric]:+.5f}"
                for metric in ("ndcg_10", "hr_10", "recall_20")
            }
            found.append({"model": name, "seed": str(seed), **values})
            print(found[-1], flush=True)
    return found


_WAYS = ("float32", "int8, whole", "int8, by blocks")


def request(items: int) -> list[dict[str, str]]:
    """Rows of the table: ways to score a catalogue, with their time and memory a request.

    Args:
        items: of the catalogue.
    """
    ways, found = {way: _scorer(way, items) for way in _WAYS}, []
    for queries in (1, 8, 64):
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for asked in _queries(queries, 31):
            for way, answer in ways.items():
                begin = time.process_time()
                answer(asked)
                seconds[way].append(time.process_time() - begin)
        for way in ways:
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.vocabularies",
                "stage",
                way,
            ]
            command += ["--rows", str(items), "--ids", str(queries)]
            peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(
                {
                    "requests at once": str(queries),
                    "table": way,
                    "ms of processor": f"{1e3 * np.median(seconds[way][1:]):.1f}",
                    "MiB above the table": peak.splitlines()[-1],
                }
            )
    return found


def _scorer(way: str, items: int) -> Any:
    """Queries [B, 64] -> the best 10 of the items."""
    import tensorflow as tf

    from models.inputs.int8 import Int8Table, products

    values = np.random.default_rng(0).normal(size=[items, 64]).astype(np.float32)
    table = tf.Variable(values) if way == "float32" else Int8Table(values)

    def answer(queries: Any) -> Any:
        read = tf.convert_to_tensor(table) if way == "int8, whole" else table
        return tf.math.top_k(products(queries, read), 10)

    return tf.function(answer, autograph=False)


def _queries(queries: int, times: int) -> Any:
    import tensorflow as tf

    draw = np.random.default_rng(1)
    for _ in range(times):
        yield tf.constant(draw.normal(size=[queries, 64]), tf.float32)


def _peak(way: str, items: int, queries: int) -> None:
    """Prints by how many MiB a few requests raise what a new process holds."""
    answer = _scorer(way, items)
    for number, asked in enumerate(_queries(queries, 5)):
        answer.get_concrete_function(asked)
        if not number:
            before = memory("VmRSS")
            begin_peak()
        answer(asked)
    print(f"{(memory('VmHWM') - before) / 2**20:.0f}")


def write_log(folder: Path, ids: int, column: str, seed: int = 0) -> None:
    """Writes `events.parquet`: clicks in which each of so many values of a column is there once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / "events.parquet", _schema()) as writer:
        for start in range(0, ids, _BATCH):
            end = min(ids, start + _BATCH)
            size = end - start
            columns = {
                "user_id": pa.array([f"u{one}" for one in random.randint(_USERS, size=size)]),
                "item_id": pa.array([f"i{one}" for one in random.randint(_ITEMS, size=size)]),
                "ad": pa.array([f"a{one}" for one in random.randint(_ITEMS, size=size)]),
                "label": pa.array((random.rand(size) < 0.3).astype(np.float32)),
                "timestamp": pa.array(1_600_000_000 + random.randint(50_000_000, size=size)),
                column: pa.array(_distinct(start, end)).cast(pa.string()),
            }
            writer.write_table(pa.table(columns, schema=_schema()), row_group_size=100_000)


def _schema() -> Any:
    import pyarrow as pa

    names = ("user_id", "item_id", "ad")
    return pa.schema(
        [(name, pa.string()) for name in names]
        + [("label", pa.float32()), ("timestamp", pa.int64())]
    )


def stage(name: str, folder: Path, ids: int, rows: int, column: str) -> None:
    """Runs one stage on what the stages before it left in `folder`."""
    from components import standalone

    if name == "read":
        standalone.read_tables(
            str(folder / "source"),
            columns={"types": {"ad": "category"}},
            output=str(folder / "tables"),
        )
    elif name == "build":
        standalone.build_examples(
            str(folder / "tables"),
            str(folder),
            "score",
            split={"name": "ratio"},
            schema="generic",
            label=_LABEL,
        )
    elif name == "transform":
        standalone.transform(
            str(folder / "examples"),
            str(folder / "schema" / "schema.pbtxt"),
            str(folder / "graph"),
            {"text": [], "hashed": [column] if column == "ad" else []},
        )
    elif name in _WAYS:
        _peak(name, rows, ids)
    elif name == "count":
        _count(ids)
    elif name == "train":
        prepared = experiment.Prepared(folder, experiment.Label.parse(_LABEL))
        _learn(prepared.training_data("fm"), {column: rows}, folder)
    elif name == "serve":
        _serve(folder / "model")
    else:
        _learn(_drawn(ids), {"ad": rows}, None)


def _count(ids: int) -> None:
    """Fits the vocabulary of a column of so many values, and says what it is by its digest."""
    import hashlib
    import tempfile

    import apache_beam as beam

    from components.in_process import in_process_pipeline
    from components.transform import vocabularies

    def told(path: Any) -> None:
        digest = hashlib.sha256()
        with open(str(path), "rb") as file:
            for lines in file:
                digest.update(lines)
        print(digest.hexdigest(), flush=True)

    with tempfile.TemporaryDirectory() as temporary, in_process_pipeline() as pipeline:
        fit = vocabularies.Fit((vocabularies._Rule("ad", bytes, 1, None, False),))
        fit.base_temp_dir = temporary
        rows = pipeline | beam.Create(range(0, ids, 1000), reshuffle=False)
        batches = rows | beam.Map(lambda start: (_distinct(start, min(ids, start + 1000)),))
        _ = (batches | fit)[0] | beam.Map(told)


def _distinct(begin: int, end: int) -> np.ndarray:
    """Values of a column: of so many rows, no two alike."""
    number = np.arange(begin, end) * 2654435761 % 2**32
    return np.array([b"%x" % one for one in number.tolist()], object)


def _learn(data: Any, sharing: dict[str, int], folder: Path | None) -> None:
    """Trains an epoch and, where there is a folder, exports in int8."""
    from models.contract import tasks
    from models.feature_interaction.fm import Model
    from models.names.export import ExportConfig
    from models.training.export import export
    from models.training.loop import TrainingLoop

    settings = Model.HyperParameters(
        epochs=1, factors=_FACTORS, lazy_adam=True, batch_size=8192, hash_rows=sharing
    )
    model = Model(settings, data)
    model.learn(TrainingLoop(settings, data))
    if folder:
        exporter = tasks.of("fm", data.label).exporter(model, data)
        config = ExportConfig(tables="int8")
        told = export(exporter, model, None, str(folder / "model"), config)["export"]
        (folder / "export.json").write_text(json.dumps(told))


def _serve(folder: Path) -> None:
    """Loads what was exported, as the Evaluator, the canary and a server do, and asks it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    asked = loaded.signatures["score"]
    given = {
        name: tf.constant([""] if spec.dtype == tf.string else [math.nan])
        for name, spec in asked.structured_input_signature[1].items()
    }
    print({name: value.numpy() for name, value in asked(**given).items()}, flush=True)


def _drawn(ids: int) -> Any:
    """Train rows as `ScoreData` has them: a row an ad."""
    import tensorflow as tf

    from models.inputs.columns import room
    from models.inputs.schema import Field
    from models.names.label import LABEL, Label

    random = np.random.RandomState(0)
    columns = {LABEL: room((ids,), np.float32)} | {
        name: room((ids,), np.int32) for name in ("user_id", "item_id", "ad")
    }
    for start in range(0, ids, _BATCH):
        part = slice(start, min(ids, start + _BATCH))
        number = np.arange(part.start, part.stop)
        columns[LABEL][part] = random.rand(len(number)) < 0.3
        columns["user_id"][part] = 2 + random.randint(_USERS, size=len(number))
        columns["item_id"][part] = 2 + random.randint(_ITEMS, size=len(number))
        columns["ad"][part] = 2 + number * 2654435761 % (2**31 - 3)  # other values, other hashes

    def field(name: str, kind: str, count: int) -> Field:
        tokens = tuple(b"%d" % number for number in range(count))
        return Field(name, name.removesuffix("_id"), kind, tf.string, False, tokens, not count)

    return SimpleNamespace(
        train=columns,
        fields=(
            field("user_id", "id", _USERS),
            field("item_id", "id", _ITEMS),
            field("ad", "categorical", 0),
        ),
        label=Label.parse(_LABEL),
        label_mean=0.3,
        label_range=(0.0, 1.0),
    )


def measured(name: str, folder: Path, ids: int, rows: int, column: str = "ad") -> dict[str, str]:
    """Runs one stage as a process of its own: a row of the table."""
    begin, most = time.monotonic(), 0
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.vocabularies", "stage", name]
    command += ["--output", str(folder), "--ids", str(ids), "--rows", str(rows)]
    command += ["--column", column]
    process = subprocess.Popen(command)
    while process.poll() is None:
        most = max(most, memory("RssAnon", process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{name} of {ids:,} ids failed")
    row = {
        "ids": f"{ids:,}",
        "stage": name,
        "seconds": f"{time.monotonic() - begin:.0f}",
        "GiB": f"{most / 2**30:.2f}",
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=("cost", "memory", "rank", "request", "count", "train", "stage")
    )
    parser.add_argument("name", nargs="?", help="of the stage")
    parser.add_argument("--split", type=Path, help="folder of given validation and test rows")
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=4_000_000, help="that values share")
    parser.add_argument("--items", type=int, default=200_000, help="of the catalogue")
    parser.add_argument("--column", choices=("ad", "user_id"), default="ad", help="with the ids")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/vocabularies"))
    own = parser.parse_args()
    folder = own.output
    if own.what == "stage":
        return stage(own.name, folder, own.ids, own.rows, own.column)
    if own.what == "cost":
        table = cost(own.split, own.rows, own.seeds, folder / "cost")
    elif own.what == "rank":
        table = rank(own.seeds, folder / "rank")
    elif own.what == "request":
        table = request(own.items)
    elif own.what in ("count", "train"):
        name = {"count": "count", "train": "drawn"}[own.what]
        table = [measured(name, folder, own.ids, own.rows)]
    else:
        folder /= f"{own.column}-{own.ids}"
        write_log(folder / "source", own.ids, own.column)
        table = [measured(name, folder, own.ids, own.rows, own.column) for name in STAGES]
        told = json.loads((folder / "export.json").read_text())
        print(f"export {told['bytes'] / 1e6:,.1f} of {told['float32_bytes'] / 1e6:,.1f} MB")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{own.what}.json").write_text(json.dumps(table, indent=1))
    print(experiment.machine())
    print(experiment.table(table))


if __name__ == "__main__":
    main()
