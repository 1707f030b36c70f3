"""What a run says before TensorFlow, TFX and Beam are imported, and how soon."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.names.errors import ConfigError, DataError
from pipeline import config, preflight
from tests.conftest import ROOT

HEAVY = ("tensorflow", "tfx", "apache_beam", "ml_metadata", "tfx_bsl")
RUN = f"""
import json, sys, time
from pipeline.cli import main
code = 0
try:
    main(sys.argv[1:], standalone_mode=False)
except SystemExit as error:
    code = error.code
print(json.dumps([code, [one for one in {HEAVY} if one in sys.modules], time.process_time()]))
"""


def write(folder, events, **tables):
    for name, text in {"events": events, **tables}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def log(rows=60, **columns):
    """Events of 6 users and 10 items, one a second; `columns` are functions of the row's number."""
    lines = [",".join(["user_id", "item_id", "timestamp", *columns])]
    for row in range(rows):
        values = [f"u{row % 6}", f"i{row % 10}", 1_600_000_000 + row]
        lines.append(",".join(map(str, [*values, *(made(row) for made in columns.values())])))
    return "\n".join(lines) + "\n"


def check(folder, model="popularity", **overrides):
    """Returns what is said; overrides have `__` for a dot."""
    said = []
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    run = config.load(None, {"model": model, "data.source": str(folder), **keys})
    preflight.check(run, said.append)
    return said


CLICKS = log(click=lambda row: row % 2)
ITEMS = "item_id,price\n" + "".join(f"i{one},{one}.5\n" for one in range(10))


@pytest.mark.parametrize(
    "model, events, settings, message",
    [
        ("popularity", CLICKS, ["bogus=1"], "popularity has no hyper-parameter 'bogus'"),
        ("two_tower", CLICKS, ["epoch=1"], "did you mean 'epochs'"),
        ("two_tower", CLICKS, ["epochs=0"], "epochs: Value error, must be at least 1"),
        ("lr", CLICKS, ["label.column=clik"], "lacks the column 'clik', required by label.column"),
        (
            "lr",
            log(click=lambda row: row % 3),
            ["label.column=click"],
            "required: 0 and 1 (or -1 and 1, or false and true)",
        ),
        ("popularity", CLICKS, ["data.columns.types.item_color=number"], "item_color"),
        ("ease", CLICKS, ["max_items=9"], "the catalogue has 10 items"),
        ("popularity", "user,item\na,b\n", [], "the column 'user_id' of the table events"),
        ("bpr_mf", CLICKS, ["factors=100000000", "room.memory=8Gi"], "want about 45.85 GiB"),
    ],
    ids=["name", "near", "value", "column", "label", "type", "size", "header", "room"],
)
def test_a_fault_is_said_before_anything_heavy_is_imported(
    tmp_path, model, events, settings, message
):
    """In less than 2 s of a processor; the imports alone take 10."""
    data = write(tmp_path, events, items=ITEMS)
    options = [part for one in settings for part in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN]
        + ["run", model, "--data", str(data), "--output", str(tmp_path / "runs"), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert message in done.stderr
    code, imported, seconds = json.loads(done.stdout.splitlines()[-1])
    assert (code, imported) == (1, []) and seconds < 2
    assert "take a while to load" not in done.stdout


def test_nothing_heavy_is_imported_for_a_bundle_that_cannot_be(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN]
        + ["bundle", "--recall", "two_tower", "--output", str(tmp_path), "--slice", "activty"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "did you mean 'activity'" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[:2] == [1, []]


@pytest.mark.parametrize(
    "model, overrides, message",
    [
        ("popularity", {"split__name": "last_days"}, "'session_id', required by the split"),
        ("popularity", {"split__name": "predefined"}, "'split', required by the split"),
        ("emcdr", {"split__name": "ratio"}, "emcdr needs split.name: cross_domain"),
        ("emcdr", {}, "'domain', required by the split 'cross_domain'"),
        ("gru4rec", {"split__sequence_by": "session"}, "'session_id', required by split.seq"),
        ("popularity", {"filters__min_session_events": 2}, "required by filters.min_session"),
        ("popularity", {"positives__column": "kind", "positives__values": ["x"]}, "'kind'"),
        ("popularity", {"positives__column": "click", "positives__values": ["2"]}, "no '2'"),
        (
            "item2vec",
            {"positives__column": "click", "positives__values": {"1": 1, "0": 0.5}},
            "item2vec needs rows that weigh the same: .*; received: positives.values: .*0.5",
        ),
        ("popularity", {"gate__slices": ["activty"]}, "did you mean 'activity'"),
        ("two_tower", {"features__context": ["click"]}, "two_tower reads no context"),
        ("youtube_candidates", {"features__context": ["device"]}, "required by features.context"),
        ("two_tower", {"hyper_parameters__segment": "user_age"}, "no column 'user_age'"),
        ("two_tower", {"hyper_parameters__monitor": "auc_3"}, "auc_3"),
        ("yahoo_news", {}, "yahoo_news needs a column of the table items"),
        ("deepconn", {"label__column": "click"}, "deepconn needs a column 'review'"),
        ("autorec", {"label__column": "click", "label__threshold": 1}, "autorec needs a label of"),
        ("autorec", {"label__column": "click", "label__weight": "click"}, "needs rows that weigh"),
        ("lr", {"label__column": "click", "label__group": "page"}, "required by label.group"),
        ("lr", {"label__column": "click", "gate__slices": ["item_colour"]}, "no column 'item_col"),
        ("lr", {"label__column": "click", "hyper_parameters__list_loss": "softmax"}, "label.group"),
        (
            "lr",
            {"label__column": "click", "features__point_in_time": ["click"]},
            "point_in_time",
        ),
        ("ease", {"warm_start": True}, "ease has no use for 'warm_start'"),
        ("popularity", {"split__drop_repeats": False}, "filter_seen: true takes them out"),
        ("popularity", {"data__columns__types__price": "category"}, "items.price: data.schema"),
    ],
)
def test_what_the_header_and_the_run_tell_is_refused(tmp_path, model, overrides, message):
    with pytest.raises((ConfigError, DataError), match=message):
        check(write(tmp_path, CLICKS, items=ITEMS), model, **overrides)


def test_a_curated_schema_is_held_against_the_columns(tmp_path):
    data = write(tmp_path, CLICKS, items=ITEMS)
    wanted = {"data__columns__types__price": "category"}
    assert check(data, **wanted, check__allowed_anomalies=["items.price"])
    with pytest.raises(DataError, match=r"items.price: data.schema requires float; received: byte"):
        check(data, **wanted)


def test_labels_of_a_log_within_the_first_rows_are_judged_as_the_build_does(tmp_path):
    with pytest.raises(DataError, match="all 48 labels of train are 0"):  # of 60, a fifth held out
        check(write(tmp_path, log(click=lambda row: 0)), "lr", label__column="click")


def test_of_a_longer_log_what_the_first_rows_show_is_said(tmp_path):
    """5,000 events are looked at: nothing after them can mend a label of 7, but a constant."""
    rare = log(6_000, click=lambda row: int(row == 5_500))
    said = check(write(tmp_path, rare), "lr", label__column="click")
    assert said[-1] == "  label: those of the first 5,000 events are all 0"
    said = check(tmp_path, "ease", hyper_parameters__max_items=9)
    assert said[-1].startswith("  items: the first 5,000 events alone have 10, and the model takes")
    positives = {"positives__column": "click", "positives__values": ["1"]}
    said = check(tmp_path, **positives)
    assert said[-1] == "  positives.values: the first 5,000 events have no click '1'; known: 0"
    with pytest.raises(DataError, match=r"the first '7' in row 40.*\(of the first 5,000 events\)$"):
        check(
            write(tmp_path, log(6_000, click=lambda row: 7 if row == 40 else row % 2)),
            "lr",
            label__column="click",
        )


def test_rejected_rows_are_refused_or_said(tmp_path):
    bad = log().replace("16000000", "16/11/20 ")
    with pytest.raises(DataError, match="60 of 60 rows had to be rejected"):
        check(write(tmp_path, bad))
    bad = log(6_000).replace("160000", "16/11/20 ")
    said = check(write(tmp_path, bad))
    assert "5,000 of the first 5,000 rows will be rejected" in said[-1]


def test_a_log_without_an_event_is_refused(tmp_path):
    with pytest.raises(DataError, match="the table events has no rows"):
        check(write(tmp_path, "user_id,item_id\n"))
    said = check(write(tmp_path, "user_id,item_id\n ,i\n"), data__max_rejected_share=1)
    # That nothing is left the reader says once it has read all.
    assert said[:-1] == ["  events (events.csv): ids alone"]


def test_of_parquet_no_more_than_the_first_rows_are_read(tmp_path):
    rows = 20_000
    table = {"user_id": ["u"] * rows, "item_id": [f"i{row}" for row in range(rows)]}
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    said = check(tmp_path, "ease", hyper_parameters__max_items=4_999)
    assert said[-1].startswith("  items: the first 5,000 events alone have 5,000")


def test_a_log_without_times_is_said_to_be_in_the_order_of_its_rows(tmp_path):
    timed = check(write(tmp_path, log()))
    untimed = [line.rsplit(",", 1)[0] for line in log().splitlines()]
    said = check(write(tmp_path, "\n".join(untimed) + "\n"))
    order = "split leave_one_out: the log has no times: the order of its rows is taken for it"
    assert order in said and order not in timed
    assert [any("later" in line for line in lines) for lines in (timed, said)] == [True, False]
    assert not any(line.startswith("split") for line in check(tmp_path, split__name="ratio"))


def test_the_file_of_the_split_given_is_looked_for_before_anything_starts(tmp_path):
    with pytest.raises(DataError, match="split.file: .*none.tsv is missing"):
        file = str(tmp_path / "none.tsv")
        check(write(tmp_path, log()), split__name="given", split__file=file)
