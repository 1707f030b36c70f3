"""Request logs of a model server to the columns that training has.

The logs are TFRecords of PredictionLog. What was asked is counted too.
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.tables import records
from components.tables.columns import BYTES_LIST, INT_LIST, arrow_type, is_list
from models.names.errors import DataError
from serving.wire import protos
from serving.wire.errors import ServingError
from serving.wire.records import DamagedRecords, read_records
from serving.wire.tensors import to_array

USER, ITEM, RECOMMENDED, STRATEGY = "user", "item", "recommended", "strategy"
ROWS_AT_ONCE = 10_000
_DEFAULT = "serving_default"
_REST = "summary"
_TENSORS = {"retrieve": (_DEFAULT, "recommend", "recommend_events"), "score": (_DEFAULT, "score")}
_EXAMPLES = {"retrieve": "recommend_examples", "score": "score_examples"}
_VALUES = pa.schema([("of", pa.string()), ("value", pa.large_binary()), ("count", pa.int64())])


@dataclass(frozen=True)
class LogReading:
    """How logs are read.

    Attributes:
        task: `retrieve` or `score`: which signatures count.
        columns: column -> kind of the train rows; those that a request has are taken over. For
            `retrieve` a request's history becomes `item_id`.
        model: read this model's records only; all where None.
        since: only records from then on, in seconds since 1970; None: all.
        until: only records before then.
    """

    task: str
    columns: Mapping[str, str]
    model: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass
class Summary:
    """What was counted in logs; summaries of parts add up.

    Attributes:
        counts: `records` (readable PredictionLogs), `requests` and `rows` of them that were taken
            over, `empty_histories` of the rows, `unreadable` records, `outside` of the time that
            was asked for, `other_models`.
        models: `name/version` -> requests.
        other: signature or kind of log that is not the task's -> records.
        damaged: file -> why it could not be read to its end.
        unreadable: an example of why a record could not be read.
        first: time of the first request in seconds since 1970; None where no record tells it.
        last: of the last.
        values: how often each id or strategy came: `of` (user, item, recommended or strategy),
            `value`, `count`.
    """

    counts: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    unreadable: str = ""
    first: int | None = None
    last: int | None = None
    values: pa.Table = field(default_factory=_VALUES.empty_table)

    def add(self, part: "Summary") -> None:
        """Adds the counts of another part."""
        for mine, other in (
            (self.counts, part.counts),
            (self.models, part.models),
            (self.other, part.other),
        ):
            for name, count in other.items():
                mine[name] = mine.get(name, 0) + count
        self.damaged |= part.damaged
        self.unreadable = self.unreadable or part.unreadable
        self.first = min(
            (time for time in (self.first, part.first) if time is not None), default=None
        )
        self.last = max((time for time in (self.last, part.last) if time is not None), default=None)
        if part.values.num_rows:
            together = (
                pa.concat_tables([self.values, part.values])
                .group_by(["of", "value"])
                .aggregate([("count", "sum")])
            )
            self.values = (
                together.select(["of", "value", "count_sum"])
                .rename_columns(_VALUES.names)
                .cast(_VALUES)
            )

    def to_bytes(self) -> bytes:
        """The summary as an Arrow stream: the values, and the rest as JSON in their metadata."""
        rest = {name: value for name, value in vars(self).items() if name != "values"}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _VALUES.with_metadata({_REST: json.dumps(rest)})) as writer:
            writer.write_table(self.values)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Summary":
        """What `to_bytes` wrote."""
        table = pa.ipc.open_stream(data).read_all()
        return cls(**json.loads(table.schema.metadata[_REST.encode()]), values=table.cast(_VALUES))

    def of(self, what: str) -> dict[bytes, int]:
        """Value -> how often it came, the most frequent first."""
        chosen = self.values.filter(pc.equal(self.values["of"], what)).sort_by(
            [("count", "descending"), ("value", "ascending")]
        )
        return dict(zip(chosen["value"].to_pylist(), chosen["count"].to_pylist(), strict=True))


def find_logs(where: str) -> list[str]:
    """The files of a folder, of a prefix (`runs/logs/recsys`), or the one file.

    Hidden files are left out: they are still being written.

    Raises:
        DataError: there is none.
    """
    if os.path.isdir(where):
        found = [str(path) for path in Path(where).rglob("*")]
    elif os.path.isfile(where):
        found = [where]
    else:
        found = glob.glob(glob.escape(where) + "*")
    files = sorted(
        path
        for path in found
        if os.path.isfile(path) and not os.path.basename(path).startswith(".")
    )
    if not files:
        raise DataError(
            f"no request logs at {where}; required: a folder, a file, or what the names of the "
            "files begin with (the server's "
            "--request-log-prefix, or filename_prefix in its model config file)"
            + _being_written(where)
        )
    return files


def _being_written(where: str) -> str:
    """In words, how many files a server has not finished yet; empty where there is none."""
    if os.path.isdir(where):
        found = list(Path(where).rglob(".*.partial"))
    else:
        folder, name = os.path.split(where)
        found = list(Path(folder).glob(f".{glob.escape(name)}*.partial"))
    if not found:
        return ""
    return (
        f"; still being written: {len(found)} (such as {found[0]}), each whole after an hour, at "
        "64 MiB or once the server stops"
    )


def read_file(path: str, reading: LogReading) -> Iterator[tuple[pa.RecordBatch, Summary]]:
    """Yields the rows of a file in batches of bounded size, with what was counted in each.

    Every column of a batch is a list of values a row, null where the request has none. Damage ends
    a file, not the reading.
    """
    gathered = _Gathered(reading)
    try:
        with open(path, "rb") as file:
            for record in read_records(file, packed=path.endswith(".gz")):
                gathered.add(record)
                if gathered.rows >= ROWS_AT_ONCE:
                    yield gathered.flush()
    except (DamagedRecords, OSError) as error:
        gathered.summary.damaged[path] = str(error)
    yield gathered.flush()


class _Gathered:
    """Rows of requests, until there are enough for a batch."""

    def __init__(self, reading: LogReading):
        self._reading = reading
        self._tensors, self._examples = _TENSORS[reading.task], _EXAMPLES[reading.task]
        # Whatever training makes of it, in a request a column may be missing or, as a history, have
        # many values.
        self._columns = {
            name: kind if is_list(kind) else f"{kind}_list"
            for name, kind in reading.columns.items()
        }
        if reading.task == "retrieve":
            self._columns = {"user_id": BYTES_LIST, "item_id": BYTES_LIST}
        self._start()

    def _start(self) -> None:
        self.rows = 0
        self.summary = Summary()
        self._parts: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        self._sizes: list[int] = []
        self._counted: dict[str, list[np.ndarray]] = {}

    def add(self, record: bytes) -> None:
        """Takes a record, or counts why not."""
        try:
            log = protos.prediction_log.PredictionLog.FromString(record)
        except Exception as error:  # a DecodeError, of one of protobuf's several implementations
            self._unreadable(f"no PredictionLog: {error}")
            return
        kind = log.WhichOneof("log_type") or "none"
        metadata, reading = log.log_metadata, self._reading
        request = log.predict_log.request
        name = metadata.model_spec.name or request.model_spec.name
        if reading.model is not None and name != reading.model:
            self._count("other_models")
            return
        time = metadata.timestamp_secs
        if (reading.since is not None and time < reading.since) or (
            reading.until is not None and time >= reading.until
        ):
            self._count("outside")
            return
        self._count("records")
        signature = (
            metadata.model_spec.signature_name or request.model_spec.signature_name or _DEFAULT
        )
        what = signature if kind == "predict_log" else kind
        if what not in (*self._tensors, self._examples):
            self.summary.other[what] = self.summary.other.get(what, 0) + 1
            return
        try:
            rows, columns = self._rows(request, signature)
            answers = {
                output: to_array(log.predict_log.response.outputs[output])
                for output in ("item_id", "strategy")
                if output in log.predict_log.response.outputs
            }
        except (ServingError, DataError, ValueError, TypeError) as error:
            self._unreadable(f"a request of {signature}: {error}")
            return
        self._take(rows, columns, answers)
        version = (
            metadata.model_spec.version.value or log.predict_log.response.model_spec.version.value
        )
        key = f"{name}/{version}"
        self.summary.models[key] = self.summary.models.get(key, 0) + 1
        if time:
            first, last = self.summary.first, self.summary.last
            self.summary.first = time if first is None else min(first, time)
            self.summary.last = time if last is None else max(last, time)

    def _rows(
        self, request, signature: str
    ) -> tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """How many rows a request has, and column -> (values, number of values in each row)."""
        inputs = {name: to_array(proto) for name, proto in request.inputs.items()}
        if signature == self._examples:
            (serialized,) = inputs.values()
            return len(serialized), self._decode(serialized)
        names = (
            {"user_id": "user_id", "history": "item_id"}
            if self._reading.task == "retrieve"
            else {name: name for name in self._columns}
        )
        if self._reading.task == "retrieve" and not {"user_id", "history"} <= set(inputs):
            raise DataError(
                f"required: the inputs user_id and history; received: {', '.join(sorted(inputs))}"
            )
        columns = {
            column: _present(inputs[name], self._columns[column])
            for name, column in names.items()
            if name in inputs
        }
        sizes = {len(lengths) for _, lengths in columns.values()}
        if len(sizes) != 1:
            raise DataError(
                f"required: inputs of as many rows as each other; received: {sorted(sizes)}"
            )
        return sizes.pop(), columns

    def _decode(self, serialized: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        names = (
            {"user_id": BYTES_LIST, "history": BYTES_LIST}
            if self._reading.task == "retrieve"
            else self._columns
        )
        try:
            table = records.decode(list(serialized), names)
        except Exception as error:  # the decoder raises bare RuntimeErrors
            raise DataError(f"no tf.Example of the train columns: {error}") from error
        found = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            column = column.combine_chunks()
            array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            if pa.types.is_null(array.type):
                values, lengths = np.array([], object), np.zeros(len(array), np.int64)
            else:
                values = array.flatten().to_numpy(zero_copy_only=False)
                lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            found["item_id" if name == "history" else name] = values, lengths
        return found

    def _take(self, rows: int, columns: dict, answers: dict[str, np.ndarray]) -> None:
        self._count("requests")
        self._count("rows", rows)
        self.rows += rows
        self._parts.append(columns)
        self._sizes.append(rows)
        for what, column in ((USER, "user_id"), (ITEM, "item_id")):
            if column in columns:
                self._counted.setdefault(what, []).append(columns[column][0])
        if self._reading.task == "retrieve":
            self._count("empty_histories", int((columns["item_id"][1] == 0).sum()))
        if "strategy" in answers:
            self._counted.setdefault(STRATEGY, []).append(answers["strategy"].reshape(-1))
        if "item_id" in answers:
            items = answers["item_id"].reshape(-1)
            self._counted.setdefault(RECOMMENDED, []).append(items[items != b""])

    def flush(self) -> tuple[pa.RecordBatch, Summary]:
        """The batch and its counts; begins the next."""
        arrays = {}
        for name, kind in self._columns.items():
            empty = np.array([], object)
            parts = [
                part.get(name, (empty, np.zeros(size, np.int64)))
                for part, size in zip(self._parts, self._sizes, strict=True)
            ]
            arrays[name] = _lists(
                [values for values, _ in parts], [lengths for _, lengths in parts], kind
            )
        for what, parts in self._counted.items():
            values, counts = np.unique(np.concatenate(parts).astype(object), return_counts=True)
            table = pa.table(
                [
                    pa.array([what] * len(values)),
                    pa.array(values, pa.large_binary()),
                    pa.array(counts),
                ],
                schema=_VALUES,
            )
            self.summary.add(Summary(values=table))
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
        summary = self.summary
        self._start()
        return batch, summary

    def _count(self, what: str, by: int = 1) -> None:
        self.summary.counts[what] = self.summary.counts.get(what, 0) + by

    def _unreadable(self, why: str) -> None:
        self._count("unreadable")
        self.summary.unreadable = self.summary.unreadable or why[:300]


def _present(array: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of a [B] or [B, L] input without padding, and how many each row has.

    Padding is empty strings and NaN.
    """
    if (array.dtype == object) != (kind == BYTES_LIST) or array.ndim not in (1, 2):
        raise DataError(
            f"required: {kind} as [B] or [B, L]; received: {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    matrix = array[:, np.newaxis] if array.ndim == 1 else array
    there = matrix != b"" if array.dtype == object else ~np.isnan(matrix.astype(np.float64))
    there = np.asarray(there, bool)
    values = matrix[there]
    return np.rint(values).astype(np.int64) if kind == INT_LIST else values, there.sum(axis=1)


def _lists(values: list[np.ndarray], lengths: list[np.ndarray], kind: str) -> pa.Array:
    """One list a row, null where it is empty.

    TFDV counts an empty list as a value that is there.
    """
    sizes = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), mask=np.append(sizes == 0, False)
    )
    flat = np.concatenate(values) if values else np.array([], object)
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat, arrow_type(kind).value_type))
