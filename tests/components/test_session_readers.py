"""Session data as its files are.

Tables of clicks and lists of items, train and test apart, gzip, and what bad input gets.
"""

import gzip

import pytest

from components.read import times
from components.read.layouts import detection
from components.tables import artifacts
from models.names.errors import DataError
from tests.components.test_readers import fails, read, write

LOG = "SessionId\tItemId\tTime\n"


def pairs(found):
    return [
        (row["session_id"].decode(), row["item_id"].decode(), row.get("split"))
        for row in found["events"]
    ]


@pytest.mark.parametrize(
    "header, delimiter", [("SessionId\tItemId\tTime", "\t"), ("session_id,ITEM_ID,timestamp", ",")]
)
def test_a_table_of_clicks(tmp_path, header, delimiter):
    lines = [
        ("1", "a é", "1396860669.977"),
        ("1", "b", "1396860670"),
        ("2", "a é", "2014-04-06T18:42:05Z"),
    ]
    write(
        tmp_path, clicks__txt="\n".join([header, *(delimiter.join(line) for line in lines)]) + "\n"
    )
    assert detection.detect(str(tmp_path)) == "session_log"
    found, rejects = read(tmp_path)
    assert not rejects and found["items"] == found["users"] == []
    # Without users a session is its own; times are cut to seconds, the order within one is the
    # rows'.
    assert found["events"][0] == {
        "user_id": b"1",
        "session_id": b"1",
        "item_id": "a é".encode(),
        "timestamp": 1396860669,
        "row": 0,
    }
    assert found["events"][2]["timestamp"] == 1396809725 and "split" not in found["events"][0]


def test_users_and_other_columns_and_names_of_ones_own(tmp_path):
    write(tmp_path, clicks__csv="visit,UserId,sku,Time,price\ns,u,i,5,1.5\n")
    columns = {"session_id": "visit", "item_id": "sku", "types": {"price": "float"}}
    found, _ = read(tmp_path, "session_log", columns)
    assert found["events"] == [
        {
            "session_id": b"s",
            "user_id": b"u",
            "item_id": b"i",
            "timestamp": 5,
            "price": 1.5,
            "row": 0,
        }
    ]


def test_train_and_test_files_are_told_by_their_names(tmp_path):
    write(
        tmp_path,
        x_train_full__txt=LOG + "1\ta\t1\n",
        x_train_tr__txt=LOG + "1\ta\t1\n",
        x_train_valid__txt=LOG + "9\tz\t1\n",
    )
    (tmp_path / "x_test.txt.gz").write_bytes(gzip.compress((LOG + "2\tb\t2\n").encode()))
    found, _ = read(tmp_path)
    assert pairs(found) == [("1", "a", b"train"), ("2", "b", b"test")]
    named, _ = read(
        tmp_path, columns={"files": {"train": "x_train_tr.txt", "valid": "x_train_valid.txt"}}
    )
    assert pairs(named) == [("1", "a", b"train"), ("9", "z", b"valid")]


def test_lists_of_sessions_and_steps_of_a_test_session(tmp_path):
    (tmp_path / "train_sessions.txt.gz").write_bytes(gzip.compress(b"1 2  3\n\n2 3\n2\n"))
    # The second and third lines are the first session two steps earlier; the fourth is another that
    # begins like it.
    write(tmp_path, test__tsv="1 2 3\t4\n1 2\t3\n1\t2\n1 2\t4\n1\t2\n")
    assert detection.detect(str(tmp_path)) == "session_lists"
    found, rejects = read(tmp_path)
    assert not rejects
    assert pairs(found) == [
        ("train-1", "1", b"train"),
        ("train-1", "2", b"train"),
        ("train-1", "3", b"train"),
        ("train-3", "2", b"train"),
        ("train-3", "3", b"train"),
        ("train-4", "2", b"train"),
        ("test-1", "1", b"test"),
        ("test-1", "2", b"test"),
        ("test-1", "3", b"test"),
        ("test-1", "4", b"test"),
        ("test-4", "1", b"test"),
        ("test-4", "2", b"test"),
        ("test-4", "4", b"test"),
    ]
    rows = [row["row"] for row in found["events"]]
    assert rows == sorted(set(rows))
    for size in (1, 8, 20):
        assert read(tmp_path, block_bytes=size)[0] == found


def test_lists_of_users_with_any_separator(tmp_path):
    write(tmp_path, sequences__txt="u,a,b\r\nw,c\r\n")
    assert detection.detect(str(tmp_path)) == "user_lists"
    found, rejects = read(tmp_path, columns={"list_separator": ","})
    assert not rejects
    assert [(row["user_id"], row["item_id"]) for row in found["events"]] == [
        (b"u", b"a"),
        (b"u", b"b"),
        (b"w", b"c"),
    ]


@pytest.mark.parametrize("separator", [",", " "])
def test_blocks_of_lists_of_any_size_give_the_same_rows(tmp_path, separator):
    """The number of a row is its order, where the log has no times."""
    train = "u,a,,b\r\nw,c\n\nv,d,e,f\n".replace(",,", "," if separator == " " else ",,")
    write(tmp_path, train_sequences__txt=train.replace(",", separator))
    write(tmp_path, test_sequences__txt="u,y\nw,z".replace(",", separator))
    options = {"list_separator": separator}
    found, rejects = read(tmp_path, columns=options)
    rows = [row["row"] for row in found["events"]]
    assert rows == sorted(set(rows)) and found["events"][-1]["item_id"] == b"z"
    for size in (1, 5, 9, 20):
        assert read(tmp_path, columns=options, block_bytes=size)[0] == found


def test_steps_of_a_session_with_any_separator_are_passed_over_between_blocks(tmp_path):
    write(
        tmp_path, train_sessions__txt="1,2\n", test_sessions__txt="1,2,3\t4\n1,2\t3\n1\t2\n7,8\t9\n"
    )
    options = {"list_separator": ","}
    found, _ = read(tmp_path, columns=options)
    assert [item for _, item, _ in pairs(found)] == ["1", "2", "1", "2", "3", "4", "7", "8", "9"]
    for size in (1, 8, 20):
        assert read(tmp_path, columns=options, block_bytes=size)[0] == found


def test_bad_lines_are_rejected_by_reason_with_their_line(tmp_path):
    write(tmp_path, clicks__txt=LOG + "1\ta\t1\n1\tb\tsoon\n\n\tc\t3\n1\td\n")
    _, rejects = read(tmp_path)
    assert rejects == {
        ("events", times.UNREADABLE): (1, 3, "'soon'"),
        ("events", "empty user_id"): (1, 5, "''"),
        ("events", "wrong number of fields"): (1, 6, "required 3, received 2: '1\\td'"),
    }
    (tmp_path / "clicks.txt").unlink()
    write(tmp_path, sequences__txt="u a\nlonely\nw a b\nempty\n")
    found, rejects = read(tmp_path)
    assert rejects == {("events", "no items"): (2, 2, "'lonely'")} and len(found["events"]) == 3
    (tmp_path / "sequences.txt").unlink()
    write(tmp_path, sessions__txt="a,b\na,,b\n")
    _, rejects = read(tmp_path, columns={"list_separator": ","})
    assert rejects == {("events", "empty item_id"): (1, 2, "''")}


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path, clicks__txt=LOG + "1\ta\t1\n")
    fails(
        tmp_path,
        "a column of sessions is missing",
        "received: SessionId, ItemId, Time",
        reader="session_log",
        columns={"session_id": "Visit", "user_id": "SessionId"},
    )
    fails(
        tmp_path,
        "nothing.txt is missing",
        "data.columns.files.test",
        columns={"files": {"train": "clicks.txt", "test": "nothing.txt"}},
    )
    fails(
        tmp_path,
        "data.columns.files must map train, valid, test",
        columns={"files": {"dev": "clicks.txt"}},
    )
    write(tmp_path, other__txt=LOG.replace("Time", "When"))
    fails(tmp_path, "other.txt, line 1: required: the columns of clicks.txt")
    fails(
        tmp_path,
        "2 files that may be train: clicks.txt, other.txt",
        "data.columns.files.train",
        reader="session_lists",
    )
    whole = gzip.compress(b"1 2 3\n" * 10_000)
    for number, damaged in enumerate(
        (whole[:-9], b"no gzip at all", whole[:20] + b"\0" + whole[21:])
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "sessions.txt.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="sessions.txt.gz is damaged or cut off"):
            read(folder)


def test_a_run_reads_them_and_reports(tmp_path):
    from components import standalone

    write(tmp_path, train_sessions__txt="a b\nb c\n", test_sessions__txt="a\tc\n")
    reports = standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    assert (reports["events"]["read"], reports["events"]["kept"]) == (6, 6)
    assert artifacts.read_table(str(tmp_path / "tables" / "events")).num_rows == 6


def test_reference_sets(shared_dir):
    data = shared_dir / "data"
    found, rejects = read(data / "session_rsc15_100k")
    parts = [row["split"] for row in found["events"]]
    assert not rejects and (parts.count(b"train"), parts.count(b"test")) == (70_278, 13_568)
    assert len({row["session_id"] for row in found["events"]}) == 17_794 + 3_416
    found, rejects = read(data / "session_diginetica")
    sessions = {row["session_id"] for row in found["events"]}
    events = sum(row["split"] == b"test" for row in found["events"])
    tests = sum(name.startswith(b"test") for name in sessions)
    # 60,858 queries: every event of a test session but its first.
    assert not rejects and len(sessions) - tests == 186_670 and events - tests == 60_858
