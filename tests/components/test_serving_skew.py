"""Skew and drift of request logs.

Known shifts are found, what is like training passes, shares are counted.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components import standalone
from components.in_process import in_process_pipeline
from components.monitor.request_logs import RECOMMENDED, LogReading, find_logs, read_file
from components.monitor.skew import Bounds, compare, distribution_distance, shares
from components.monitor.statistics import (
    Period,
    TrainedOn,
    known_ids,
    measure,
    serving_schema,
)
from components.tables import artifacts, records
from components.tables.schemas import origins, read_schemas, schema_folder
from components.tables.statistics import split_statistics
from models.names.errors import ConfigError
from serving.server.metrics import Metrics
from serving.server.model_config import RequestLogConfig
from serving.server.request_log import Predicted, RequestLog

RETRIEVE = LogReading("retrieve", {"user_id": "bytes", "item_id": "bytes_list"})
SCORED = ("user_id", "item_id", "user_age", "user_gender", "item_genres")


def strings(*values) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return array


def padded(rows) -> np.ndarray:
    """[B, L] with empty strings, as a client pads histories."""
    width = max(1, *(len(row) for row in rows))
    return np.stack([strings(*row, *[""] * (width - len(row))) for row in rows])


def asked(queries, answers=None, strategies=None) -> Predicted:
    """One request of `recommend`: (user, history) pairs."""
    inputs = {
        "user_id": strings(*(user for user, _ in queries)),
        "history": padded([history for _, history in queries]),
        "exclude": padded([[] for _ in queries]),
        "k": np.full(len(queries), 2, np.int32),
    }
    outputs = {
        "item_id": padded(answers or [["i1"]] * len(queries)),
        "strategy": strings(*(strategies or ["model"] * len(queries))),
    }
    return Predicted("recsys", 7, "recommend", "recommend", inputs, outputs)


def write_log(
    prefix: Path,
    requests,
    signature: str = "recommend",
    model: str = "recsys",
    time: int | None = None,
) -> str:
    """A log as the server writes it; returns its only file."""
    log, config = RequestLog(Metrics()), RequestLogConfig(str(prefix), 1.0)
    for fill in requests:
        log.add(
            config,
            model,
            7,
            signature,
            0,
            (lambda record, fill=fill: (fill(record), _set_time(record, time))),
        )
    log.close()
    (path,) = find_logs(str(prefix))
    return path


def _set_time(record, time: int | None) -> None:
    if time is not None:
        record.log_metadata.timestamp_secs = time


def batches(values, size: int = 8):
    return [values[start : start + size] for start in range(0, len(values), size)]


@pytest.fixture(scope="session")
def toy(toy_source, tmp_path_factory) -> dict:
    """The toy log, built for `retrieve` and measured: what a run leaves behind."""
    folder = tmp_path_factory.mktemp("skew")
    standalone.read_tables(str(toy_source), output=str(folder / "tables"))
    standalone.build_examples(
        str(folder / "tables"),
        str(folder / "built"),
        schema="movielens",
        split={"name": "leave_one_out"},
    )
    events = artifacts.read_table(str(folder / "tables" / "events")).sort_by("row")
    histories: dict[str, list[str]] = {}
    for user, item in zip(
        events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True
    ):
        histories.setdefault(user.decode(), []).append(item.decode())
    # 60 users of 9 events each: see write_toy_source.
    assert len(histories) == 60 and {len(history) for history in histories.values()} == {9}
    return {"folder": folder, "histories": histories}


def training_of(toy, task: str, columns: dict[str, str]) -> TrainedOn:
    folder = toy["folder"]
    examples = str(folder / "built" / "examples")
    curated = read_schemas(schema_folder("movielens"))
    train = text_format.Parse(
        (folder / "built" / "schema" / "schema.pbtxt").read_text("utf-8"), schema_pb2.Schema()
    )
    uri, split = (
        (str(folder / "tables" / "events"), "all") if task == "retrieve" else (examples, "train")
    )
    statistics = split_statistics(
        in_process_pipeline,
        uri,
        split,
        columns,
        str(folder / f"statistics-{task}"),
        empty_is_missing=True,
    )
    of_tables = {
        table: artifacts.table_columns(str(folder / "tables" / table))
        for table in ("events", "items", "users")
    }
    schema = serving_schema(task, columns, curated, origins(of_tables), train)
    ids = known_ids(examples, "users", "user_id"), known_ids(examples, "items", "item_id")
    return TrainedOn(task, dict(columns), schema, statistics, *ids)


@pytest.fixture(scope="session")
def retrieve(toy) -> TrainedOn:
    return training_of(toy, "retrieve", {"user_id": "bytes", "item_id": "bytes"})


@pytest.fixture(scope="session")
def score(toy) -> TrainedOn:
    kinds = records.read_json(str(toy["folder"] / "built" / "examples" / "report.json"))["columns"][
        "train"
    ]
    return training_of(toy, "score", {name: kinds[name] for name in SCORED})


def measured(folder: Path, files, reading: LogReading = RETRIEVE) -> Period:
    return measure(in_process_pipeline, files, reading, str(folder / "measured"))


def by_name(findings, kind: str) -> dict:
    return {finding.name: finding for finding in findings if finding.kind == kind}


@pytest.fixture(scope="session")
def like_training(toy, tmp_path_factory) -> Period:
    """Each user asks four times, with the whole history.

    So users and items come as often as in training.
    """
    folder = tmp_path_factory.mktemp("like")
    queries = [(user, history) for user, history in toy["histories"].items() for _ in range(4)]
    files = [write_log(folder / "logs" / "recsys", [asked(part) for part in batches(queries)])]
    return measured(folder, files)


def test_logs_like_training_pass(retrieve, like_training):
    findings = compare(like_training, retrieve, like_training, Bounds())
    assert [finding.text for finding in findings if finding.state == "broken"] == []
    for kind in ("skew", "drift"):
        found = by_name(findings, kind)
        for column in ("user_id", "item_id"):
            assert found[column].value == pytest.approx(0, abs=1e-6) and found[column].bound == 0.05
            assert found[column].state == "met"
    assert by_name(findings, "share")["unknown users"].value == 0
    assert by_name(findings, "drift")["recommended items"].value == 0


def test_a_known_shift_is_found_with_its_size(toy, retrieve, like_training, tmp_path):
    queries = [(user, history) for user, history in toy["histories"].items() for _ in range(4)] + [
        ("u0", ["i1"])
    ] * 240
    now = measured(
        tmp_path, [write_log(tmp_path / "recsys", [asked(part) for part in batches(queries)])]
    )
    findings = compare(now, retrieve, like_training, Bounds())
    counts = Counter(item for history in toy["histories"].values() for item in history)
    # u0: 4 + 240 of 480 rows, 9 of 540 events. i1: 4 times its events and 240 of 4 * 540 + 240
    # items.
    user = 244 / 480 - 9 / 540
    item = (4 * counts["i1"] + 240) / 2400 - counts["i1"] / 540
    for kind in ("skew", "drift"):
        found = by_name(findings, kind)
        assert (
            found["user_id"].value == pytest.approx(user, abs=1e-5)
            and found["user_id"].state == "broken"
        )
        assert (
            found["item_id"].value == pytest.approx(item, abs=1e-5)
            and found["item_id"].state == "broken"
        )
        assert found["user_id"].differences[0] == (
            "u0",
            pytest.approx(244 / 480),
            pytest.approx(1 / 60, abs=1e-5),
        )
        assert "'u0', 50.8% of the values now, 1.7% in" in found["user_id"].text
    assert findings[0].state == "broken"
    assert (
        f"is {user:.4f}; at most 0.05 is allowed (skew_comparator"
        in by_name(findings, "skew")["user_id"].text
    )


def test_too_few_rows_are_not_judged(toy, retrieve, tmp_path):
    now = measured(
        tmp_path, [write_log(tmp_path / "recsys", [asked([("nobody", ["nothing"])] * 5)])]
    )
    findings = compare(now, retrieve, None, Bounds())
    assert {finding.state for finding in findings} == {"too few", "unbounded"}
    assert (
        "not judged: 5 rows, at least 200 are needed (min_rows)"
        in by_name(findings, "share")["unknown users"].text
    )
    strict = by_name(compare(now, retrieve, None, Bounds(min_rows=1)), "share")
    assert strict["unknown users"].state == strict["unknown items"].state == "broken"


def test_shares_are_counted(retrieve, tmp_path):
    now_queries = [
        ("u1", ["i1", "i2"]),
        ("u2", ["i1"]),
        ("u3", []),
        ("u4", ["i3", "gone"]),
        ("u5", []),
        ("new", ["gone", "i2"]),
        ("", ["i2"]),
        ("newer", []),
        ("é", []),
        ("u0", ["é ü", "i1", "i5", "i6"]),
    ]
    strategies = ["model"] * 5 + ["fold-in"] * 2 + ["fallback"] * 2 + ["model"]
    answers = [["i1", "i2"]] * 6 + [["i3", ""]] * 4  # a shorter answer is padded
    files = [write_log(tmp_path / "now", [asked(now_queries, answers, strategies)])]
    now = measured(tmp_path, files)
    found = shares(now, retrieve)
    # Users: new, "", newer and é of ten rows. Items: 2 + 1 + 0 + 2 + 0 + 2 + 1 + 0 + 0 + 4 = 12, of
    # which "gone" twice.
    assert found["unknown users"] == (4, 10)
    assert found["unknown items"] == (2, 12)
    assert found["empty histories"] == (4, 10)
    assert found["answered by model"] == (6, 10)
    assert found["answered by fold-in"] == (2, 10)
    assert found["answered by fallback"] == (2, 10)
    assert now.summary.of(RECOMMENDED) == {b"i1": 6, b"i2": 6, b"i3": 4}
    assert now.summary.models == {"recsys/7": 1}
    findings = compare(
        now,
        retrieve,
        None,
        Bounds(
            min_rows=1,
            max_unknown_user_share=0.3,
            max_empty_history_share=0.4,
            max_fallback_share=0.2,
        ),
    )
    states = {name: finding.state for name, finding in by_name(findings, "share").items()}
    # 0.4 > 0.3; 2/12 > 0.05; 0.4 and 0.2 are just allowed.
    assert states["unknown users"] == states["unknown items"] == "broken"
    assert states["empty histories"] == states["answered by fallback"] == "met"
    assert (
        "40.0%: 4 of 10 rows are for users that the run's data do not have; at most 30.00%"
        in by_name(findings, "share")["unknown users"].text
    )

    # An earlier period in which the model always answered: fold-in was 0 % and is 20 %, the model
    # 100 % and is 60 %.
    earlier = measured(
        tmp_path, [write_log(tmp_path / "before", [asked([("u1", ["i1"])] * 10, [["i1"]] * 10)])]
    )
    drift = by_name(compare(now, retrieve, earlier, Bounds(min_rows=1)), "drift")
    assert (
        drift["answered by fold-in"].value == pytest.approx(0.2)
        and drift["answered by fold-in"].state == "broken"
    )
    assert (
        drift["answered by model"].value == pytest.approx(0.4)
        and drift["answered by model"].before == 1.0
    )
    # Recommended: i1 was all and is 6 of 16.
    assert drift["recommended items"].value == pytest.approx(10 / 16)
    assert drift["recommended items"].state == "broken"


def test_distances_of_counted_distributions():
    distance, divergence, differences = distribution_distance(
        {b"a": 3, b"b": 1}, {b"a": 1, b"b": 3}
    )
    # (3/4, 1/4) and (1/4, 3/4) about (1/2, 1/2): 3/4 log2(3/2) + 1/4 log2(1/2) = 0.1887219 on both
    # sides.
    assert distance == pytest.approx(0.5) and divergence == pytest.approx(0.1887219, abs=1e-6)
    assert differences == [("a", 0.75, 0.25), ("b", 0.25, 0.75)]
    assert distribution_distance({b"a": 2}, {b"b": 5})[:2] == (1.0, 1.0)
    assert distribution_distance({}, {}) == (0.0, 0.0, [])
    assert distribution_distance({b"a": 1, b"b": 1}, {}) == (0.5, 1.0, [])


# --- the task score


def scored(rows, signature: str = "score") -> Predicted:
    """One request of `score`: raw features by name; numbers as float32, NaN where missing."""
    users, items, ages, genders, genres = zip(*rows, strict=True)
    inputs = {
        "user_id": strings(*users),
        "item_id": strings(*items),
        "user_age": np.array(ages, np.float32),
        "user_gender": strings(*genders),
        "item_genres": padded(genres),
    }
    outputs = {
        "score": np.zeros(len(rows), np.float32),
        "strategy": strings(*["model"] * len(rows)),
    }
    return Predicted("recsys", 7, signature, signature, inputs, outputs)


def test_score_requests_become_the_train_columns(score, tmp_path):
    rows = [
        ("u1", "i1", 21, "F", ["Drama"]),
        ("", "i2", np.nan, "", []),
        ("u2", "i3", 22.0, "M", ["Drama", "Comedy"]),
    ]
    path = write_log(tmp_path / "recsys", [scored(rows)], signature="score")
    reading = LogReading("score", score.columns)
    ((batch, summary),) = read_file(path, reading)
    assert batch.to_pydict() == {
        "user_id": [[b"u1"], None, [b"u2"]],
        "item_id": [[b"i1"], [b"i2"], [b"i3"]],
        "user_age": [[21], None, [22]],
        "user_gender": [[b"F"], None, [b"M"]],
        "item_genres": [[b"Drama"], None, [b"Drama", b"Comedy"]],
    }
    assert batch.schema.field("user_age").type == pa.large_list(pa.int64())
    assert summary.counts == {"records": 1, "requests": 1, "rows": 3}
    # The same rows as serialized tf.Examples.
    table = pa.table(
        {
            "user_id": pa.array([b"u1", None, b"u2"], pa.large_binary()),
            "item_id": pa.array([b"i1", b"i2", b"i3"], pa.large_binary()),
            "user_age": pa.array([21, None, 22], pa.int64()),
            "user_gender": pa.array([b"F", None, b"M"], pa.large_binary()),
            "item_genres": pa.array(
                [[b"Drama"], None, [b"Drama", b"Comedy"]], pa.large_list(pa.large_binary())
            ),
        }
    )
    inputs = {"examples": strings(*records.encode(table))}
    fill = Predicted(
        "recsys", 7, "score_examples", "score_examples", inputs, {"score": np.zeros(3, np.float32)}
    )
    ((again, _),) = read_file(
        write_log(tmp_path / "examples", [fill], signature="score_examples"), reading
    )
    assert again.equals(batch)


def users_of(toy):
    """(user, item, age, gender, genres) as the toy's tables have them, an event each."""
    users = {
        row["user_id"]: row
        for row in artifacts.read_table(str(toy["folder"] / "tables" / "users")).to_pylist()
    }
    items = {
        row["item_id"]: row
        for row in artifacts.read_table(str(toy["folder"] / "tables" / "items")).to_pylist()
    }
    for user, history in toy["histories"].items():
        for item in history:
            one, other = users[user.encode()], items[item.encode()]
            yield user, item, one["age"], one["gender"], other["genres"]


def test_features_like_training_pass_and_a_shifted_or_missing_one_is_found(toy, score, tmp_path):
    reading, rows = LogReading("score", score.columns), list(users_of(toy))
    good = measured(
        tmp_path,
        [write_log(tmp_path / "good", [scored(part) for part in batches(rows, 50)], "score")],
        reading,
    )
    findings = compare(good, score, None, Bounds())
    assert [finding.text for finding in findings if finding.state == "broken"] == []
    # Half the users are F (u1, u3, ...), and so is half of training; now everybody is M: 1 - 0.5.
    # Nobody sends genres.
    shifted = [(user, item, age, "M", []) for user, item, age, _, _ in rows]
    bad = measured(
        tmp_path,
        [write_log(tmp_path / "bad", [scored(part) for part in batches(shifted, 50)], "score")],
        reading,
    )
    findings = compare(bad, score, good, Bounds())
    skews = {
        (finding.name, finding.metric): finding for finding in findings if finding.kind == "skew"
    }
    gender = skews["user_gender", "L-infinity distance"]
    assert (
        gender.value == pytest.approx(0.5, abs=1e-6)
        and gender.bound == 0.1
        and gender.state == "broken"
    )
    missing = skews["item_genres", "more rows without a value"]
    assert missing.value == pytest.approx(1.0) and missing.state == "broken"
    assert (
        "item_genres is missing in 100.0% of the rows now, 0.0% in training; at most 10.00% is "
        "allowed" in missing.text
    )
    assert skews["user_age", "more rows without a value"].state == "met"
    drifts = {
        (finding.name, finding.metric): finding for finding in findings if finding.kind == "drift"
    }
    assert drifts["user_gender", "L-infinity distance"].state == "broken"


def test_values_outside_the_schema_are_anomalies(toy, score, tmp_path):
    rows = [(user, item, 999, gender, genres) for user, item, _, gender, genres in users_of(toy)]
    now = measured(
        tmp_path,
        [write_log(tmp_path / "l", [scored(part) for part in batches(rows, 90)], "score")],
        LogReading("score", score.columns),
    )
    found = by_name(compare(now, score, None, Bounds()), "schema")
    assert list(found) == ["user_age"] and found["user_age"].state == "broken"
    assert "--set allowed_anomalies=user_age" in found["user_age"].text
    allowed = Bounds.parse({"allowed_anomalies": "user_age"})
    assert by_name(compare(now, score, None, allowed), "schema")["user_age"].state == "unbounded"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"max_unknown_users": 0.1}, "did you mean 'max_unknown_user_share'"),
        ({"max_share_change": 1.5}, "must be a share in [0, 1]; received 1.5"),
        ({"max_share_change": "much"}, "must be a share"),
        ({"min_rows": 0}, "min_rows: must be greater than or equal to 1; received 0"),
    ],
)
def test_wrong_limits_are_refused_by_name(values, message):
    with pytest.raises(ConfigError) as caught:
        Bounds.parse(values)
    assert message in str(caught.value)
