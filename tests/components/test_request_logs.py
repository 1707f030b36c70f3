"""Request logs become the columns that training has; what cannot be read is counted by name."""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from components.monitor.request_logs import (
    ITEM,
    STRATEGY,
    USER,
    LogReading,
    Summary,
    find_logs,
    read_file,
)
from models.names.errors import DataError
from serving.server.request_log import Predicted
from serving.wire import protos
from serving.wire.records import read_records
from tests.components.test_serving_skew import (
    RETRIEVE,
    asked,
    batches,
    measured,
    padded,
    strings,
    write_log,
)
from tests.serving.support import write_records


def test_logs_that_are_still_being_written_are_said_to_be(tmp_path):
    with pytest.raises(DataError) as found:
        find_logs(str(tmp_path / "logs"))
    assert "written" not in str(found.value)
    (tmp_path / ".logs-1.tfrecord.partial").write_bytes(b"half")
    for where in (tmp_path, tmp_path / "logs"):
        with pytest.raises(DataError, match="no request logs at .*still being written: 1"):
            find_logs(str(where))


def test_damage_is_counted_by_file_and_the_others_go_on(tmp_path):
    folder = tmp_path / "logs"
    whole = write_log(folder / "a", [asked([("u1", ["i1"])]), asked([("u2", [])])])
    cut = folder / "cut.tfrecord"
    cut.write_bytes(Path(whole).read_bytes()[:-3])
    text = folder / "notes.txt"
    text.write_text("these are not records, only some words")
    (folder / ".hidden.partial").write_bytes(b"half")
    with open(whole, "rb") as source, gzip.open(folder / "packed.tfrecord.gz", "wb") as packed:
        shutil.copyfileobj(source, packed)
    files = find_logs(str(folder))
    assert len(files) == 4
    period = measured(tmp_path, files)
    # Two whole files of two requests, one request of the file that was cut in its second.
    assert period.summary.counts["requests"] == 5 and period.summary.counts["rows"] == 5
    assert period.summary.damaged == {
        str(cut): (
            "it ends in the middle of a record at byte "
            f"{os.path.getsize(whole) - _last_record(whole)}"
        ),
        str(text): "no record begins at byte 0",
    }
    assert period.summary.of(USER) == {b"u1": 3, b"u2": 2}
    assert period.summary.of(ITEM) == {b"i1": 3} and period.summary.of(STRATEGY) == {b"model": 5}
    assert period.statistics.datasets[0].num_examples == 5


def _last_record(path: str) -> int:
    """Size of a file's last record, with its frame of 16 bytes."""
    with open(path, "rb") as file:
        return len(list(read_records(file))[-1]) + 16


def test_what_is_no_request_of_the_task_is_counted(tmp_path):
    wrong = Predicted("recsys", 7, "recommend", "recommend", {"user_id": strings("u1")}, {})
    uneven = asked([("u1", ["i1"])])
    uneven.inputs["history"] = padded([["i1"], ["i2"]])
    path = write_log(tmp_path / "a", [asked([("u1", ["i1"])]), wrong, uneven])
    log = protos.prediction_log.PredictionLog()
    log.log_metadata.model_spec.name = "recsys"
    log.classify_log.request.model_spec.name = "recsys"
    write_records(tmp_path / "other" / "b", [log.SerializeToString(), b"\xff\xff no message"])
    embed = write_log(tmp_path / "c", [asked([("u1", [])])], signature="embed")
    period = measured(tmp_path, [path, str(tmp_path / "other" / "b"), embed])
    assert period.summary.counts["requests"] == 1 and period.summary.counts["unreadable"] == 3
    assert period.summary.other == {"classify_log": 1, "embed": 1}
    ((_, summary),) = read_file(path, RETRIEVE)
    assert summary.counts == {
        "records": 3,
        "requests": 1,
        "rows": 1,
        "unreadable": 2,
        "empty_histories": 0,
    }
    assert (
        summary.unreadable
        == "a request of recommend: required: the inputs user_id and history; received: user_id"
    )
    with pytest.raises(
        DataError, match="no request of the task retrieve in 1 log file; received: 1 of embed"
    ):
        measured(tmp_path, [embed])


def test_several_models_must_be_told_apart_and_one_can_be_named(tmp_path):
    files = [write_log(tmp_path / name, [asked([("u1", [])])], model=name) for name in ("a", "b")]
    with pytest.raises(DataError, match="of several models, a, b; name one of them with --model"):
        measured(tmp_path, files)
    period = measured(tmp_path, files, LogReading("retrieve", RETRIEVE.columns, model="b"))
    assert period.summary.models == {"b/7": 1} and period.summary.counts["other_models"] == 1


def test_a_time_parts_the_logs(tmp_path):
    files = [
        write_log(tmp_path / f"l{hour}", [asked([(f"u{hour}", [])])], time=1000 + hour)
        for hour in range(4)
    ]
    later = measured(tmp_path, files, LogReading("retrieve", RETRIEVE.columns, since=1002))
    earlier = measured(tmp_path, files, LogReading("retrieve", RETRIEVE.columns, until=1002))
    assert set(later.summary.of(USER)) == {b"u2", b"u3"} and set(earlier.summary.of(USER)) == {
        b"u0",
        b"u1",
    }
    assert (later.summary.first, later.summary.last) == (1002, 1003) and later.summary.counts[
        "outside"
    ] == 2
    with pytest.raises(DataError, match="4 of another time"):
        measured(tmp_path, files, LogReading("retrieve", RETRIEVE.columns, since=2000))


def test_large_files_come_in_batches(tmp_path):
    queries = [(f"u{number}", ["i1"]) for number in range(25_000)]
    path = write_log(tmp_path / "l", [asked(part) for part in batches(queries, 5_000)])
    parts = list(read_file(path, RETRIEVE))
    assert [batch.num_rows for batch, _ in parts] == [10_000, 10_000, 5_000]
    total = Summary()
    for _, summary in parts:
        total.add(summary)
    assert (
        total.counts["rows"] == 25_000
        and total.of(ITEM) == {b"i1": 25_000}
        and len(total.of(USER)) == 25_000
    )
    again = Summary.from_bytes(total.to_bytes())
    assert again.counts == total.counts and again.values.equals(total.values)


def test_logs_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no request logs at"):
        find_logs(str(tmp_path / "recsys"))
    (tmp_path / ".recsys-1.tfrecord.partial").write_bytes(b"")
    with pytest.raises(DataError, match="no request logs at"):
        find_logs(str(tmp_path))
