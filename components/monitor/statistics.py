"""What is compared to find skew.

TFDV's statistics of request logs and of training, the schema between them, the known ids.

TFDV, which imports TensorFlow, is imported where it is used.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from components.monitor.request_logs import LogReading, Summary, read_file
from components.tables import artifacts, records
from components.tables.columns import BYTES
from components.tables.statistics import Statistics
from models.names.errors import DataError

SERVING = "SERVING"
ENVIRONMENTS = ("TRAINING", SERVING)


@dataclass
class Period:
    """Requests of some time.

    Attributes:
        statistics: TFDV's, of the columns.
        summary: what was counted.
        files: how many files there were.
    """

    statistics: Statistics
    summary: Summary
    files: int = 0


@dataclass
class TrainedOn:
    """What the requests are held against.

    Attributes:
        task: `retrieve` or `score`.
        columns: column -> kind, of those that a request has.
        schema: of these columns, as they are when the model serves.
        statistics: of the same columns in training.
        users: [N] ids that the run's data have.
        items: [N] likewise.
    """

    task: str
    columns: dict[str, str]
    schema: schema_pb2.Schema
    statistics: Statistics
    users: pa.Array
    items: pa.Array


class _AddUp(beam.CombineFn):
    def create_accumulator(self) -> Summary:
        return Summary()

    def add_input(self, total: Summary, part: Summary) -> Summary:
        total.add(part)
        return total

    def merge_accumulators(self, totals: Iterable[Summary]) -> Summary:
        merged = Summary()
        for total in totals:
            merged.add(total)
        return merged

    def extract_output(self, total: Summary) -> Summary:
        return total


def measure(
    make_pipeline: Callable[[], beam.Pipeline],
    files: Sequence[str],
    reading: LogReading,
    output: str,
) -> Period:
    """Reads logs with Beam; writes `statistics.pb` and `summary.arrow` to the folder `output`.

    Raises:
        DataError: no record is a request of the task, or the logs are of several models and none
            was named.
    """
    import tensorflow_data_validation as tfdv

    from components.tables import top_values

    with top_values.options(output) as options, make_pipeline() as pipeline:
        parts = (
            pipeline
            | beam.Create(list(files))
            | beam.Reshuffle()
            | "Read" >> beam.FlatMap(read_file, reading)
        )
        _ = (
            parts
            | "Rows" >> beam.Map(lambda part: part[0])
            | "NotEmpty" >> beam.Filter(lambda batch: batch.num_rows > 0)
            | "Statistics" >> tfdv.GenerateStatistics(options)
            | "WriteStatistics"
            >> beam.Map(
                lambda found: records.write_bytes(
                    posixpath.join(output, "statistics.pb"), found.SerializeToString()
                )
            )
        )
        _ = (
            parts
            | "Counts" >> beam.Map(lambda part: part[1])
            | "AddUp" >> beam.CombineGlobally(_AddUp())
            | "WriteSummary"
            >> beam.Map(
                lambda summary: records.write_bytes(
                    posixpath.join(output, "summary.arrow"), summary.to_bytes()
                )
            )
        )
    summary = Summary.from_bytes(records.read_bytes(posixpath.join(output, "summary.arrow")))
    _require_requests(summary, files, reading)
    statistics = Statistics.FromString(records.read_bytes(posixpath.join(output, "statistics.pb")))
    return Period(statistics, summary, len(files))


def _require_requests(summary: Summary, files: Sequence[str], reading: LogReading) -> None:
    names = sorted({name.rpartition("/")[0] for name in summary.models})
    if len(names) > 1:
        raise DataError(
            f"the logs are of several models, {', '.join(names)}; name one of them with --model"
        )
    if summary.counts.get("requests"):
        return
    seen = {
        "unreadable": "unreadable",
        "other_models": "of another model",
        "outside": "of another time",
    }
    reasons = [
        f"{summary.counts[key]} {words}" for key, words in seen.items() if summary.counts.get(key)
    ]
    reasons += [f"{count} of {name}" for name, count in sorted(summary.other.items())]
    reasons += [f"{path}: {why}" for path, why in sorted(summary.damaged.items())]
    raise DataError(
        f"no request of the task {reading.task} in {len(files)} log "
        f"file{'s' if len(files) > 1 else ''}; "
        f"received: {'; '.join(reasons) or 'no record'}"
    )


def serving_schema(
    task: str,
    columns: Iterable[str],
    curated: Mapping[str, schema_pb2.Schema],
    origins: Mapping[str, tuple[str, str]],
    train: schema_pb2.Schema,
) -> schema_pb2.Schema:
    """The schema of requests: columns of the train rows, none of them required.

    They have the comparators of the curated schemas.

    Args:
        task: `retrieve` or `score`.
        columns: those that a request has.
        curated: table -> its schema.
        origins: column -> (table, its name there).
        train: of the train rows.
    """
    known = {
        (table, feature.name): feature
        for table, schema in curated.items()
        for feature in schema.feature
    }
    domains = {domain.name: domain for domain in train.string_domain}
    schema = schema_pb2.Schema(default_environment=ENVIRONMENTS)
    of_train = {feature.name: feature for feature in train.feature}
    for name in columns:
        source = known.get(origins.get(name, ("events", name)))
        feature = schema.feature.add()
        if name in of_train:
            feature.CopyFrom(of_train[name])
        feature.name, feature.type = name, feature.type or schema_pb2.BYTES
        feature.ClearField("presence")
        if task == "retrieve":
            feature.ClearField("value_count")
        if feature.domain in domains:
            schema.string_domain.append(domains[feature.domain])
        if source is not None:
            for comparator in ("skew_comparator", "drift_comparator"):
                if source.HasField(comparator):
                    getattr(feature, comparator).CopyFrom(getattr(source, comparator))
    return schema


def known_ids(examples_uri: str, split: str, column: str) -> pa.Array:
    """The distinct ids of a split of the built examples."""
    return pc.unique(
        artifacts.read_split(examples_uri, split, {column: BYTES})[column]
        .combine_chunks()
        .drop_null()
    )
