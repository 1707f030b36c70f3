"""Which columns of which files are read, as what, and what is said of it."""

import bz2
import decimal
import gzip

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from components.read import kinds, raw, readers
from components.read.layouts import detection, parts
from models.names.errors import DataError
from tests.components.test_readers import fails, read, write

EVENTS = "user_id,item_id,timestamp\nu,i,5\n"


def events(folder, **arguments):
    found, rejects = read(folder, **arguments)
    assert not rejects
    return found["events"]


def kinds_of(folder, table="events", **arguments):
    (source,) = (one for one in detection.plan(str(folder), **arguments) if one.table == table)
    return {field.name: field.kind for field in source.fields}


def notes(folder, table="events", **arguments):
    (source,) = (one for one in detection.plan(str(folder), **arguments) if one.table == table)
    return "\n".join(source.notes)


# Mappings


def test_a_mapping_to_a_column_that_is_not_there_is_refused(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,bought_at\nu,i,5\n")
    fails(
        tmp_path,
        "data.columns.timestamp: no file has a column 'bougth_at'; did you mean 'bought_at'?",
        columns={"timestamp": "bougth_at"},
    )
    fails(
        tmp_path,
        "data.columns.timestamp_units: no file has a column 'ms'",
        "is the option meant 'timestamp_unit'?",
        columns={"timestamp_units": "ms"},
    )
    fails(
        tmp_path,
        "the column 'bougth_at', named by data.columns.events.timestamp, is missing",
        "did you mean 'bought_at'?",
        columns={"events": {"timestamp": "bougth_at"}},
    )
    fails(
        tmp_path,
        "data.columns.types: no table has a column 'bougth_at'; did you mean 'bought_at'?",
        columns={"types": {"bougth_at": "time"}},
    )
    fails(
        tmp_path,
        "data.columns.ignore: no table has a column 'x'",
        columns={"ignore": "x"},
    )
    write(tmp_path, events__csv="customer,item_id,timestamp\nu,i,5\n")
    fails(
        tmp_path,
        "data.columns.customer: no file has a column 'user_id', but one has 'customer'",
        "so user_id: customer",
        columns={"customer": "user_id"},
    )
    fails(tmp_path, "data.columns.item_id must be a column's name", columns={"item_id": 3})


def test_layouts_without_names_refuse_a_mapping_as_well(tmp_path):
    write(tmp_path, u__data="196\t242\t3\t881250949\n")
    fails(tmp_path, "no file has a column 'uid'", columns={"user_id": "uid"})


@pytest.mark.parametrize(
    "header", ["user_id,sku,item_id,when,timestamp", "user_id,item_id,sku,timestamp,when"]
)
def test_the_mapped_column_wins_in_any_order(tmp_path, header):
    row = {"user_id": "u", "sku": "s", "item_id": "900", "when": "7", "timestamp": "5"}
    write(tmp_path, events__csv=f"{header}\n{','.join(row[name] for name in header.split(','))}\n")
    columns = {"item_id": "sku", "timestamp": "when"}
    assert events(tmp_path, columns=columns) == [
        {"user_id": b"u", "item_id": b"s", "timestamp": 7, "row": 0}
    ]
    said = notes(tmp_path, columns=columns)
    assert "events.csv: item_id is left out: item_id is sku" in said
    assert "events.csv: timestamp is left out: timestamp is when" in said


def test_one_column_can_be_two(tmp_path):
    write(tmp_path, events__csv="visit,item_id\nv,i\n")
    (row,) = events(tmp_path, columns={"user_id": "visit", "session_id": "visit"})
    assert (row["user_id"], row["session_id"]) == (b"v", b"v")


def test_a_name_twice_is_refused(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,timestamp,item_id\nu,i,5,zz\n")
    fails(tmp_path, "events.csv, line 1: the column 'item_id' is there 2 times")


@pytest.mark.parametrize("header", ["Timestamp", "time_stamp", "TIMESTAMP "])
def test_other_capitals_and_blanks_get_did_you_mean(tmp_path, header):
    write(tmp_path, events__csv=f"user_id,item_id,{header}\nu,i,5\n")
    fails(tmp_path, f"did you mean 'timestamp' by the column {header!r}", "data.columns.ignore")
    assert events(tmp_path, columns={"timestamp": header})[0]["timestamp"] == 5
    assert set(events(tmp_path, columns={"ignore": [header]})[0]) == {"user_id", "item_id", "row"}
    write(tmp_path, events__csv="user_id , item_id, timestamp,timestamp%\nu,i,5,6\n")
    (row,) = events(tmp_path)
    assert (row["item_id"], row["timestamp"], row["timestamp_"]) == (b"i", 5, b"6")
    assert "the column ' timestamp' is called 'timestamp' here" in notes(tmp_path)
    write(tmp_path, events__csv="User_ID,item_id\nu,i\n")
    fails(tmp_path, "did you mean 'user_id' by the column 'User_ID'")


# Files


@pytest.mark.parametrize(
    "names",
    [
        ("events.csv", "events-2024.csv"),
        ("events.csv", "events.tsv"),
        ("events.csv", "events.csv.gz"),
        ("events-1.csv", "events-1.csv.gz"),
        ("events.csv", "events/1.csv"),
        ("events.csv", "events.parquet"),
        ("events.csv", "ratings.csv"),
        ("events.csv", "a.inter"),
        ("a.inter", "b.inter"),
    ],
)
def test_one_file_does_not_hide_another(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = EVENTS.encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    fails(tmp_path, names[0].split("/")[0], names[1].split("/")[0])


def test_the_reader_or_the_file_settles_it(tmp_path):
    write(tmp_path, events__csv=EVENTS, ratings__csv="userId,movieId,rating\nv,j,5\n")
    fails(tmp_path, "holds the files of several layouts: ml_csv, csv", "data.reader")
    assert events(tmp_path, reader="csv")[0]["item_id"] == b"i"
    assert events(tmp_path, reader="ml_csv")[0]["item_id"] == b"j"
    write(tmp_path, **{"events-2024.csv": EVENTS.replace("u,i", "w,k")})
    fails(tmp_path, "events.csv, events-2024.csv", "data.columns.files.events", reader="csv")
    for files, items in (
        ("events-2024.csv", [b"k"]),
        ("events*.csv", [b"k", b"i"]),
        (["events.csv", "events-2024.csv"], [b"i", b"k"]),
    ):
        found = events(tmp_path, reader="csv", columns={"files": {"events": files}})
        assert [row["item_id"] for row in found] == items
    fails(
        tmp_path,
        "nowhere.csv is missing; it is named by data.columns.files.events",
        reader="csv",
        columns={"files": {"events": "nowhere.csv"}},
    )
    fails(
        tmp_path,
        "the layout ml_csv has names of its own",
        reader="ml_csv",
        columns={"files": {"events": "ratings.csv"}},
    )


def test_parts_are_one_table(tmp_path):
    lines = [f"u{n},i{n},{n + 1}\n" for n in range(4)]
    header = "user_id,item_id,timestamp\n"
    (tmp_path / "events-1.csv").write_text(header + lines[0])
    (tmp_path / "events-2.csv.gz").write_bytes(gzip.compress((header + lines[1]).encode()))
    (tmp_path / "events-3.csv.bz2").write_bytes(bz2.compress((header + lines[2]).encode()))
    with pa.output_stream(str(tmp_path / "events-4.csv.zst"), compression="zstd") as stream:
        stream.write((header + lines[3]).encode())
    (tmp_path / "._events-5.csv").write_bytes(b"\0\5\26\7")
    found = events(tmp_path, block_bytes=20)
    assert [(row["user_id"], row["timestamp"]) for row in found] == [
        (f"u{n}".encode(), n + 1) for n in range(4)
    ]
    assert [row["row"] for row in found] == [0, 1, 2, 3]
    whole = (tmp_path / "events-4.csv.zst").read_bytes()
    (tmp_path / "events-4.csv.zst").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="events-4.csv.zst is damaged or cut off"):
        read(tmp_path)


def test_large_compressed_files_are_read_block_by_block(tmp_path):
    lines = "".join(f"u{n},i{n},{n + 1}\n" for n in range(5000))
    with pa.output_stream(str(tmp_path / "events.csv.zst"), compression="zstd") as stream:
        stream.write(("user_id,item_id,timestamp\n" + lines).encode())
    found = events(tmp_path, block_bytes=10_000)
    assert [row["row"] for row in found] == list(range(5000))
    assert [row["user_id"] for row in found] == [b"u%d" % n for n in range(5000)]


@pytest.mark.parametrize("name", ["events.csv.zst", "events.csv.gz", "events.csv"])
def test_a_block_does_not_unpack_what_lies_before_it(tmp_path, monkeypatch, name):
    """By the seventh block a file that is compressed, or of UTF-16, was unpacked seven times."""
    lines = "".join(f"u{n},i{n},{n + 1}\n" for n in range(5000))
    text = ("user_id,item_id,timestamp\n" + lines).encode()
    if name == "events.csv":
        (tmp_path / name).write_text(text.decode(), "utf-16")
    else:
        kind = {".gz": "gzip", ".zst": "zstd"}[(tmp_path / name).suffix]
        with pa.output_stream(str(tmp_path / name), compression=kind) as stream:
            stream.write(text)
    source = next(one for one in detection.plan(str(tmp_path)) if one.table == "events")
    passed = []
    monkeypatch.setattr(raw, "skip", lambda stream, size: passed.append(size) or stream.read(size))
    with beam.Pipeline() as pipeline:
        read = pipeline | readers.ReadSource(source, 10_000, str(tmp_path / "there"))
        rows = read | beam.FlatMap(lambda one: one.table.column("row").to_pylist())
        assert_that(rows, equal_to(list(range(5000))))
    kept = len(list((tmp_path / "there").rglob("block-*.zst")))
    assert kept == len(list(raw.blocks(source, 10_000))) - 1 > 5
    # The first block alone is read where it lies.
    assert passed == [len("user_id,item_id,timestamp\n")]


def test_a_folder_of_parquet_as_spark_writes_it(tmp_path):
    folder = tmp_path / "events.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    for n in range(2):
        table = pa.table({"user_id": [f"u{n}"], "item_id": [n], "timestamp": [5]})
        pq.write_table(table, folder / f"part-{n}.snappy.parquet")
    write(tmp_path, items__csv="item_id,title\n0,A\n")
    found, _ = read(tmp_path)
    assert [row["user_id"] for row in found["events"]] == [b"u0", b"u1"]
    assert found["items"] == [{"item_id": b"0", "title": b"A"}]  # of another format
    pq.write_table(pa.table({"item_id": ["0"]}), tmp_path / "items.parquet")
    fails(tmp_path, "items.csv, items.parquet", "data.columns.files.items")


def test_detection_opens_what_it_must_and_passes_over_the_rest(tmp_path, monkeypatch):
    write(tmp_path, events__csv=EVENTS, notes__txt=b"\xff\xfe\0\0\0", **{"x.txt.gz": b"no gzip"})
    (tmp_path / "._events.csv").write_bytes(b"\0\5\26\7")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "peek", lambda file: pytest.fail(f"{file} was opened"))
        assert detection.detect(str(tmp_path)) == "csv"
    assert len(events(tmp_path)) == 1
    (tmp_path / "events.csv").rename(tmp_path / "other.csv")
    write(tmp_path, clicks__txt="SessionId,ItemId,Time\ns,i,5\n")
    assert detection.detect(str(tmp_path)) == "session_log"


# Forms of text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_the_delimiter_is_told(tmp_path, delimiter, suffix):
    lines = [("user_id", "item_id", "size"), ("u", '"a;b,c|d"', "1.5"), ("v", "j", "2")]
    (tmp_path / f"events.{suffix}").write_text(
        "".join(delimiter.join(line) + "\n" for line in lines)
    )
    found = events(tmp_path)
    assert [row["item_id"] for row in found] == [b"a;b,c|d", b"j"]
    assert [row["size"] for row in found] == [1.5, 2.0]


def test_the_delimiter_can_be_given(tmp_path):
    write(tmp_path, events__csv="user_id::item_id\nu::i\n")
    assert events(tmp_path, columns={"delimiter": "::"})[0]["item_id"] == b"i"


def test_a_tab_as_a_shell_types_it(tmp_path):
    write(tmp_path, events__csv="user_id\titem_id,x\nu\ti\n")
    (row,) = events(tmp_path, columns={"delimiter": "\\t", "item_id": "item_id,x"})
    assert row["item_id"] == b"i"


def test_semicolons_and_decimal_commas(tmp_path):
    write(tmp_path, events__csv="user_id;item_id;rating;price\nu;i;4,5;1,25\nv;j;3;\n")
    assert "the delimiter is ';'" in notes(tmp_path, columns={"decimal": ","})
    found = events(tmp_path, columns={"decimal": ","})
    assert [(row["rating"], row["price"]) for row in found] == [(4.5, 1.25), (3.0, None)]
    _, rejects = read(tmp_path)
    assert rejects["events", "rating is not a number"] == (1, 2, "'4,5'")
    fails(tmp_path, "data.columns.decimal must be '.' or ','", columns={"decimal": "x"})


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    rows = [("user_id", "item_id", "title"), ("u", "café", '"a, ""b"""')]
    rows += [(f"u{n}", "y", "z") for n in range(9)]
    text = "".join(",".join(row) + end for row in rows)
    (tmp_path / "events.csv").write_bytes(text.encode(encoding))
    columns = {"encoding": encoding} if encoding == "latin-1" else None
    for size in (7, raw.BLOCK_BYTES):
        found = events(tmp_path, columns=columns, block_bytes=size)
        assert found[0]["item_id"] == "café".encode() and found[0]["title"] == b'a, "b"'
        assert [row["row"] for row in found] == list(range(10))


def test_a_mark_before_lists_and_json(tmp_path):
    write(tmp_path, sessions__txt=b"\xef\xbb\xbfa b\nc d\n")
    assert [row["item_id"] for row in events(tmp_path)] == [b"a", b"b", b"c", b"d"]


def test_bytes_of_another_encoding_are_rejected_by_line(tmp_path):
    write(
        tmp_path,
        events__csv="user_id,item_id,note\nu,i,x\nv,café,x\nw,j,né\n".encode("latin-1"),
    )
    found, rejects = read(tmp_path)
    assert [row["user_id"] for row in found["events"]] == [b"u"]
    more = "(data.columns.encoding names another encoding)"
    assert rejects == {
        ("events", f"item_id is not UTF-8 {more}"): (1, 3, repr("caf\\xe9")),
        ("events", f"note is not UTF-8 {more}"): (1, 4, repr("n\\xe9")),
    }
    write(tmp_path, events__csv="user_id,item_id,für\nu,i,x\n".encode("latin-1"))
    fails(tmp_path, "events.csv, line 1: required: UTF-8", "data.columns.encoding")
    fails(tmp_path, "unknown encoding 'utf-9'", columns={"encoding": "utf-9"})
    fails(tmp_path, "unknown encoding 'hex'", columns={"encoding": "hex"})
    write(tmp_path, events__csv=b"user_id,item_id\nu,\x81\n")
    fails(tmp_path, "events.csv is no cp1252", columns={"encoding": "cp1252"})


# Kinds


VALUES = {  # text, as Parquet has it, kind
    "price": (["0.99", "12", ""], pa.array([0.99, 12, None]), "float"),
    "code": (["1", "15", ""], pa.array([1, 15, None]), "bytes"),
    "holes": (["1", "15", ""], pa.array([1.0, 15.0, float("nan")]), "bytes"),
    "zip": (["00501", "9", "x"], pa.array(["00501", "9", "x"]), "bytes"),
    "flag": (["true", "false", ""], pa.array([True, False, None]), "bytes"),
    "day": (
        ["2020-09-13", "2020-09-13T12:26:40Z", ""],
        pa.array([1_599_955_200, 1_600_000_000, None], pa.timestamp("s")),
        "int",
    ),
    "amount": (
        ["1.50", "2", ""],
        pa.array(["1.50", "2.00", None]).cast(pa.large_string()),
        "float",
    ),
    "none": (["", "", ""], pa.nulls(3), "bytes"),
}


def test_one_rule_for_text_and_parquet(tmp_path):
    names = list(VALUES)
    rows = [",".join(["user_id", "item_id", *names])]
    rows += [",".join(["u", "i", *(VALUES[name][0][n] for name in names)]) for n in range(3)]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "events.csv").write_text("\n".join(rows) + "\n")
    table = pa.table(
        {"user_id": ["u"] * 3, "item_id": ["i"] * 3, **{name: VALUES[name][1] for name in names}}
    )
    (tmp_path / "parquet").mkdir()
    pq.write_table(table, tmp_path / "parquet" / "events.parquet")
    for folder in ("text", "parquet"):
        found = kinds_of(tmp_path / folder)
        assert {name: found[name] for name in names} == {name: VALUES[name][2] for name in names}
    assert events(tmp_path / "text") == events(tmp_path / "parquet")
    first = events(tmp_path / "parquet")[0]
    assert (first["code"], first["holes"], first["flag"]) == (b"1", b"1", b"true")
    assert [row["day"] for row in events(tmp_path / "text")] == [1_599_955_200, 1_600_000_000, None]


def test_ids_of_any_type_are_what_text_would_hold(tmp_path):
    """As databases and pandas write them: decimals without places, floats because of a hole."""
    number = decimal.Decimal("12345678901234567890")
    for ids, wanted in (
        (pa.array([number, decimal.Decimal("7")], pa.decimal128(38, 0)), str(number).encode()),
        (pa.array([decimal.Decimal("3.00"), decimal.Decimal("7.00")]), b"3"),
        (pa.array([3.0, 7.0]), b"3"),
        (pa.array([2**63, 7], pa.uint64()), b"9223372036854775808"),
        (pa.array(["a", "7"]).dictionary_encode(), b"a"),
        (pa.array([0.1, 7.0], pa.float32()), b"0.1"),
    ):
        pq.write_table(pa.table({"user_id": ids, "item_id": ids}), tmp_path / "events.parquet")
        assert [row["user_id"] for row in events(tmp_path)] == [wanted, b"7"]


def test_a_part_without_values_tells_nothing(tmp_path):
    for n, (size, day) in enumerate((("", ""), ("1.5", "2020-09-13"))):
        write(tmp_path, **{f"events-{n}.csv": f"user_id,item_id,size,day\nu,i,{size},{day}\n"})
    assert [(row["size"], row["day"]) for row in events(tmp_path)] == [
        (None, None),
        (1.5, 1_599_955_200),
    ]
    write(tmp_path, **{f"events-{n}.csv": "user_id,item_id,size,day\n" for n in range(2)})
    assert kinds_of(tmp_path)["size"] == "bytes" and read(tmp_path)[0]["events"] == []


def test_json_lines_go_by_the_same_rule(tmp_path):
    lines = [
        '{"reviewerID": "u", "asin": "i", "price": 1.5, "code": 7, "ok": true}',
        '{"reviewerID": "v", "asin": "j", "price": 2}',
    ]
    write(tmp_path, r__json="\n".join(lines) + "\n")
    columns = {"events": {"price": "price", "code": "code", "ok": "ok"}}
    found = events(tmp_path, columns=columns)
    assert [(row["price"], row["code"], row["ok"]) for row in found] == [
        (1.5, b"7", b"true"),
        (2.0, None, None),
    ]


def test_what_the_user_says_comes_before_the_schema_and_that_before_the_name(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,year,zip_code,price\nu,i,1999,7,1.5\n")
    assert kinds_of(tmp_path) == {
        "user_id": "bytes",
        "item_id": "bytes",
        "year": "int",
        "zip_code": "bytes",
        "price": "float",
    }
    said = {"schema": {"events": {"year": "float", "zip_code": "float", "price": "bytes"}}}
    found = kinds_of(tmp_path, columns={**said, "types": {"zip_code": "int", "price": "number"}})
    assert (found["year"], found["zip_code"], found["price"]) == ("float", "int", "float")
    assert kinds_of(tmp_path, columns=said)["price"] == "bytes"


def test_parquet_numbers_are_not_cut(tmp_path):
    (tmp_path / "events").mkdir()
    for n, column in enumerate((pa.array([1, 2]), pa.array([1.5, None]))):
        table = pa.table({"user_id": ["u", "v"], "item_id": ["i", "i"], "size": column})
        pq.write_table(table, tmp_path / "events" / f"{n}.parquet")
    assert [row["size"] for row in events(tmp_path)] == [1.0, 2.0, 1.5, None]
    items = pa.table({"item_id": ["i", "j"], "year": [1999.0, float("nan")]})
    pq.write_table(items, tmp_path / "items.parquet")
    found, _ = read(tmp_path)
    assert [row["year"] for row in found["items"]] == [1999, None]


def test_ids_of_requests_are_left_out_unasked(tmp_path):
    lines = [f"u,i,{n:x},{n % 3},{n / 7}" for n in range(kinds._MANY)]
    write(tmp_path, events__csv="user_id,item_id,request,device,x\n" + "\n".join(lines) + "\n")
    assert set(kinds_of(tmp_path)) == {"user_id", "item_id", "device", "x"}
    said = notes(tmp_path)
    assert "request: left out, for its values all differ" in said
    assert "device: category (3 values in the first 100 rows)" in said
    assert "x: number (10 buckets)" in said
    assert kinds_of(tmp_path, columns={"types": {"request": "category"}})["request"] == "bytes"
    # One that comes again makes it a category.
    lines.append(f"u,i,{0:x},0,0.5")
    write(tmp_path, events__csv="user_id,item_id,request,device,x\n" + "\n".join(lines) + "\n")
    assert "request: category (100 values in the first 101 rows)" in notes(tmp_path)
    # Of items a value each is no request's id.
    write(tmp_path, items__csv="item_id,ean\n" + "".join(f"{n},e{n}\n" for n in range(200)))
    assert kinds_of(tmp_path, "items")["ean"] == "bytes"


def test_days_as_numbers_and_all_times_in_1970(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,timestamp\nu,i,20200913\nu,j,20200914\n")
    assert [row["timestamp"] for row in events(tmp_path)] == [1_599_955_200, 1_600_041_600]
    assert "timestamp: days such as 20200913" in notes(tmp_path)
    write(tmp_path, events__csv="user_id,item_id,timestamp\nu,i,20200913\nu,j,20200999\n")
    assert [row["timestamp"] for row in events(tmp_path)] == [20200913, 20200999]
    assert "timestamp: all lie in the 1970s, such as 20200913" in notes(tmp_path)


def test_times_of_parquet_beyond_the_calendar_cost_their_row(tmp_path):
    far = pa.array([1_600_000_000_000_000, 253_402_214_400_000_000, 2**62], pa.timestamp("us"))
    pq.write_table(
        pa.table({"user_id": ["u"] * 3, "item_id": ["i"] * 3, "timestamp": far, "until": far}),
        tmp_path / "events.parquet",
    )
    found, rejects = read(tmp_path)
    assert [(row["timestamp"], row["until"]) for row in found["events"]] == [
        (1_600_000_000, 1_600_000_000)
    ]
    ((_, reason),) = rejects
    assert reason == "timestamp is before 1970 or after 2262"
    assert rejects["events", reason] == (2, 2, "'9999-12-31 00:00:00'")


# Names and lists


def test_names_that_no_model_can_have_are_made_legal(tmp_path):
    write(
        tmp_path,
        events__csv=",user_id,item_id,Unit Price (EUR/kg),Größe,100%,a:b,日本,\n0,u,i,x,y,z,p,q,\n",
    )
    (row,) = events(tmp_path)
    assert row == {
        "user_id": b"u",
        "item_id": b"i",
        "Unit_Price_EUR_kg": b"x",
        "Groe": b"y",
        "100": b"z",
        "a_b": b"p",
        "column_8": b"q",
        "row": 0,
    }
    said = notes(tmp_path)
    assert "column 1 has no name and is left out" in said and "column 9 has no name" in said
    assert "the column 'Größe' is called 'Groe' here" in said
    assert kinds_of(tmp_path, columns={"types": {"Größe": "float"}})["Groe"] == "float"
    assert "a_b" not in kinds_of(tmp_path, columns={"ignore": "a:b"})


def test_a_column_that_gives_way_to_the_readers_own_is_said(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,row\nu,i,7\n")
    assert events(tmp_path) == [{"user_id": b"u", "item_id": b"i", "row": 0}]
    assert "events.csv: row is left out: the reader has its own" in notes(tmp_path)


def test_legal_names_do_not_clash(tmp_path):
    write(tmp_path, events__csv="user_id,item_id,a_b,a b,a:b\nu,i,1,2,3\n")
    (row,) = events(tmp_path)
    assert (row["a_b"], row["a_b_"], row["a_b__"]) == (b"1", b"2", b"3")


def test_lists_of_parquet(tmp_path):
    table = pa.table(
        {
            "item_id": ["i", "j"],
            "genres": pa.array([[1, 2], None]),
            "title": pa.array([["A", "card"], ["B", None]]),
            "vector": pa.array([[0.5, 1.0], [0.0, 2.0]], pa.list_(pa.float32(), 2)),
            "codes": pa.array([[1.0, 2.0], [3.0]]),
            "odd": pa.array([{"a": 1}, {"a": 2}]),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    write(tmp_path, events__csv="user_id,item_id\nu,i\n")
    found, _ = read(tmp_path)
    assert found["items"] == [
        {
            "item_id": b"i",
            "genres": [b"1", b"2"],
            "title": b"A card",
            "vector": [0.5, 1.0],
            "codes": [b"1", b"2"],
        },
        {"item_id": b"j", "genres": [], "title": b"B", "vector": [0.0, 2.0], "codes": [b"3"]},
    ]
    assert "odd is left out: no table can hold the type struct" in notes(tmp_path, "items")
    found, _ = read(tmp_path, columns={"types": {"codes": "int_list"}})
    assert found["items"][0]["codes"] == [1, 2]
    (tmp_path / "events.csv").unlink()
    pq.write_table(
        pa.table({"user_id": ["u"], "item_id": [["i", "j"]]}), tmp_path / "events.parquet"
    )
    fails(tmp_path, "the column 'item_id' holds lists; required: one value a row")


# The inputs that showed these faults


@pytest.mark.parametrize(
    "folder, rows",
    [
        ("01-price/data", 320),
        ("02-index/data", 320),
        ("03-names/data", 320),
        ("06-iso-mixed/data", 320),
        ("20-genres-int/data", None),
        ("22e-utf16/data", None),
        ("22i-macos/data", None),
        ("33-yyyymmdd/data", 320),
        ("58-int-code/data", None),
        ("h-semi", 480),
    ],
)
def test_the_faults_are_read_whole(shared_dir, folder, rows):
    found, rejects = read(shared_dir / "faults" / folder)
    assert not rejects and found["events"] and rows in (None, len(found["events"]))


def test_the_faults_as_they_should_be(shared_dir):
    faults = shared_dir / "faults"
    assert kinds_of(faults / "01-price/data", "items")["price"] == "float"
    assert kinds_of(faults / "58-int-code/data", "items")["category_id"] == "bytes"
    fails(faults / "21-dup-header/data", "the column 'item_id' is there 2 times")
    fails(
        faults / "51-map-typo/data",
        "did you mean 'bought_at'?",
        columns={"timestamp": "bougth_at"},
    )
    found, _ = read(faults / "50-map-both/data", columns={"item_id": "sku"})
    assert found["events"][0]["item_id"] == b"i3"
    _, rejects = read(faults / "20d-year-9999/data")
    assert rejects["events", "timestamp is before 1970 or after 2262"][0] == 1
    _, rejects = read(faults / "10-latin1/data")
    assert any(reason.startswith("item_id is not UTF-8") for _, reason in rejects)
    found, rejects = read(faults / "10-latin1/data", columns={"encoding": "latin-1"})
    assert not rejects and found["items"][1]["item_id"] == "café1".encode()
