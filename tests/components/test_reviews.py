"""Amazon reviews and item text as they are read, and the documents built of reviews."""

import gzip
import json

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components import standalone
from components.build import documents
from components.read import readers, times
from components.read.layouts import detection
from components.tables import artifacts
from models.names.errors import DataError
from models.names.features import text_columns

USERS, ITEMS = 12, 9


def review(user, item, rating=5.0, text="good", time=1_500_000_000):
    return {
        "reviewerID": user,
        "asin": item,
        "overall": rating,
        "reviewText": text,
        "unixReviewTime": time,
        "summary": "never read",
    }


def write(path, rows):
    data = "".join(
        (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(data)
    return path


def events_of(folder, block_bytes=200):
    """The rows of the table events, as the reader alone gives them, and the rejects by reason."""
    source = detection.plan(str(folder))[0]
    parsed = [readers.parse(source, block) for block in readers.blocks(source, block_bytes)]
    return [row for part in parsed for row in part.table.to_pylist()], [
        part.rejects for part in parsed
    ]


@pytest.mark.parametrize("name", ["reviews.json", "Some_5.jsonl.gz"])
def test_reviews_are_read_whatever_is_missing(tmp_path, name):
    # A name with a blank and an accent, a whole number for a rating, no text, and no time of day;
    # blank lines are no rows.
    rows = [
        review("ü 1", "i,1", 4, 'a "b"\nc'),
        review("u2", "i2", 3.5, None),
        "",
        review("u3", "i3", 1.0, ""),
    ]
    write(tmp_path / name, rows)
    read, _ = events_of(tmp_path)
    assert detection.detect(str(tmp_path)) == "amazon"
    assert [row["user_id"].decode() for row in read] == ["ü 1", "u2", "u3"]
    assert [row["rating"] for row in read] == [4.0, 3.5, 1.0] and read[0][
        "timestamp"
    ] == 1_500_000_000
    assert [row["review"] for row in read] == [b'a "b"\nc', None, None]


def test_bad_lines_are_named_and_counted(tmp_path):
    good = [review(f"u{n}", f"i{n % 3}") for n in range(40)]
    bad = [
        '{"reviewerID": "u", ',
        '["a", "list"]',
        review("", "i1"),
        {"reviewerID": "u", "asin": "i"},
        review("u", "i", time="never"),
    ]
    write(tmp_path / "reviews.json", [*good, *bad, "not json either"])
    reports = standalone.read_tables(
        str(tmp_path), output=str(tmp_path / "out"), max_rejected_share=0.2
    )
    report = reports["events"]
    assert (report["read"], report["kept"]) == (46, 40)
    # 40 good lines come before the first bad one, which is line 41.
    found = {reason: (one["count"], one["line"]) for reason, one in report["rejected"].items()}
    assert found == {
        "not JSON": (2, 41),
        "not a JSON object": (1, 42),
        "empty user_id": (1, 43),
        # The first of them lacks a rating as well, which is no fault.
        times.UNREADABLE: (2, 44),
    }
    with pytest.raises(DataError, match="6 of 46 rows had to be rejected"):
        standalone.read_tables(str(tmp_path), output=str(tmp_path / "strict"))


def test_rows_are_the_same_however_the_file_is_cut(tmp_path):
    write(tmp_path / "r.json.gz", [review(f"u{n}", "i", text="x" * n) for n in range(30)])
    source = detection.plan(str(tmp_path))[0]
    whole = [readers.parse(source, block).table.to_pylist() for block in readers.blocks(source)]
    parts = [
        readers.parse(source, block).table.to_pylist() for block in readers.blocks(source, 300)
    ]
    assert len(parts) > 5 and [row for part in parts for row in part] == whole[0]
    assert [row["row"] for row in whole[0]] == list(range(30))


def test_items_have_the_text_of_the_meta_file(tmp_path):
    write(tmp_path / "reviews.json", [review("u", "i1")])
    meta = {
        "asin": "i1",
        "title": "A card",
        "description": ["One.", "Two."],
        "brand": "",
        "main_cat": "Cards",
        "price": "$1",
        "also_buy": ["i2"],
    }
    write(tmp_path / "meta_cards.json.gz", [meta, {"asin": "i2", "title": "B"}])
    _, items, users = detection.plan(str(tmp_path))
    block = next(readers.blocks(items))
    assert readers.parse(items, block).table.to_pylist() == [
        {
            "item_id": b"i1",
            "title": b"A card",
            "description": b"One. Two.",
            "brand": None,
            "category": b"Cards",
        },
        {"item_id": b"i2", "title": b"B", "description": None, "brand": None, "category": None},
    ]
    assert not users.files


def test_keys_can_be_called_otherwise(tmp_path):
    write(tmp_path / "mine.jsonl", [{"who": "u", "what": "i", "stars": 2, "words": "so so"}])
    columns = {
        "events": {"user_id": "who", "item_id": "what", "rating": "stars", "review": "words"}
    }
    source = detection.plan(str(tmp_path), "amazon", columns)[0]
    parsed = readers.parse(source, next(readers.blocks(source)))
    # There is no time, so the table has none.
    assert parsed.table.to_pylist() == [
        {"user_id": b"u", "item_id": b"i", "rating": 2.0, "review": b"so so", "row": 0}
    ]
    with pytest.raises(
        DataError,
        match="no file of reviews; required: JSON lines with reviewerID and asin.*"
        "received: mine.jsonl: stars",
    ):
        detection.plan(str(tmp_path), "amazon")


def test_gift_cards_and_fashion_are_read_whole(shared_dir):
    for folder, rows, users, items in (
        ("review_gift_cards", 2972, 458, 148),
        ("review_fashion", 3176, 406, 31),
    ):
        read, rejects = events_of(shared_dir / "data" / folder, readers.BLOCK_BYTES)
        assert not any(rejects)
        assert (
            len(read),
            len({row["user_id"] for row in read}),
            len({row["item_id"] for row in read}),
        ) == (rows, users, items)


def test_a_table_of_items_with_a_plot_is_text(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,rating\n" + "".join(f"u{n % 9},i{n % 7},{n % 5 + 1}\n" for n in range(200))
    )
    (tmp_path / "items.csv").write_text(
        'item_id,plot\ni0,"A man, a plan,\na canal."\ni1,Two men.\n'
    )
    standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    standalone.build_examples(
        str(tmp_path / "tables"),
        str(tmp_path),
        "score",
        split={"name": "ratio"},
        schema="generic",
        label={"column": "rating"},
    )
    schema = text_format.Parse(
        (tmp_path / "schema" / "schema.pbtxt").read_text(), schema_pb2.Schema()
    )
    plot = next(column for column in schema.feature if column.name == "item_plot")
    assert plot.HasField("natural_language_domain")
    report = json.loads((tmp_path / "examples" / "report.json").read_text())
    train = artifacts.read_split(
        str(tmp_path / "examples"), "train", report["columns"]["train"]
    ).to_pylist()
    assert {row["item_plot"] for row in train} == {b"A man, a plan,\na canal.", b"Two men.", None}
    items = schema_pb2.Schema()
    items.feature.add(name="plot").natural_language_domain.SetInParent()
    assert text_columns(items, schema_pb2.Schema(), schema_pb2.Schema()) == ["item_plot"]


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    """A log in which every review is one word that no other has, `w<row>`.

    Every tenth review is missing; one event has no rating.
    """
    folder = tmp_path_factory.mktemp("reviewed")
    pairs = [(user, (user * 5 + step) % ITEMS) for step in range(7) for user in range(USERS)]
    lines = [
        f"u{user}\ti{item}\t{(user + item) % 5 + 1}\t"
        f"{1000 + 7 * n % 50}\t{f'w{n}' if n % 10 else ''}"
        for n, (user, item) in enumerate(pairs)
    ]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\treview:token_seq"
    (folder / "log.inter").write_text("\n".join([header, *lines]) + "\n")
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    return folder


def build(reviewed, output, **more):
    settings = {
        "split": {"name": "ratio", "valid_fraction": 0.2, "test_fraction": 0.2},
        "schema": "generic",
        "label": {"column": "rating"},
    }
    report = standalone.build_examples(
        str(reviewed / "tables"), str(output), "score", **{**settings, **more}
    )
    splits = {
        name: artifacts.read_split(
            str(output / "examples"), name, report["columns"][name]
        ).to_pylist()
        for name in ("train", "valid", "test", "users", "items")
    }
    return report, splits


@pytest.mark.parametrize("rows_a_shard", [500_000, 20])
def test_no_review_from_outside_of_train_reaches_a_document(reviewed, tmp_path, rows_a_shard):
    report, splits = build(reviewed, tmp_path, rows_a_shard=rows_a_shard)
    assert (report["shards"] > 2) == (rows_a_shard == 20)  # of 84 events
    log = {
        row["row"]: row
        for row in artifacts.read_table(str(reviewed / "tables" / "events")).to_pylist()
    }
    written = {row["review"] for row in splits["train"] if row["review"]}
    assert 30 < len(written) < len(splits["train"])
    for entity, other in (("user", "item"), ("item", "user")):
        rows = splits[f"{entity}s"]
        assert (
            len({row[f"{entity}_id"] for row in rows})
            == len(rows)
            == (USERS if entity == "user" else ITEMS)
        )
        words = [word for row in rows for word in row[f"{entity}_document"]]
        # Each review of train once, and no other: that of a validation or test row is in neither
        # document of anybody.
        assert sorted(words) == sorted(written)
        for row in rows:
            events = [log[int(word[1:])] for word in row[f"{entity}_document"]]
            assert all(event[f"{entity}_id"] == row[f"{entity}_id"] for event in events)
            assert [event[f"{other}_id"] for event in events] == row[f"{entity}_document_{other}"]
            times = [(event["timestamp"], event["row"]) for event in events]
            assert times == sorted(times, reverse=True)
    # What is written after the fact is not there when a prediction is measured.
    assert "review" not in splits["valid"][0] and "review" not in splits["test"][0]
    assert not any(
        name.endswith(("document", "document_item")) for name in report["columns"]["train"]
    )


def test_only_score_runs_make_documents(reviewed, tmp_path):
    report = standalone.build_examples(
        str(reviewed / "tables"), str(tmp_path), "retrieve", schema="generic"
    )
    assert not any(
        name.count("document") for split in ("users", "items") for name in report["columns"][split]
    )


def test_old_reviews_of_a_long_document_are_left_out_and_counted(reviewed, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST", 2)
    report, splits = build(reviewed, tmp_path)
    lengths = [len(row["user_document"]) for row in splits["users"]]
    assert max(lengths) == 2
    monkeypatch.undo()
    full = [row["user_document"] for row in build(reviewed, tmp_path / "full")[1]["users"]]
    assert [row["user_document"] for row in splits["users"]] == [document[:2] for document in full]
    assert (
        sum(report["dropped"]["users"].values())
        == sum(len(document) - 2 for document in full if len(document) > 2)
        > 0
    )


def test_a_column_called_as_a_document_is_refused(reviewed, tmp_path):
    (tmp_path / "log.inter").write_text((reviewed / "log.inter").read_text())
    (tmp_path / "log.item").write_text("item_id:token\tdocument:token_seq\ni0\tmine\n")
    standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    with pytest.raises(
        DataError,
        match="the table items has a column 'document'.*rename it with data.columns.items",
    ):
        build(tmp_path, tmp_path / "out")
