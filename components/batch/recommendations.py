"""Recommendations for many users at once: the pushed SavedModel, run by Beam, as Parquet."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.ml.inference.base import ModelHandler, RunInference

from components.read import raw, readers
from components.read.kinds import decide
from components.read.layouts import detection, folders, parts
from components.read.sources import FileField, Source
from components.tables import artifacts, records
from components.tables.columns import BYTES, BYTES_LIST, FLOAT_LIST, INT_LIST
from components.tables.hashing import hash_ids
from components.tables.places import Place, Remote, place
from models.names.errors import ConfigError, DataError
from models.names.features import DWELL

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
    ]
)
"""A row of the answer; rank 1 is the best."""

_NAMESPACE = "recsys"
_IDS = ("user_id", "history", "exclude")
_LISTS = {
    "history": BYTES_LIST,
    "exclude": BYTES_LIST,
    "event_types": BYTES_LIST,
    "dwell": FLOAT_LIST,
    "timestamps": INT_LIST,
}
_USERS_AT_ONCE = 512
_ROWS_A_GROUP = 100_000
_NONE = np.array([], np.uint64)


def users_of_examples(examples_uri: str) -> Callable[[], Iterator[dict[str, Any]]]:
    """All users of the built examples, as requests: the model knows what they have had.

    Args:
        examples_uri: folder of the built examples.
    """

    def read():
        for path in records.shards(artifacts.split_folder(examples_uri, "users")):
            for table in records.read_batches(path, {"user_id": BYTES}):
                for user in table.column("user_id").to_pylist():
                    yield {"user_id": user}

    return read


def users_of_file(
    path: str, kinds: Mapping[str, str] | None = None
) -> Callable[[], Iterator[dict[str, Any]]]:
    """Users of a file, as requests, read by the rules of the reader of events.

    Args:
        path: of this machine, or a URI as `data.source` may be: Parquet, or text whose first line
            names its columns, with `user_id` and, where wanted, what else a request may hold: lists
            `history` and `exclude` (in text with `|` between the ids); for models that read them,
            parallel to the history, `event_types`, `dwell` and `timestamps`, and the context by its
            names. Columns that the model does not read are ignored. Or text with an id a line.
        kinds: column -> kind that the model was trained with, of the context.

    Returns:
        Yields the requests, each once; a row that the reader rejects is one without a user.

    Raises:
        DataError: no such file, no column `user_id`, no Parquet where the name says so, or two
            requests of a user that differ.
    """
    if not place(path).is_file():
        raise DataError(
            f"--users: required: a Parquet file or a text file with an id a line; received {path}, "
            "which is no file"
        )
    source = _source_of_users(place(path), kinds or {})

    def blocks():
        for block in raw.blocks(source):
            yield readers.parse(source, block)

    def read():
        # Eight bytes a user tell which ids may be there again; only those are held.
        hashes = [hash_ids(parsed.table.column("user_id").to_numpy()) for parsed in blocks()]
        distinct, counts = np.unique(np.concatenate([*hashes, _NONE]), return_counts=True)
        again, first = distinct[counts > 1], dict[bytes, dict[str, Any]]()
        for parsed in blocks():
            yield from [{"user_id": b""}] * (parsed.read - parsed.table.num_rows)
            for batch in parsed.table.to_batches(max_chunksize=_USERS_AT_ONCE):
                maybe = np.isin(
                    hash_ids(batch.column("user_id").to_numpy(zero_copy_only=False)), again
                )
                for request, is_held in zip(batch.to_pylist(), maybe):
                    if not is_held or _is_first(request, first, path):
                        yield request

    return read


def _is_first(request: dict[str, Any], first: dict[bytes, dict[str, Any]], path: str) -> bool:
    """Whether a user's request is the first; one that says the same again is counted.

    Args:
        request: one.
        first: user id -> the request that came first, which is kept up to date.
        path: of the file, for messages.

    Raises:
        DataError: it says something else.
    """
    user = request["user_id"]
    before = first.setdefault(user, request)
    if before is request:
        return True
    if differing := [name for name in request if request[name] != before[name]]:
        raise DataError(
            f"--users: required: one request a user, since the rows of the answer are told apart "
            f"by user_id alone; received in {path} two of "
            f"{user.decode('utf-8', 'backslashreplace')!r} that differ in {', '.join(differing)}"
        )
    Metrics.counter(_NAMESPACE, "repeated").inc()
    return False


def _source_of_users(path: Place, kinds: Mapping[str, str]) -> Source:
    types = {name: kind.removesuffix("_list") for name, kind in kinds.items()}
    options = {"types": {**types, **_LISTS}}
    if folders.is_of(path, "parquet"):
        source = folders.parquet_table("users", [path], options)
    elif folders.is_of(path, "csv") or _names_users(parts.peek(path)):
        source = parts.headed("users", [path], options)
    else:
        # No line holds a line feed, so each is one value whatever it holds.
        ids = (FileField("user_id", BYTES, 0, "an id a line"),)
        source = Source("users", (str(path),), ids, delimiter="\n", width=1, header=False)
    return decide(detection.checked(source))


def _names_users(line: str) -> bool:
    return "user_id" in line.split(parts.told_delimiter(line, ["user_id"], ","))


def recommend_all(
    new_pipeline: Callable[[], beam.Pipeline],
    model_path: str,
    users: Callable[[], Iterator[dict[str, Any]]],
    k: int,
    folder: str,
) -> dict[str, int]:
    """Asks the signature `recommend_examples` for every user and writes Parquet files.

    The files have the columns of `SCHEMA`, in the order of the users.

    Args:
        new_pipeline: makes the Beam pipeline.
        model_path: folder of the SavedModel.
        users: yields requests: `user_id`, and optionally `history` and `exclude`.
        k: items a user at most.
        folder: where to; it must not exist or be empty, and appears whole or not at all. On an
            object store, which cannot rename a folder, `_SUCCESS` in it says that it is whole.

    Returns:
        Counts: `users`, `rows`, `rejected` (requests without a user id), `repeated` (those that say
            what one before them does) and one of every strategy, such as `strategy model`.

    Raises:
        ConfigError: the folder holds something.
        DataError: an id is no UTF-8, which Parquet's strings must be.
    """
    target = place(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"--to: required: a new or an empty folder; received {folder}, which holds something"
        )
    partial = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    if not isinstance(partial, Remote):
        partial.mkdir(parents=True)
    try:
        pipeline = new_pipeline()
        files = (
            pipeline
            | "Users" >> beam.Create([None])
            | "Read" >> beam.FlatMap(lambda _, read=users: read())
            | "Requests" >> beam.ParDo(_Requests(k))
            | "Recommend" >> RunInference(_SavedModel(model_path))
            | "Write" >> beam.ParDo(_Write(str(partial)))
        )
        _ = (
            pipeline
            | "Once" >> beam.Create([str(target)])
            | "Publish" >> beam.Map(_publish, beam.pvalue.AsList(files), str(partial))
        )
        result = pipeline.run()
        result.wait_until_finish()
    except BaseException:
        if isinstance(partial, Remote):
            partial.remove()
        else:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    counters = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {counter.key.metric.name: counter.committed for counter in counters}


class _Requests(beam.DoFn):
    """Requests as serialized tf.Examples; those without a user are counted and left out."""

    def __init__(self, k: int):
        self._k = k

    def process(self, request: dict[str, Any]) -> Iterator[bytes]:
        from serving.wire.protos import Example

        if not request["user_id"]:
            Metrics.counter(_NAMESPACE, "rejected").inc()
            return
        example = Example()
        example.features.feature["k"].int64_list.value.append(self._k)
        for name, values in request.items():
            listed = values if isinstance(values, list) else [] if values is None else [values]
            _put(example.features.feature[name], name, [v for v in listed if v is not None])
        yield example.SerializeToString()


class _SavedModel(ModelHandler):
    """Beam's RunInference over the signature that takes serialized requests."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def batch_elements_kwargs(self):
        return {"min_batch_size": 1, "max_batch_size": _USERS_AT_ONCE}

    def load_model(self):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        import tensorflow as tf

        model = tf.saved_model.load(self._path)
        if "recommend_examples" not in model.signatures:
            raise ConfigError(
                f"{self._path} has no signature 'recommend_examples'; it has "
                f"{', '.join(sorted(model.signatures))}"
            )
        return model

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterator[pa.RecordBatch]:
        import tensorflow as tf

        from serving.wire.protos import Example

        answer = model.signatures["recommend_examples"](tf.constant(list(batch), tf.string))
        items, scores, strategies = (
            answer[name].numpy() for name in ("item_id", "score", "strategy")
        )
        users = [
            Example.FromString(example).features.feature["user_id"].bytes_list.value[0]
            for example in batch
        ]
        there = items != b""
        counts = there.sum(axis=1)
        for strategy, count in zip(*np.unique(strategies, return_counts=True)):
            Metrics.counter(_NAMESPACE, f"strategy {strategy.decode()}").inc(int(count))
        Metrics.counter(_NAMESPACE, "users").inc(len(batch))
        Metrics.counter(_NAMESPACE, "rows").inc(int(counts.sum()))
        ranks = np.tile(np.arange(1, items.shape[1] + 1, dtype=np.int32), (len(batch), 1))
        columns = [
            np.repeat(np.array(users, object), counts),
            ranks[there],
            items[there],
            scores[there],
        ]
        yield [_column(values, field) for values, field in zip(columns, SCHEMA, strict=True)]


class _Write(beam.DoFn):
    """Answers, in order, as one Parquet file a bundle, in row groups of a useful size.

    Args:
        folder: where to; what a bundle leaves there that was begun again is in nobody's list.

    Yields:
        The path of each file, once it is whole.
    """

    def __init__(self, folder: str):
        self._folder = folder

    def start_bundle(self):
        self._parts: list[pa.Table] = []
        self._path: Place | None = None

    def process(self, columns: list[pa.Array]):
        self._parts.append(pa.Table.from_arrays(columns, schema=SCHEMA))
        if sum(map(len, self._parts)) >= _ROWS_A_GROUP:
            self._write_group()

    def finish_bundle(self):
        from apache_beam.transforms.window import GlobalWindows

        if self._parts:
            self._write_group()
        if self._path:
            self._writer.close()
            self._sink.close()
            yield GlobalWindows.windowed_value(str(self._path))

    def _write_group(self) -> None:
        if self._path is None:
            self._path = place(self._folder) / f"{uuid.uuid4().hex}.parquet"
            self._sink = _create(self._path)
            self._writer = pq.ParquetWriter(self._sink, SCHEMA)
        self._writer.write_table(pa.concat_tables(self._parts).combine_chunks())
        self._parts = []


def _create(path: Place) -> Any:
    return path.write() if isinstance(path, Remote) else open(path, "wb")


def _publish(folder: str, files: list[str], partial: str) -> None:
    """Gives the files of a finished job their names, and the folder its own."""
    target, there = place(folder), place(partial)
    if not files:
        files = [str(there / "none.parquet")]
        with _create(place(files[0])) as sink:
            pq.write_table(SCHEMA.empty_table(), sink)
    remote = isinstance(target, Remote)
    for number, file in enumerate(sorted(files)):
        name = f"recommendations-{number:05d}-of-{len(files):05d}.parquet"
        if place(file).exists():  # a second attempt goes on where the first one stopped
            if remote:
                place(file).move(target / name)
            else:
                os.replace(file, there / name)
    if remote:
        with (target / "_SUCCESS").write():
            pass
        there.remove()
    elif there.is_dir():
        for file in there.iterdir():
            if not file.name.startswith("recommendations-"):
                file.unlink()
        os.replace(there, target)


def _put(feature: Any, name: str, values: list[Any]) -> None:
    """Adds the values: ids as strings whatever they look like, dwell as floats."""
    if name == DWELL or (name not in _IDS and values and isinstance(values[0], float)):
        feature.float_list.value.extend(map(float, values))
    elif name not in _IDS and values and isinstance(values[0], int):
        feature.int64_list.value.extend(values)
    else:
        feature.bytes_list.value.extend(map(_bytes, values))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8")


def _column(values: np.ndarray, field: pa.Field) -> pa.Array:
    if field.type != pa.string():
        return pa.array(values, field.type)
    try:
        return pa.array(list(values), pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        broken = next(value for value in values if not _is_utf8(value))
        raise DataError(
            f"{field.name} {broken!r} is no UTF-8, which a string column of Parquet must be"
        ) from None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
