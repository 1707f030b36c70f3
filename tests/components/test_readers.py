"""Every layout, ids byte for byte, and what bad input gets."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.read import readers, times
from components.read.layouts import detection
from components.tables.columns import columns_of
from models.names.errors import ConfigError, DataError


def read(folder, reader=None, columns=None, block_bytes=readers.BLOCK_BYTES):
    """All three tables without Beam, and the rejects: the functions that the PTransform maps."""
    found, rejects = {}, {}
    for source in detection.plan(str(folder), reader, columns):
        parsed = [readers.parse(source, block) for block in readers.blocks(source, block_bytes)]
        parts = [one.table for one in parsed]
        found[source.table] = pa.concat_tables(parts).to_pylist() if parts else []
        for one in parsed:
            assert columns_of(one.table) == source.columns()
            for reason, (count, line, received) in one.rejects.items():
                rejects.setdefault((source.table, reason), (count, line, received))
    return found, rejects


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return folder


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def test_recbole(toy_source):
    found, rejects = read(toy_source)
    assert not rejects
    assert len(found["events"]) == 60 * 9 and [row["row"] for row in found["events"]] == list(
        range(540)
    )
    assert found["items"][1] == {
        "item_id": b"i1",
        "title": b"Film 1",
        "year": 1981,
        "genres": [b"Drama"],
    }
    assert found["items"][3]["genres"] == [b"Comedy", b"Drama"]
    assert found["users"][1] == {
        "user_id": b"u1",
        "age": 21,
        "gender": b"F",
        "occupation": b"job1",
        "zip_code": b"10001",
    }


def test_recbole_sequences_and_other_columns(tmp_path):
    write(
        tmp_path,
        a__inter="user_id:token\titem_id:token\ttags:token_seq\tprice:float\tvec:float_seq\n"
        "u\ti\tx  y\t1.5\t1 2.5\nv\ti\t\t\t\n",
    )
    found, _ = read(tmp_path)
    assert found["events"] == [
        {
            "user_id": b"u",
            "item_id": b"i",
            "tags": [b"x", b"y"],
            "price": 1.5,
            "vec": [1.0, 2.5],
            "row": 0,
        },
        {"user_id": b"v", "item_id": b"i", "tags": [], "price": None, "vec": [], "row": 1},
    ]
    assert found["items"] == found["users"] == []


def test_ml_100k(tmp_path):
    flags = "|".join("01"[position in (1, 3)] for position in range(19))
    write(
        tmp_path,
        u__data="196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
        u__item=(
            f"242|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}\n"
            f"267|unknown||||1{'|0' * 18}\n"
        ).encode("latin-1"),
        u__user="196|49|M|writer|55105\n",
    )
    found, rejects = read(tmp_path)
    assert not rejects and detection.detect(str(tmp_path)) == "ml_100k"
    assert found["events"][1] == {
        "user_id": b"186",
        "item_id": b"302",
        "rating": 3.0,
        "timestamp": 891717742,
        "row": 1,
    }
    assert found["items"] == [
        {
            "item_id": b"242",
            "title": "Misérables, Les".encode(),
            "year": 1995,
            "genres": [b"Action", b"Animation"],
        },
        {"item_id": b"267", "title": b"unknown", "year": None, "genres": [b"unknown"]},
    ]
    assert found["users"][0]["zip_code"] == b"55105"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])  # as ml-1m and ml-10m are
def test_ml_dat(tmp_path, encoding):
    write(
        tmp_path,
        ratings__dat="1::1193::4.5::978300760\n1::661::3::978302109\n",
        movies__dat="661::Amélie (2001)::Comedy|Romance\n".encode(encoding),
        users__dat="1::F::1::10::48067\n",
    )
    found, _ = read(tmp_path)
    assert [row["rating"] for row in found["events"]] == [4.5, 3.0]
    assert found["items"] == [
        {
            "item_id": b"661",
            "title": "Amélie".encode(),
            "year": 2001,
            "genres": [b"Comedy", b"Romance"],
        }
    ]
    assert found["users"] == [
        {"user_id": b"1", "gender": b"F", "age": 1, "occupation": b"10", "zip_code": b"48067"}
    ]


def test_ml_latest(tmp_path):
    write(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\r\n1,2,4.0,964982703\r\n1,3,0.5,964981247\r\n",
        movies__csv='movieId,title,genres\n2,"American President, The (1995)",Comedy|Drama\n'
        '3,"Said ""no"" twice",Drama\n',
    )
    found, rejects = read(tmp_path)
    assert not rejects and found["events"][1]["rating"] == 0.5
    assert found["items"] == [
        {
            "item_id": b"2",
            "title": b"American President, The",
            "year": 1995,
            "genres": [b"Comedy", b"Drama"],
        },
        {"item_id": b"3", "title": b'Said "no" twice', "year": None, "genres": [b"Drama"]},
    ]


def test_csv_with_a_mapping_several_files_and_dates(tmp_path):
    write(
        tmp_path,
        **{
            "events-1.csv": "uid,sku,when,price,tags\nu1,s1,2014-04-06T18:42:05.822Z,1.5,a|b\n",
            "events-2.csv": "uid,sku,when,price,tags\nu2,s2,1396809725,oops,\n",
        },
    )
    columns = {
        "events": {"user_id": "uid", "item_id": "sku", "timestamp": "when"},
        "types": {"price": "float", "tags": "bytes_list"},
    }
    found, rejects = read(tmp_path, columns=columns)
    assert not rejects
    # 2014-04-06T18:42:05Z is 1396809725 seconds: 16166 days (1396742400) + 67325.
    assert found["events"] == [
        {
            "user_id": b"u1",
            "item_id": b"s1",
            "timestamp": 1396809725,
            "price": 1.5,
            "tags": [b"a", b"b"],
            "row": 0,
        },
        {
            "user_id": b"u2",
            "item_id": b"s2",
            "timestamp": 1396809725,
            "price": None,
            "tags": [],
            "row": 1,
        },
    ]
    flat, _ = read(tmp_path, columns={"user_id": "uid", "item_id": "sku", "timestamp": "when"})
    assert flat["events"][0]["price"] == b"1.5"


def test_milliseconds(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,timestamp\nu,i,1396809725999\n")
    found, _ = read(tmp_path, columns={"timestamp_unit": "ms"})
    assert found["events"][0]["timestamp"] == 1396809725


def test_parquet_keeps_types_and_row_groups(tmp_path):
    table = pa.table(
        {
            "user_id": pa.array([1, 2, 3, 3]),
            "item_id": pa.array(["é", "b", None, "d"]).dictionary_encode(),
            "timestamp": pa.array([1_000, 2_500, 3_000, 4_000], pa.timestamp("ms")),
            "rating": pa.array([1.0, 2.0, 3.0, float("nan")]),
            "tags": pa.array([["x"], [], None, ["y", "z"]]),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=2)
    found, rejects = read(tmp_path)
    assert found["events"] == [
        {
            "user_id": b"1",
            "item_id": "é".encode(),
            "timestamp": 1,
            "rating": 1.0,
            "tags": [b"x"],
            "row": 0,
        },
        {"user_id": b"2", "item_id": b"b", "timestamp": 2, "rating": 2.0, "tags": [], "row": 1},
        # An event without a rating is an event.
        {
            "user_id": b"3",
            "item_id": b"d",
            "timestamp": 4,
            "rating": None,
            "tags": [b"y", b"z"],
            "row": 3,
        },
    ]
    assert rejects == {("events", "empty item_id"): (1, 3, "'None'")}


def test_parts_and_row_groups_without_rows_are_passed_over(tmp_path):
    folder, table = tmp_path / "events", pa.table({"user_id": ["u"], "item_id": ["i"]})
    folder.mkdir()
    pq.write_table(table[:0], folder / "0.parquet")
    with pq.ParquetWriter(folder / "1.parquet", table.schema) as writer:
        for part in (table, table[:0], table):
            writer.write_table(part)
    pq.write_table(table[:0], folder / "2.parquet")
    found, _ = read(tmp_path)
    assert [row["row"] for row in found["events"]] == [0, 1]


def test_what_is_no_value_of_its_column_is_counted(tmp_path):
    """In Parquet as in text; a missing value is none."""
    big = 2**53 + 1
    columns = {
        "user_id": ["u", "u", "u"],
        "item_id": ["i", "j", "k"],
        "rating": [1e300, float("nan"), 3.5],
        "count": [float("inf"), None, 2.5],
        "wide": [big, 1, 2],
        "since": [1.6e9, float("nan"), 1e300],
        "seen": pa.array([1_600_000_040, None, 5], pa.timestamp("s")),
        "vector": [["1.5", "x"], [], ["2"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    types = {"wide": "float", "vector": "float_list", "since": "time", "seen": "float"}
    (events,) = [one for one in detection.plan(str(tmp_path), None, {"types": types}) if one.files]
    (block,) = readers.blocks(events)
    parsed = readers.parse(events, block)
    assert parsed.rejects == {"rating is not a number": (1, 1, "'1e+300'")}
    assert parsed.unreadable == {"count": 1, "vector": 1, "since": 1}
    rows = parsed.table.to_pylist()
    assert [row["rating"] for row in rows] == [None, 3.5]
    assert [row["vector"] for row in rows] == [[], [2.0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_time_is_any_in_columns_of_ones_own(tmp_path, suffix):
    """Births before 1970; days and milliseconds as numbers; codes that look like times are none."""
    columns = {
        "user_id": ["u", "v", "w"],
        "born": ["1955-03-02", "1969-12-31", "1984-07-01"],
        "store": ["1001-123", "1002-045", "1003-007"],
        "since": [20200913, 20200914, 20200915],
        "seen": [1_600_000_000_000, 1_600_000_001_000, 1_600_000_002_000],
    }
    write(tmp_path, events__csv="user_id,item_id\nu,i\n")
    if suffix == "csv":
        text = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values()))]
        write(tmp_path, users__csv="\n".join(text) + "\n")
    else:
        pq.write_table(pa.table(columns), tmp_path / "users.parquet")
    found, _ = read(tmp_path, columns={"types": {"since": "time", "seen": "time"}})
    assert [row["born"] for row in found["users"]] == [-468_201_600, -86_400, 457_488_000]
    assert [row["store"] for row in found["users"]] == [b"1001-123", b"1002-045", b"1003-007"]
    assert found["users"][0]["since"] == 1_599_955_200
    assert found["users"][0]["seen"] == 1_600_000_000


def test_ids_keep_every_byte(tmp_path):
    ids = [
        "é",
        "e\u0301",
        "日本",
        "🎬",
        " lead",
        "trail ",
        "\u3000x",
        "a,b",
        "it's",
        "007",
        "1e3",
        "nan",
        "NULL",
        "\u2028",
        "x" * 400,
    ]
    lines = "".join(f"{one}\t{one}\t3\t1\n" for one in ids) + "\udcff\t\udcfe\t3\t1\n"
    write(tmp_path, a__inter=(INTER + lines).encode("utf-8", "surrogateescape"))
    found, rejects = read(tmp_path)
    # The last one is no UTF-8: TensorFlow's vocabularies and JSON could not hold it.
    reason = "user_id is not UTF-8 (data.columns.encoding names another encoding)"
    assert rejects == {("events", reason): (1, 17, repr("\\xff"))}
    wanted = [one.encode() for one in ids]
    assert [row["user_id"] for row in found["events"]] == wanted
    assert [row["item_id"] for row in found["events"]] == wanted


def test_times_are_exact(tmp_path):
    # float32 would make both 881250944.
    write(tmp_path, a__inter=INTER + "u\ti\t3\t881250949\nu\tj\t3\t881250948\n")
    assert [row["timestamp"] for row in read(tmp_path)[0]["events"]] == [881250949, 881250948]


@pytest.mark.parametrize("layout", ["text", "csv"])
def test_blocks_of_any_size_give_the_same_rows(tmp_path, layout):
    random = np.random.RandomState(0)
    rows = [
        (f"u{random.randint(50)}", f"item {random.randint(10**6)}", random.randint(5), 10**8 + n)
        for n in range(60)
    ]
    if layout == "text":
        write(
            tmp_path, a__inter=INTER + "\n".join("\t".join(map(str, row)) for row in rows)
        )  # no line feed at the end
    else:
        body = "".join('%s,"%s, ""x""\r",%s,%s\n' % row for row in rows)
        write(tmp_path, events__csv="user_id,item_id,rating,timestamp\n" + body.replace("\r", ""))
    whole, _ = read(tmp_path)
    assert len(whole["events"]) == 60
    for size in (64, 100, 1000):
        assert read(tmp_path, block_bytes=size)[0] == whole


REJECTED = {
    "rating is not a number": ("u\ti\tgood\t5", "'good'"),
    times.UNREADABLE: ("u\ti\t3\tsoon", "'soon'"),
    "empty user_id": ("\ti\t3\t5", "''"),
    "blank item_id": ("u\t  \t3\t5", "'  '"),
    "line break in item_id": ("u\ti\rj\t3\t5", "'i\\rj'"),
    "wrong number of fields": ("u\ti\t3", "required 4, received 3: 'u\\ti\\t3'"),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_bad_rows_are_rejected_by_reason_with_their_line(tmp_path, reason):
    line, received = REJECTED[reason]
    write(tmp_path, a__inter=INTER + "u\ti\t3\t5\n\n" + line + "\nu\tj\t4\t6\n" + line + "\n")
    found, rejects = read(tmp_path)
    assert rejects == {("events", reason): (2, 4, received)}
    # The blank line is passed over, and row numbers are those of the file.
    assert [(row["item_id"], row["row"]) for row in found["events"]] == [(b"i", 0), (b"j", 3)]


def test_bad_csv_rows(tmp_path):
    write(
        tmp_path,
        events__csv='user_id,item_id,rating\nu,"a\nb",1\nu,i,2,9\n\nu,,3\nu,j,4\nu,k,inf\n',
    )
    found, rejects = read(tmp_path)
    assert rejects == {
        ("events", "line break in item_id"): (1, 2, repr("a\nb")),
        ("events", "wrong number of fields"): (1, 4, "required 3, received 4: 'u,i,2,9'"),
        ("events", "empty item_id"): (1, 6, "''"),
        ("events", "rating is not a number"): (1, 8, "'inf'"),
    }
    assert [(row["item_id"], row["row"]) for row in found["events"]] == [(b"j", 4)]


def fails(folder, *parts, **arguments):
    with pytest.raises((DataError, ConfigError)) as raised:
        read(folder, **arguments)
    for part in parts:
        assert part in str(raised.value)


def test_missing_empty_and_truncated_files(tmp_path):
    fails(tmp_path / "nowhere", "nowhere does not exist")
    fails(tmp_path, "no layout that a reader knows", "an empty folder")
    fails(tmp_path, "events.csv is missing", reader="csv")
    write(tmp_path, a__inter="")
    fails(tmp_path, "a.inter is empty")
    write(tmp_path, a__inter=INTER + "u\ti\t3\t5\nu\tj\t4")
    fails(
        tmp_path,
        "a.inter, line 3: the file ends in the middle of a line",
        "required: 4 fields, received: 3",
    )
    (tmp_path / "a.inter").unlink()
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"]}), tmp_path / "events.parquet")
    data = (tmp_path / "events.parquet").read_bytes()
    (tmp_path / "events.parquet").write_bytes(data[:-20])
    fails(tmp_path, "events.parquet is no whole Parquet file")


def test_missing_columns(tmp_path):
    write(tmp_path, events__csv="uid,item_id\nu,i\n")
    fails(
        tmp_path,
        "events.csv, line 1: the column 'user_id'",
        "received: uid, item_id",
        "data.columns",
    )
    fails(
        tmp_path,
        "the column 'user'",
        "data.columns.events.user_id",
        columns={"events": {"user_id": "user"}},
    )
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write(tmp_path, a__inter="user_id\titem_id\nu\ti\n")
    fails(tmp_path, "a.inter, line 1", "name:type", "'user_id'")


def test_wrong_options(tmp_path):
    write(tmp_path, events__csv="user_id,item_id\nu,i\n")
    fails(tmp_path, "unknown reader 'cvs'; did you mean 'csv'?", reader="cvs")
    fails(tmp_path, "unknown type 'flot'; did you mean 'float'?", columns={"types": {"x": "flot"}})
    fails(tmp_path, "timestamp_unit", columns={"timestamp_unit": "h"})
    write(tmp_path, events__csv="user_id,item_id,rating,timestamp\nu,i,1,1\n")
    for name, kind in (("user_id", "int"), ("timestamp", "category"), ("rating", "int")):
        said = f"data.columns.types: {name} of events has a meaning of its own; required: "
        fails(tmp_path, said, f"received: {kind}", columns={"types": {name: kind}})
