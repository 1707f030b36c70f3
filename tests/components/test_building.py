"""Tables and examples through Beam, as the components make them.

They are made on toy data and on MovieLens 100K.
"""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components import standalone
from components.build import splits
from components.build.checks import check_items
from components.build.config import EXAMPLE_SPLITS, BuildConfig, SplitConfig
from components.build.rows import Popularity
from components.build.splits import TEST, TRAIN, VALID, gather_facts, make_log
from components.check import rules
from components.check.config import Thresholds
from components.check.oddities import odd_values
from components.in_process import in_process_pipeline
from components.read import tables
from components.tables import artifacts, records, schemas
from components.tables.names import TABLES
from models.names.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def toy_tables(toy_source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    standalone.read_tables(str(toy_source), output=str(folder))
    return folder


@pytest.fixture(scope="module")
def movielens_tables(movielens_100k, tmp_path_factory):
    folder = tmp_path_factory.mktemp("movielens")
    standalone.read_tables(str(movielens_100k), output=str(folder))
    return folder


def rows_of(output, split):
    report = json.loads((output / "examples" / "report.json").read_text())
    return artifacts.read_split(str(output / "examples"), split, report["columns"][split])


def expected(shared_dir, name):
    return pd.read_csv(
        shared_dir / "data" / "splits" / name, sep="\t", dtype=str, keep_default_na=False
    )


def test_movielens_leave_one_out_is_the_peers_split_row_for_row(
    movielens_tables, shared_dir, tmp_path
):
    standalone.build_examples(str(movielens_tables), str(tmp_path), split={"name": "leave_one_out"})
    config = SplitConfig()
    events = artifacts.read_table(str(movielens_tables / "events"))
    log = make_log(events, config, gather_facts(events, config))
    assert (log.split == TRAIN).sum() == 98_114 == rows_of(tmp_path, "train").num_rows
    for split, part in (("valid", VALID), ("test", TEST)):
        wanted = expected(shared_dir, f"ml100k_loo_{split}.tsv").sort_values("user_id")
        mine = log.table.filter(log.split == part).to_pandas()
        assert mine["row"].tolist() == wanted["row"].astype(int).tolist()
        assert mine["timestamp"].tolist() == wanted["timestamp"].astype(int).tolist()
        queries = rows_of(tmp_path, split)
        assert queries.column("user_id").to_pylist() == [one.encode() for one in wanted["user_id"]]
        assert queries.column("targets").to_pylist() == [
            [one.encode()] for one in wanted["item_id"]
        ]


def test_movielens_random_90_10_is_the_peers_split(movielens_tables, shared_dir, tmp_path):
    split = {"name": "ratio", "seed": 42, "valid_fraction": 0, "test_fraction": 0.1}
    report = standalone.build_examples(
        str(movielens_tables), str(tmp_path), task="score", split=split
    )
    wanted = expected(shared_dir, "ml100k_rating90_test.tsv")
    test = rows_of(tmp_path, "test").to_pandas().sort_values("row")
    wanted = wanted.assign(row=wanted["row"].astype(int)).sort_values("row")
    assert test["row"].tolist() == wanted["row"].tolist()
    assert test["rating"].tolist() == wanted["rating"].astype(float).tolist()
    assert test["item_id"].tolist() == [one.encode() for one in wanted["item_id"]]
    assert report["splits"]["train"]["rows"] == 90_000 and report["splits"]["valid"]["rows"] == 0


def test_toy_end_to_end(toy_tables, toy_source, tmp_path):
    report = standalone.build_examples(str(toy_tables), str(tmp_path), schema="movielens")
    assert report["splits"]["train"] == {"rows": 60 * 7, "users": 60, "events": 60 * 7, "items": 40}
    assert [report["splits"][name]["rows"] for name in ("valid", "test", "items", "users")] == [
        60,
        60,
        40,
        60,
    ]
    times = [line.rsplit("\t")[-1] for line in (toy_source / "toy.inter").read_text().splitlines()]
    assert report["newest_event"] == max(map(int, times[1:]))
    train = rows_of(tmp_path, "train").to_pylist()
    awkward = next(row for row in train if row["item_id"] == "🎬 item".encode())
    assert (awkward["item_title"], awkward["item_year"], awkward["item_genres"]) == (
        b"Film 8",
        1988,
        [b"Comedy"],
    )
    users = {row["user_id"]: row for row in rows_of(tmp_path, "users").to_pylist()}
    for query in rows_of(tmp_path, "test").to_pylist():
        # Test: all but the last event are known; the whole log is only in the serving state.
        assert len(query["history"]) == 8 and query["exclude"] == []
        assert users[query["user_id"]]["history"] == query["history"] + query["targets"]
        assert query["user_age"] == users[query["user_id"]]["user_age"]
    schema = text_format.Parse(
        (tmp_path / "schema" / "schema.pbtxt").read_text(), schema_pb2.Schema()
    )
    features = {feature.name: feature for feature in schema.feature}
    assert list(features) == list(report["columns"]["train"])
    assert features["item_title"].HasField("natural_language_domain")
    assert (
        features["item_genres"].value_count.max == 0 and features["item_year"].value_count.max == 1
    )
    assert (
        features["item_year"].type == schema_pb2.INT and features["rating"].type == schema_pb2.FLOAT
    )


def test_shards_change_nothing_and_equal_input_gives_equal_rows_in_equal_order(
    toy_tables, tmp_path, monkeypatch
):
    for name, size in (("one", 10**6), ("two", 10**6), ("many", 100)):
        if name == "many":  # times are counted by spans
            monkeypatch.setattr(splits, "_SPANS", 4)
        report = standalone.build_examples(
            str(toy_tables),
            str(tmp_path / name),
            split={"name": "temporal", "candidates": "ncf99"},
            rows_a_shard=size,
        )
        assert report["shards"] == {"one": 1, "two": 1, "many": 6}[name]
        assert not list((tmp_path / name).rglob(".temporary"))
    for split in EXAMPLE_SPLITS:
        one, many = (
            sorted(map(repr, rows_of(tmp_path / name, split).to_pylist()))
            for name in ("one", "many")
        )
        assert one == many
        # Not the bytes: tf.Example is a map, whose order on disk the encoder does not promise.
        assert rows_of(tmp_path / "two", split).equals(rows_of(tmp_path / "one", split))


def test_lists_labels_and_empty_splits(toy_tables, tmp_path):
    standalone.build_examples(str(toy_tables), str(tmp_path / "p"), kind="profile")
    profile = rows_of(tmp_path / "p", "train").to_pylist()
    assert len(profile) == 60
    for row in profile:
        assert len(row["item_id"]) == len(row["rating"]) == len(row["timestamp"]) == 7
        assert row["timestamp"] == sorted(row["timestamp"])
    split = {"name": "ratio"}
    label = {"column": "rating", "threshold": 4}
    standalone.build_examples(
        str(toy_tables), str(tmp_path / "s"), task="score", split=split, label=label
    )
    scored = rows_of(tmp_path / "s", "test").to_pylist()
    assert {row["label"] for row in scored} == {0.0, 1.0}
    assert all(row["label"] == float(row["rating"] >= 4) for row in scored)
    assert {"activity", "popularity", "temperature", "item_title"} <= set(scored[0])
    with pytest.raises(DataError, match="lacks the column 'session_id'"):
        standalone.build_examples(
            str(toy_tables), str(tmp_path / "x"), kind="sequence", split={"sequence_by": "session"}
        )
    with pytest.raises(ConfigError, match="did you mean 'sequence'"):
        standalone.build_examples(str(toy_tables), str(tmp_path / "x"), kind="sequnce")


def test_more_items_than_the_model_can_take_are_refused_once_they_are_counted(tmp_path):
    """Each user's last two events are no train: of 5 items train has i and j, i more than once."""
    rows = ["u,i", "u,j", "u,k", "u,l", "v,i", "v,m", "v,k"]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    names = [str(tmp_path / "tables"), str(tmp_path / "e")]
    with pytest.raises(Exception, match="has 2 items with at least 1 .*at most 1, .*min_count"):
        standalone.build_examples(*names, schema="generic", most_items=1)
    standalone.build_examples(*names, schema="generic", most_items=2)
    counts = Popularity(np.array([b"i", b"j"], object), np.array([2, 1]))
    config = BuildConfig.parse(
        {"task": "retrieve", "kind": "event", "most_items": 1, "min_count": 2}
    )
    assert check_items(counts, config) is counts
    whole = config.model_copy(update={"most_items": 1, "min_count": 1, "everything": True})
    with pytest.raises(DataError, match="the catalogue of everything has 2 items"):
        check_items(counts, whole)


def test_a_log_that_cannot_be_split_is_an_error_that_says_so(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id\nu,i\nu,j\nv,i\n")
    reports = standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    assert (reports["items"]["kept"], reports["users"]["kept"]) == (0, 0)
    with pytest.raises(DataError, match="leaves test without queries.*3 train, 0 validation"):
        standalone.build_examples(str(tmp_path / "tables"), str(tmp_path / "e"), schema="generic")
    with pytest.raises(DataError, match="'timestamp', required by the split 'temporal'"):
        standalone.build_examples(
            str(tmp_path / "tables"),
            str(tmp_path / "e"),
            schema="generic",
            split={"name": "temporal"},
        )


def test_too_many_rejected_rows_stop_the_run_and_few_are_counted(tmp_path):
    good = "".join(f"u{number},i{number % 7},3\n" for number in range(300))
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,rating\n" + good + "u,,3\nu,i,bad\nu,i,worse\n"
    )
    reports = standalone.read_tables(
        str(tmp_path), output=str(tmp_path / "t"), max_rejected_share=0.01
    )
    assert (reports["events"]["read"], reports["events"]["kept"]) == (303, 300)
    rejected = reports["events"]["rejected"]["rating is not a number"]
    assert (rejected["count"], rejected["line"], rejected["received"]) == (2, 303, "'bad'")
    assert "1 empty item_id, 2 rating is not a number" in tables.summary(reports)
    with pytest.raises(DataError) as raised:
        standalone.read_tables(str(tmp_path), output=str(tmp_path / "t2"), max_rejected_share=0.005)
    for part in ("3 of 303 rows", "data.max_rejected_share", "events.csv, line 303: 'bad'"):
        assert part in str(raised.value)


def test_a_damaged_shard_is_named(toy_tables, tmp_path):
    path = tmp_path / "data_tfrecord-00000.gz"
    records.write_records([b"a record", b"another"], str(tmp_path), 0)
    whole = path.read_bytes()
    for damaged in (
        gzip.compress(b"\x10\0\0\0\0\0\0\0abcd"),  # no record
        whole[:-9],  # cut off
        whole[:10] + b"\xff" + whole[11:],  # packed in a way that gzip does not have
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="data_tfrecord-00000.gz is damaged"):
            list(records.read_records(str(path)))


def test_the_fingerprint_follows_the_contents(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id\nu,i\n")
    first = tables.fingerprint(str(tmp_path))
    assert first == tables.fingerprint(str(tmp_path))
    (tmp_path / "events.csv").write_text("user_id,item_id\nu,j\n")
    assert first != tables.fingerprint(str(tmp_path))


def run_check(folder, output, anomalies=None, **thresholds):
    return rules.check(
        in_process_pipeline,
        {table: str(folder / table) for table in TABLES},
        str(output),
        Thresholds.parse(thresholds),
        now=1_000_000_000,
        anomalies=anomalies,
        schemas=schemas.read_schemas(schemas.schema_folder("movielens")),
    )


@pytest.fixture(scope="module")
def faulty_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    lines = [f"u{number},i{number % 5},3,{900_000_000 + number}" for number in range(20)]
    lines += [lines[3], "u1,i1,9,2000000000", "u2,ghost,3,900000500"]
    (folder / "events.csv").write_text(
        "user_id,item_id,rating,timestamp\n" + "\n".join(lines) + "\n"
    )
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f"i{number},t\n" for number in (0, 1, 2, 3, 4, 4))
    )
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    return folder / "tables"


def test_checks_name_table_column_rows_reason_and_key(faulty_tables, tmp_path):
    with pytest.raises(DataError) as raised:
        run_check(
            faulty_tables,
            tmp_path / "a",
            max_duplicate_share=0,
            max_unknown_item_share=0,
            min_user_events=2,
            max_users_under_minimum_share=0.5,
        )
    for part in (
        "events.user_id, item_id, timestamp: 1 duplicate events of 23 (4.35%); for example row 20 "
        "(line 22 of events.csv)",
        "check.max_duplicate_share",
        "events.timestamp: 1 events in the future",
        "row 21 (line 23 of events.csv): timestamp 2000000000",
        "events.item_id: 1 events on items that the items table does not have",
        "user u2, item ghost",
        "events.user_id: 17 users with fewer events than check.min_user_events of 20",
        "items.item_id: 1 rows with an id that came before of 6",
        "check.max_duplicate_id_share",
    ):
        assert part in str(raised.value)
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert len(report["failures"]) == 5
    allowed = run_check(
        faulty_tables,
        tmp_path / "b",
        max_duplicate_share=0.1,
        max_future_share=0.1,
        max_duplicate_id_share=0.5,
    )
    assert not allowed["failures"] and len(allowed["notes"]) == 4
    with pytest.raises(ConfigError, match="did you mean 'min_user_events'"):
        Thresholds.parse({"min_user_event": 3})


def test_ids_that_stand_for_none_and_users_of_another_table_are_named(tmp_path):
    """`NA` was an item like others, and 0.0 a user whom a table of 0, 1, .. was about."""
    lines = ["u1,NA", "u2,i1", "null,i2", "u3,Nan", "u4,i3", "u5,nane", "u6,None", "u7,N", "u8,i1"]
    (tmp_path / "events.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("item_id,color\nNULL,red\n")
    users = "".join(f"{name}\n" for name in ("u1", "u2", "u9", "<NA>"))
    (tmp_path / "users.csv").write_text(f"user_id\n{users}")
    standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    with pytest.raises(DataError) as raised:
        run_check(tmp_path / "tables", tmp_path / "a", max_unknown_item_share=1)
    for part in (
        # Of 9 events those of u1, null, u3 and u6.
        "events.user_id, item_id: 4 events with an id that stands for none of 9 (44.44%); for "
        "example row 0 (line 2 of events.csv): user u1, item NA; row 2",
        "items.item_id: 1 rows with an id that stands for none of 1 (100.00%); for example id NULL",
        "users.user_id: 1 rows with an id that stands for none of 4",
        "(check.max_no_id_share)",
        # Only u1 and u2 are in the table.
        "events.user_id: 7 events of users whom the users table does not have of 9 (77.78%)",
        "(check.max_unknown_user_share)",
    ):
        assert part in str(raised.value)
    lenient = {f"max_{name}_share": 1 for name in ("no_id", "unknown_user", "unknown_item")}
    report = run_check(tmp_path / "tables", tmp_path / "b", **lenient)
    assert len(report["notes"]) == 5 and not report["failures"]


def test_lines_are_told_where_a_rows_number_tells_them(tmp_path):
    """Not behind a line break in quotes, where row 1 is on line 4."""
    (tmp_path / "events.csv").write_text('user_id,item_id,note\nu1,i1,"a\nb"\nu2,NA,c\n')
    standalone.read_tables(str(tmp_path), output=str(tmp_path / "tables"))
    with pytest.raises(DataError, match="example row 1: user u2, item NA"):
        run_check(tmp_path / "tables", tmp_path / "a")


def test_a_bound_of_nought_is_one():
    schema = text_format.Parse(
        'feature { name: "age" type: INT int_domain { min: 0 max: 9 } } '
        'feature { name: "debt" type: FLOAT float_domain { max: 0 } }',
        schema_pb2.Schema(),
    )
    columns = {"age": pa.array([-3, 7]), "debt": pa.array([-1.0, 2.0], pa.float32())}
    odd = odd_values(pa.table(columns), schema, np.arange(2))
    assert {name: [one["received"] for one in shown] for name, shown in odd.items()} == {
        "age": [-3],
        "debt": [2.0],
    }


def test_without_a_table_of_users_nobody_is_unknown(faulty_tables, tmp_path):
    lenient = {"max_duplicate_share": 0.1, "max_future_share": 0.1, "max_duplicate_id_share": 0.5}
    assert "unknown_users" not in run_check(faulty_tables, tmp_path, **lenient)["checks"]


def test_an_anomaly_of_tfdv_stops_the_run_and_a_new_column_is_a_note(faulty_tables, tmp_path):
    anomalies = anomalies_pb2.Anomalies()
    new = anomalies.anomaly_info["mood"]
    new.short_description = "New column"
    new.reason.add(type=anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN)
    path = tmp_path / "new.pb"
    path.write_bytes(anomalies.SerializeToString())
    lenient = {"max_duplicate_share": 0.1, "max_future_share": 0.1, "max_duplicate_id_share": 0.5}
    assert any(
        "mood" in note
        for note in run_check(faulty_tables, tmp_path, {"events": str(path)}, **lenient)["notes"]
    )
    bad = anomalies.anomaly_info["rating"]
    bad.short_description, bad.description = "Out-of-range values", "Unexpectedly high value: 9."
    bad.reason.add(type=anomalies_pb2.AnomalyInfo.FLOAT_TYPE_BIG_FLOAT)
    path.write_bytes(anomalies.SerializeToString())
    with pytest.raises(DataError) as raised:
        run_check(faulty_tables, tmp_path, {"events": str(path)}, **lenient)
    for part in (
        "events.rating: Out-of-range values",
        "row 21 (line 23 of events.csv): 9.0",
        "allowed_anomalies: [events.rating]",
    ):
        assert part in str(raised.value)
    run_check(
        faulty_tables,
        tmp_path,
        {"events": str(path)},
        allowed_anomalies=["events.rating"],
        **lenient,
    )


@pytest.mark.parametrize("folder", ["movielens", "generic"])
def test_the_curated_schemas_say_what_the_flow_needs(folder):
    read = schemas.read_schemas(schemas.schema_folder(folder))
    for schema in read.values():
        assert set(schema.default_environment) == {"TRAINING", "SERVING"}
    events = {feature.name: feature for feature in read["events"].feature}
    assert {name for name, one in events.items() if "SERVING" in one.not_in_environment} >= {
        "rating",
        "timestamp",
    }
    for name in ("user_id", "item_id"):
        assert not events[name].domain and events[name].HasField("drift_comparator")
        assert events[name].HasField("skew_comparator") and events[name].presence.min_fraction == 1
    items = {feature.name: feature for feature in read["items"].feature}
    assert (
        items["title"].HasField("natural_language_domain") and items["genres"].value_count.max > 1
    )
    with pytest.raises(ConfigError, match="events.pbtxt is missing"):
        schemas.schema_folder("nowhere")


def test_codec_keeps_nulls_empty_lists_and_bytes(tmp_path):
    import pyarrow as pa

    from components.tables.columns import BYTES, BYTES_LIST, FLOAT, INT, arrow_type

    columns = {"a": BYTES, "b": INT, "c": FLOAT, "d": BYTES_LIST, "e": INT}
    values = {
        "a": [b"\xff\x00", None, b""],
        "b": [2**62, None, -1],
        "c": [None, 0.5, np.float32(0.1)],
        "d": [[b"x", b""], [], [b"y"]],
        "e": [None, None, None],
    }
    table = pa.table(
        [pa.array(values[name], arrow_type(kind)) for name, kind in columns.items()],
        names=list(columns),
    )
    records.write_table(table, str(tmp_path / "Split-all"), 0)
    (part,) = records.read_batches(str(tmp_path / "Split-all" / "data_tfrecord-00000.gz"), columns)
    assert part.equals(table)


def test_the_given_split_of_a_file_goes_through_beam(toy_tables, tmp_path):
    events = artifacts.read_table(str(toy_tables / "events")).to_pylist()
    first = {row["user_id"]: row["item_id"] for row in reversed(events)}
    file = tmp_path / "given.tsv"
    lines = [b"%s\t%s\ti1 i2" % pair for pair in first.items()]
    file.write_bytes(b"\n".join([b"user_id\titem_id\tcandidates", *lines]))
    split = {"name": "given", "file": str(file)}
    standalone.build_examples(str(toy_tables), str(tmp_path / "e"), split=split)
    queries = rows_of(tmp_path / "e", "test").to_pylist()
    assert {row["user_id"]: row["targets"] for row in queries} == {
        user: [item] for user, item in first.items()
    }
    assert queries[0]["candidates"] == [b"i1", b"i2"]
    report = json.loads((tmp_path / "e" / "examples" / "report.json").read_text())
    assert report["given"] == {"named": 60, "missing": 0, "first": []}
    # Two events that the log lacks, of 62: a stranger, and an item that nobody knows.
    file.write_bytes(file.read_bytes() + b"\nstranger\ti1\t\nu1\tno item\t\n")
    names = (str(toy_tables), str(tmp_path / "f"))
    with pytest.raises(DataError, match="2 of the 62 events .*user stranger, item i1; user u1, it"):
        standalone.build_examples(*names, split=split, rows_a_shard=100)
    allowed = {**split, "max_missing_share": 0.04}
    report = standalone.build_examples(*names, split=allowed, rows_a_shard=100)
    assert report["given"]["missing"] == 2 and report["splits"]["test"]["rows"] == 60
    with pytest.raises(DataError, match="split.file: .*nothing.tsv is missing"):
        split = {"name": "given", "file": str(tmp_path / "nothing.tsv")}
        standalone.build_examples(str(toy_tables), str(tmp_path / "e"), split=split)
