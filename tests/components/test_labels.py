"""What a column of clicks or ratings may hold, what is made of it, and what is said of the rest."""

import pyarrow as pa
import pytest

from components.build import labels
from components.build.config import SplitConfig
from components.build.splits import TEST, TRAIN, UNUSED, gather_facts, make_log
from components.read import readers
from components.read.layouts import detection
from models.names.errors import ConfigError, DataError
from models.names.label import Label
from pipeline import config

CLICK = Label(column="click").learnt_by("click")


def log_of(values, kind=None, name="click"):
    """One user whose last event is test (and no validation): leave_one_out."""
    table = pa.table(
        {
            "user_id": pa.array([b"u"] * len(values), pa.large_binary()),
            "item_id": pa.array([b"%d" % row for row in range(len(values))], pa.large_binary()),
            name: pa.array(values, kind or pa.float32()),
            "row": pa.array(range(len(values)), pa.int64()),
        }
    )
    split = SplitConfig(valid_fraction=0)
    return make_log(table, split, gather_facts(table, split))


def made(values, label=CLICK, kind=None):
    log, found = labels.with_label(log_of(values, kind), label)
    labels.check(labels.merge([found]), label)
    return log.table.column("label").to_pylist(), log


@pytest.mark.parametrize(
    "values, kind",
    [
        ([0, 1, 0, 1], pa.int64()),
        ([0.0, 1.0, 0.0, 1.0], pa.float32()),
        ([-1, 1, -1, 1], pa.int64()),
        ([b"0", b"1", b"0", b"1"], pa.large_binary()),
        ([b"False", b"true ", b"FALSE", b"True"], pa.large_binary()),
    ],
)
def test_what_is_taken_for_clicks(values, kind):
    """{0, 1}, {-1, 1} and booleans, whatever the column is called and typed as."""
    log, found = labels.with_label(log_of(values, kind), CLICK)
    assert log.table.column("label").to_pylist() == [0, 1, 0, 1]
    assert "click" not in log.table.column_names
    merged = labels.merge([found, found])
    # Of four events the last is test; two shards are twice as many.
    assert merged["splits"]["train"] == {"count": 6, "missing": 0, "sum": 2, "low": 0, "high": 1}
    assert merged["splits"]["test"]["count"] == 2


@pytest.mark.parametrize(
    "values, label, message",
    [
        (
            [0, 1, 3, 5, 1],
            CLICK,
            "'click': required: 0 and 1 .*from 0 to 5, and 2 labels .*3.*row 2",
        ),
        ([-1, 0, 1, 0], CLICK, "received: 1 of -1 and 2 of 0"),
        ([0, 0, 0, 0], CLICK, "all 3 labels of train are 0, .* nothing to learn.*both 0 and 1"),
        ([0, 1, 0, 1], CLICK, "all 1 labels of test are 1, .* no AUC can be measured"),
        ([None, None, None, None], CLICK, "no event has a label"),
        ([0, 1, 0, None], CLICK, "no event of test has a label.* 1 events without one"),
        # Ratings of 0 and 1 under the default threshold of 4.
        (
            [0, 1, 0, 1],
            Label(column="click", threshold=4),
            "from label.threshold 4 on: all 3 labels of train are 0.*numbers from 0 to 1",
        ),
        ([3, 3, 3, 4], Label(column="click"), "all 3 labels of train are 3"),
    ],
)
def test_anything_else_is_said(values, label, message):
    with pytest.raises(DataError, match=message):
        made(values, label)


def test_the_mend_is_named_and_works():
    with pytest.raises(DataError, match="label.threshold makes clicks .* label.kind: rating"):
        made([1, 5, 3, 2], CLICK)
    assert made([1, 5, 3, 2], Label(column="click", kind="rating"))[0] == [1, 5, 3, 2]
    with pytest.raises(DataError, match="1 labels that are none of these, the first 'maybe'"):
        made([b"0", b"maybe", b"1", b"0"], CLICK, pa.large_binary())
    with pytest.raises(DataError, match="holds float_list"):
        made([[1.0]] * 3, CLICK, pa.large_list(pa.float32()))


def test_events_without_a_label_are_left_out_and_counted():
    log, found = labels.with_label(log_of([0, None, 1, None, 1]), CLICK)
    assert log.split.tolist() == [TRAIN, UNUSED, TRAIN, UNUSED, TEST]
    assert found["splits"]["train"]["missing"] == 2 and found["splits"]["train"]["count"] == 2
    blank, found = labels.with_label(log_of([b"", b" nan", b"1", b"0"], pa.large_binary()), CLICK)
    assert blank.split.tolist() == [UNUSED, UNUSED, TRAIN, TEST]
    assert found["strange"]["count"] == 0


@pytest.mark.parametrize("column", ["label", "rating"])
def test_a_row_without_a_label_is_read(tmp_path, column):
    """It was rejected, and from one in a hundred on the run stopped."""
    (tmp_path / "events.csv").write_text(
        f"user_id,item_id,{column}\nu,a,1\nu,b,\nu,c,0\nu,d,NaN\nu,e,inf\nu,f,x\nu,g,True\n"
    )
    source = detection.plan(str(tmp_path))[0]
    (block,) = readers.blocks(source)
    parsed = readers.parse(source, block)
    assert [one.as_py() for one in parsed.table.column("item_id")] == [b"a", b"b", b"c", b"d", b"g"]
    values = parsed.table.column(column).to_pylist()
    assert values == [1, None, 0, None, 1]
    assert parsed.rejects == {f"{column} is not a number": (2, 6, "'inf'")}


def test_a_click_model_takes_a_column_for_clicks_and_a_rating_model_does_not():
    def label(model, *settings):
        return config.load(None, {"model": model, **config.parse_settings(settings)}).label

    clicked = label("deepfm", "label.column=click")
    assert clicked.is_click and not label("biased_mf", "label.column=click").is_click
    assert label("biased_mf", "label.column=label").is_click
    assert label("deepfm", "label.column=stars", "label.threshold=3").is_click
    assert not label("deepfm", "label.column=stars", "label.kind=rating").is_click
    assert label("biased_mf", "label.column=bought", "label.kind=click").is_click
    assert label("deepfm").threshold == 4
    with pytest.raises(ConfigError, match="label.kind: a label with a threshold is a click"):
        label("deepfm", "label.column=stars", "label.threshold=3", "label.kind=rating")


def test_what_is_learnt_of_a_column_is_in_the_name_where_it_is_unusual():
    def name(*settings):
        return config.load(
            None, {"model": "deepfm", **config.parse_settings(settings)}
        ).pipeline_name

    assert name("label.column=stars").endswith("-ratio-stars")
    assert name("label.column=stars", "label.kind=rating").endswith("-ratio-stars-rating")
    assert name("label.column=stars", "label.threshold=3").endswith("-ratio-stars-3")
