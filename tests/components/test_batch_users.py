"""The users of `recsys batch --users`, read as the reader of events reads."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.batch.recommendations import users_of_file
from models.names.errors import DataError


def users(path, kinds=None):
    return [
        {name: value for name, value in request.items() if value is not None}
        for request in users_of_file(str(path), kinds)()
    ]


def ids(path):
    return [request["user_id"] for request in users(path)]


def write(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def test_the_faults_are_read(shared_dir):
    faults = shared_dir / "faults" / "25-batch"
    # A blank line is passed over; blanks around an id are its own, as in a table of events.
    assert ids(faults / "bom.txt") == [b"u0", b"u1", b"u2 ", b"nobody"]
    assert ids(faults / "header.csv") == [b"u0", b"u1"]
    assert ids(faults / "two_columns.csv") == [b"u0", b"u1"]
    assert [request["history"] for request in users(faults / "history_text.parquet")] == [
        [b"i1", b"i2"],
        [b"i4", b"i5"],
    ]
    # Whole numbers have no decimals; the row without an id comes as one without a user.
    assert sorted(ids(faults / "float_null.parquet")) == [b"", b"1", b"3"]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a\nb\n", [b"a", b"b"]),
        ("a\r\nb", [b"a", b"b"]),
        ("\ufeffa\n\nb,c\n", [b"a", b"b,c"]),
        ('7\n"x"\n', [b"7", b'"x"']),
        ("user_id\na\n", [b"a"]),
        ("name;user_id\nAnn;a\n", [b"a"]),
    ],
)
def test_text(tmp_path, text, wanted):
    assert ids(write(tmp_path, "users.txt", text)) == wanted
    assert ids(write(tmp_path, "utf16.txt", text.replace("\ufeff", "").encode("utf-16"))) == wanted


def test_columns_of_a_request(tmp_path):
    table = pa.table(
        {
            "user_id": [1, 2],
            "history": [["i", "j"], None],
            "timestamps": [[5, 6], []],
            "dwell": [[0.5, 2.0], []],
            "device": [7, 8],
            "hour": [7, 8],
        }
    )
    pq.write_table(table, tmp_path / "users.parquet")
    first, second = users(tmp_path / "users.parquet", {"device": "bytes", "hour": "int_list"})
    assert first == {
        "user_id": b"1",
        "history": [b"i", b"j"],
        "timestamps": [5, 6],
        "dwell": [0.5, 2.0],
        "device": b"7",
        "hour": 7,
    }
    assert second["history"] == []
    text = "user_id,history,hour\n1,i|j,7\n"
    assert users(write(tmp_path, "users.csv", text), {"hour": "int"}) == [
        {"user_id": b"1", "history": [b"i", b"j"], "hour": 7}
    ]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("users.csv", "u0\nu1\n", "the column 'user_id' of the table users is missing"),
        ("users.csv", "user_id,user_id\nu,u\n", "there 2 times"),
        ("users.parquet", b"no parquet", "no whole Parquet file"),
        ("users.txt", "", "users.txt is empty"),
    ],
)
def test_what_is_refused(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        users(write(tmp_path, name, data))


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="which is no file"):
        users_of_file(str(tmp_path / "nowhere.txt"))


def test_a_user_is_asked_for_once(tmp_path):
    assert ids(write(tmp_path, "users.txt", "b\na\nb\nc\na\n")) == [b"b", b"a", b"c"]
    same = "user_id,history\nb,i|j\na,i\nb,i|j\n"
    assert ids(write(tmp_path, "same.csv", same)) == [b"b", b"a"]
    with pytest.raises(DataError, match="one request a user.*two of 'b' that differ in history"):
        ids(write(tmp_path, "other.csv", same + "b,j|i\n"))
