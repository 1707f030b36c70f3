"""Criteo's layout: every form of its files, made-up ids, parts by file, and what bad input gets."""

import gzip

import pytest

from components import standalone
from components.build.config import EXAMPLE_SPLITS
from components.read import readers
from components.read.layouts import detection
from components.tables import records
from models.names.errors import DataError
from tests.components.test_readers import read, write

HEADER = [
    "label",
    *(f"I{number}" for number in range(1, 14)),
    *(f"C{number}" for number in range(1, 27)),
]


def impression(label, count="", category="", delimiter="\t"):
    """A line with one count (I1) and one category (C26); the others are missing."""
    return delimiter.join([str(label), str(count), *[""] * 37, category])


def lines(*rows, header=False, delimiter="\t"):
    return (
        "\n".join(
            ([delimiter.join(HEADER)] if header else [])
            + [impression(*row, delimiter=delimiter) for row in rows]
        )
        + "\n"
    )


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_with_and_without_header_and_either_delimiter(tmp_path, header, delimiter):
    (tmp_path / "train.csv").write_text(
        lines((0, -1, "68fd1e64"), (1, "", ""), (1, 52, "é"), header=header, delimiter=delimiter)
    )
    assert detection.detect(str(tmp_path)) == "criteo"
    found, rejects = read(tmp_path)
    assert not rejects and found["items"] == found["users"] == []
    events = found["events"]
    assert [row["label"] for row in events] == [0.0, 1.0, 1.0]
    assert [row["I1"] for row in events] == [-1.0, None, 52.0] and events[0]["I2"] is None
    assert [row["C26"] for row in events] == [b"68fd1e64", None, "é".encode()]
    assert "split" not in events[0] and detection.conventions(str(tmp_path)) == {
        "schema": "criteo",
        "label": {"column": "label"},
    }


def test_users_are_blocks_of_rows_and_the_item_is_one(tmp_path):
    (tmp_path / "train.txt").write_text(lines(*[(0, number, "a") for number in range(2500)]))
    events = read(tmp_path, block_bytes=4000)[0]["events"]
    assert [row["row"] for row in events] == list(range(2500))
    assert {row["item_id"] for row in events} == {b"any"}
    users = [row["user_id"] for row in events]
    assert users == [b"rows 0-999"] * 1000 + [b"rows 1000-1999"] * 1000 + [b"rows 2000-2999"] * 500


def test_files_are_the_parts_of_the_split(tmp_path):
    (tmp_path / "train.csv").write_text(lines((0,), (1,)))
    (tmp_path / "dev.csv").write_text(lines((1,)))
    with gzip.open(tmp_path / "test.csv.gz", "wt") as file:
        file.write(lines((0,)))
    events = read(tmp_path)[0]["events"]
    assert [row["split"] for row in events] == [b"train", b"train", b"valid", b"test"]
    assert detection.conventions(str(tmp_path))["split"] == "predefined"


def test_bad_rows_are_named_and_counted(tmp_path):
    good = impression(1, 3, "a")
    write(
        tmp_path,
        train__txt="\n".join(
            [good, good + "\tmore", impression("yes"), impression(""), impression(0, "many"), good]
        )
        + "\n",
    )
    found, rejects = read(tmp_path)
    # The row without a label is read, and left out where labels are learnt.
    assert [row["label"] for row in found["events"]] == [1, None, 0, 1]
    assert found["events"][2]["I1"] is None
    (count, line, received) = rejects["events", "label is not a number"]
    assert (count, line) == (1, 3) and "yes" in received
    assert sum(count for count, _, _ in rejects.values()) == 2
    (source, *_) = detection.plan(str(tmp_path))
    assert readers.parse(source, next(readers.blocks(source))).unreadable == {"I1": 1}


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"train.txt": lines((1,)), "test.txt": "\t".join(["1"] * 39) + "\n"},
            "test.txt, line 1: required: 40 values.*received: 39.*without labels",
        ),
        (
            {"train.txt": lines((1,)), "test.txt": lines((1,), header=True)},
            "a header in all files or in none",
        ),
        ({"train.txt": lines((1,)), "test.txt": lines((1,), delimiter=",")}, "one delimiter"),
        ({"train.txt": lines((1,)), "test.txt": ""}, "test.txt, line 1: required: 40 values"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        detection.plan(str(tmp_path))


def test_the_sample_with_its_own_parts(shared_dir, tmp_path):
    source = shared_dir / "data" / "ctr_criteo_sample"
    reports = standalone.read_tables(str(source), output=str(tmp_path / "tables"))
    assert reports["events"]["read"] == reports["events"]["kept"] == 8000
    standalone.build_examples(
        str(tmp_path / "tables"),
        str(tmp_path),
        "score",
        "event",
        {"name": "predefined"},
        "criteo",
        {"column": "label"},
    )
    report = records.read_json(str(tmp_path / "examples" / "report.json"))
    assert {name: report["splits"][name]["rows"] for name in ("train", "valid", "test")} == {
        "train": 7200,
        "valid": 409,
        "test": 391,
    }
    assert set(EXAMPLE_SPLITS) <= set(report["splits"])
    schema = (tmp_path / "schema" / "schema.pbtxt").read_text()
    assert schema.count('tag: "log_scale"') == 13 and schema.count('tag: "anonymous"') == 2
