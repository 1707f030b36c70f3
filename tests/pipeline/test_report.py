"""The report: built from small runs, read back as a browser would."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from components.tables import records
from pipeline import charts, local, report, report_data
from pipeline.lineage import RunRecord, Step

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>'
JAPANESE, ARABIC, BROKEN = "日本\"語'", "عربى", b"\xff\xfe"
ITEMS = ["plain", SCRIPT, IMAGE, JAPANESE, BROKEN]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """The elements of a page, and the text of each section."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self._open, self._section = [], {"": ""}, [], [""]
        self.feed(text)
        assert self._open == [], f"left open: {self._open}"
        self.text = {section: " ".join(text.split()) for section, text in self.text.items()}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section.append(dict(attrs)["id"])
            self.text[self._section[-1]] = ""

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "section":
            self._section.pop()

    def handle_data(self, data):
        if "style" not in self._open:
            self.text[self._section[-1]] += f"{data} "

    def charts(self) -> list[str]:
        return [attrs["aria-label"] for tag, attrs in self.tags if attrs.get("class") == "chart"]


def bytes_(value):
    return value if isinstance(value, bytes) else value.encode()


class Run:
    """A run on disk, part by part."""

    def __init__(self, folder: Path):
        self.record = RunRecord("2026-01-02T03:04:05", "two_tower-toy-leave_one_out", folder)
        self.folder = folder

    def step(
        self, node, outputs=(), state="complete", seconds=1.0, **properties
    ) -> dict[str, Path]:
        paths = {key: self.folder / node / key / "1" for key in outputs}
        self.record.steps[node] = Step(
            node, state, seconds, properties, {key: str(path) for key, path in paths.items()}
        )
        for path in paths.values():
            path.mkdir(parents=True, exist_ok=True)
        return paths

    def read(self, events: dict, items: dict | None = None, rejected: dict | None = None) -> "Run":
        paths = self.step(
            "TableReader",
            ("events", "items", "users"),
            source="data/toy",
            fingerprint="f00d",
            code_hash="c0de",
        )
        tables = {
            "events": events,
            "items": items or {"item_id": [bytes_(item) for item in ITEMS]},
            "users": {"user_id": []},
        }
        kinds = {"rating": ("float", pa.float32()), "timestamp": ("int", pa.int64())}
        for name, columns in tables.items():
            types = {column: kinds.get(column, ("bytes", pa.large_binary())) for column in columns}
            table = pa.table(
                {column: pa.array(values, types[column][1]) for column, values in columns.items()}
            )
            records.write_table(table, str(paths[name] / "Split-all"), 0)
            bad = rejected if name == "events" and rejected else {}
            kept = table.num_rows
            read = kept + sum(first["count"] for first in bad.values())
            facts = {
                "table": name,
                "files": [f"toy.{name}"],
                "read": read,
                "kept": kept,
                "rejected": bad,
                "unreadable": {},
            }
            facts |= {
                "columns": {column: kind for column, (kind, _) in types.items()},
                "lines_ahead": 2,
            }
            (paths[name] / "report.json").write_text(json.dumps(facts))
        return self

    def build(self, queries: list[dict], task="retrieve") -> "Run":
        (folder,) = self.step("ExampleBuilder", ("examples",)).values()
        kinds = {"user_id": pa.large_binary(), "activity": pa.large_binary()}
        columns = (
            {name: [query[name] for query in queries] for name in queries[0]}
            if queries
            else {"user_id": []}
        )
        table = pa.table(
            {
                name: pa.array(values, kinds.get(name, pa.large_list(pa.large_binary())))
                for name, values in columns.items()
            }
        )
        records.write_table(table, str(folder / "Split-test"), 0)
        splits = {
            "train": {"rows": 9, "users": 3, "events": 9, "items": 5},
            "test": {"rows": len(queries), "users": 3, "events": 3},
        }
        facts = {
            "task": task,
            "kind": "event",
            "split": {"name": "leave_one_out", "seed": 42, "candidates": None},
            "splits": splits,
        }
        (folder / "report.json").write_text(
            json.dumps({**facts, "dropped": {"test": {"repeated targets": 2}}})
        )
        return self

    def train(
        self,
        epochs: list[dict],
        monitor="ndcg_10",
        best=2,
        model: Path | None = None,
        beside: dict | None = None,
    ) -> "Run":
        config = {
            "model": "two_tower",
            "hyper_parameters": {"epochs": 3, "hidden": [64]},
            "seed": 5,
        }
        config |= {"code_hash": "beef", "fingerprint": "cafe"}
        paths = self.step(
            "Trainer", ("model", "model_run"), seconds=100, custom_config=json.dumps(config)
        )
        log = {
            "model": "two_tower",
            "task": "retrieve",
            "seed": 5,
            "parameters": 1234,
            "strategy": "OneDeviceStrategy",
            "replicas": 1,
        }
        log |= {
            "warm_start": None,
            "best_epochs": {"model": best},
            "epochs": epochs,
            "seconds": 61.0,
            "monitor": monitor,
            **(beside or {}),
        }
        (paths["model_run"] / "training.json").write_text(json.dumps(log))
        if model:
            (paths["model"] / "Format-Serving").symlink_to(model)
        return self

    def judge(
        self, metrics, counts, baseline=None, blessed=True, failures=(), thresholds=None
    ) -> "Run":
        paths = self.step("Evaluator", ("evaluation", "blessing"))
        found = {
            "metrics": metrics,
            "baseline": baseline or {},
            "counts": counts,
            "blessed": blessed,
            "failures": list(failures),
            "thresholds": list(thresholds or ()),
        }
        (paths["evaluation"] / "verdict.json").write_text(json.dumps(found))
        self.record.artifacts["Evaluator", "blessing"] = {"blessed": int(blessed)}
        return self

    def push(self, answers=True) -> "Run":
        self.step("Canary", ("blessing",))
        outcome = (
            {"blessed": 1, "answered": 23}
            if answers
            else {"blessed": 0, "reason": "user '<b>': the score is nan"}
        )
        self.record.artifacts["Canary", "blessing"] = outcome
        self.step("Pusher", ("pushed_model",))
        pushed = {"pushed": 1, "pushed_destination": str(self.folder / "serving" / "1795552887")}
        self.record.artifacts["Pusher", "pushed_model"] = pushed if answers else {"pushed": 0}
        return self

    def page(self, error: str | None = None) -> Page:
        path = report.write_report(self.record, self.folder / "reports" / "page.html", error)
        page = Page(path.read_text("utf-8"))
        check_anywhere(page)
        return page


def check_anywhere(page: Page) -> None:
    """What holds for every page: self-contained, nothing that runs, readable without eyes."""
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities)) and {
        "gate",
        "data",
        "training",
        "metrics",
        "users",
        "lineage",
    } <= set(identities)
    for tag, attrs in page.tags:
        assert tag not in ("script", "img", "link", "iframe", "object", "image", "use"), tag
        assert not any(name.startswith("on") or name == "src" for name in attrs), attrs
        assert "href" not in attrs or attrs["href"].removeprefix("#") in identities
        assert tag != "th" or attrs["scope"] in ("row", "col")
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or (
                attrs["role"] == "img" and attrs["aria-label"]
            )


EVENTS = {
    "user_id": [b"a", b"a", b"a", b"b"],
    "item_id": [b"plain", SCRIPT.encode(), b"plain", BROKEN],
    "rating": [1.0, 5.0, 5.0, 5.0],
    "timestamp": [0, 86_400, 86_400, 10 * 86_400],
}
EPOCH = {"stage": "model", "seconds": 1.5, "examples_per_second": 1000.0, "popularity_ndcg_10": 0.1}
EPOCHS = [
    {**EPOCH, "epoch": epoch, "loss": 3.0 - epoch, "ndcg_10": value}
    for epoch, value in ((1, 0.2), (2, 0.4), (3, 0.3))
]
OVERALL = {
    "ndcg_10": 0.25,
    "hr_10": 0.5,
    "popularity_ndcg_10": 0.2,
    "popularity_hr_10": 0.6,
    "lift_ndcg_10": 0.05,
    "ncf99_ndcg_10": 0.0,
}
METRICS = {
    "overall": OVERALL,
    "activity:10-49": OVERALL,
    "activity:0": OVERALL,
    "popularity:tail": OVERALL,
    "popularity:head": OVERALL,
}
COUNTS = {"overall": 1200, "activity:0": 7}


def threshold(metric, against, value, bound, requirement, part="overall") -> dict:
    """As the gate writes one."""
    return {
        "metric": metric,
        "slice": part,
        "against": against,
        "value": value,
        "standard_error": None if value is None else 0.004,
        "bound": bound,
        "z": 2.0,
        "met": value is None or value >= bound,
        "requirement": requirement,
    }


FLOOR = threshold("ndcg_10", "popularity", 0.05, 0.02, "at least 0.0200 better")
GATE = (FLOOR, threshold("ndcg_10", "the last blessed model", None, -0.01, "at most 0.0100 worse"))
QUERIES = [
    {
        "user_id": b"a",
        "history": [b"plain", SCRIPT.encode()],
        "targets": [IMAGE.encode()],
        "activity": b"0",
    },
    {"user_id": SCRIPT.encode(), "history": [BROKEN], "targets": [b"plain"], "activity": b"1-9"},
    {"user_id": ARABIC.encode(), "history": [], "targets": [JAPANESE.encode()], "activity": b"0"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A SavedModel that recommends ITEMS in their order.

    It measures HR and MRR at 2 and 3 on that order.
    """
    import tensorflow as tf

    strings, lists = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)

    class Ordered(tf.Module):
        @tf.function(input_signature=[strings, lists, lists, tf.TensorSpec([None], tf.int32)])
        def recommend(self, user_id, history, exclude, k):
            count, shown = tf.shape(user_id)[0], tf.minimum(k[0], len(ITEMS))
            items = tf.tile(tf.constant([ITEMS], tf.string)[:, :shown], [count, 1])
            scores = tf.tile(
                1.0 / tf.cast(tf.range(1, shown + 1), tf.float32)[tf.newaxis], [count, 1]
            )
            return {
                "item_id": items,
                "score": scores,
                "strategy": tf.where(user_id == ARABIC, "fallback", "model"),
            }

        @tf.function(
            input_signature=[
                *recommend.input_signature,
                tf.TensorSpec([None], tf.int32, name="reasons"),
            ]
        )
        def recommend_explained(self, user_id, history, exclude, k, reasons):
            """SCRIPT carries everything; who is answered by a fallback is told the segment."""
            answer = self.recommend(user_id, history, exclude, k)
            by_model, shape = answer["strategy"] == "model", tf.shape(answer["item_id"])
            told = {
                "reason": tf.where(by_model, SCRIPT, "user_job = none"),
                "basis": tf.where(by_model, "difference", "segment"),
                "weight": tf.where(by_model, 0.0312, 1.0),
            }
            told = {
                name: tf.broadcast_to(value[:, tf.newaxis], shape) for name, value in told.items()
            }
            return answer | {
                name: value if name == "basis" else value[..., tf.newaxis]
                for name, value in told.items()
            }

        @tf.function(input_signature=[strings])
        def score_explained(self, user_id):
            count = tf.shape(user_id)[0]
            return {
                "score": tf.fill([count], 0.25),
                "reason": tf.fill([count, 1], "user_id"),
                "weight": tf.fill([count, 1], -0.5),
                "basis": tf.fill([count], "sum"),
            }

        @tf.function(input_signature=[strings])
        def evaluate(self, examples):
            target = tf.io.parse_example(
                examples, {"targets": tf.io.FixedLenFeature([1], tf.string)}
            )["targets"]
            place = tf.argmax(target == tf.constant([ITEMS], tf.string), axis=1)
            rank = 1.0 + tf.cast(place, tf.float32)[:, tf.newaxis]
            hits = {f"hr_{k}": tf.cast(rank <= k, tf.float32) for k in (2, 3)}
            return {**hits, **{f"mrr_{k}": hits[f"hr_{k}"] / rank for k in (2, 3)}}

    folder, module = tmp_path_factory.mktemp("model"), Ordered()
    names = ("recommend", "recommend_explained", "score_explained", "evaluate")
    tf.saved_model.save(
        module, str(folder), signatures={name: getattr(module, name) for name in names}
    )
    return folder


def blessed_run(folder: Path, **changes) -> Run:
    run = Run(folder).read(EVENTS).build(QUERIES).train(EPOCHS)
    return run.judge(METRICS, COUNTS, **{"thresholds": GATE, **changes})


def test_a_pushed_run_says_so_first(tmp_path):
    page = blessed_run(tmp_path).push().page()
    assert "Blessed and pushed as version 1795552887" in page.text[""]
    assert "serving/1795552887" in page.text[""] and str(tmp_path) not in page.text[""]
    # Required +0.02, measured +0.05: 0.03 left; there was no earlier model to fall behind.
    assert (
        "NDCG@10 , against popularity ✓ met at least 0.0200 better +0.0500 ± 0.0040 +0.0300"
        in page.text["gate"]
    )
    assert "not applied: no model was blessed before" in page.text["gate"]
    assert "A server process answered 23 requests" in page.text["gate"]


def test_metrics_stand_beside_popularity_and_the_last_blessed_model(tmp_path):
    change = threshold(
        "ndcg_10", "the last blessed model", -0.005, -0.01, "at most 0.0100 worse", "activity:0"
    )
    page = blessed_run(
        tmp_path,
        baseline={"overall": {**OVERALL, "ndcg_10": 0.255, "hr_10": 0.5}},
        thresholds=(FLOOR, change),
    ).page()
    # 0.25 against 0.2 and 0.255; 0.5 against 0.6 and 0.5.
    assert "NDCG@10 0.2500 0.2000 +0.0500 better 0.2550 −0.0050 worse" in page.text["metrics"]
    assert "HR@10 0.5000 0.6000 −0.1000 worse 0.5000 +0.0000" in page.text["metrics"]
    # -0.005 where -0.01 is allowed.
    assert (
        "NDCG@10 , against the last blessed model, activity: 0 ✓ met at most 0.0100 worse −0.0050 "
        "± 0.0040 +0.0050" in page.text["gate"]
    )
    assert "NCF99" not in page.text["metrics"], (
        "candidates were not sampled, so there is nothing to show"
    )
    table = page.text["metrics"].split("By slice")[1]
    rows = [
        table.index(name)
        for name in (
            "overall 1,200",
            "activity: 0 7",
            "activity: 10-49",
            "popularity: head",
            "popularity: tail",
        )
    ]
    assert rows == sorted(rows)
    plot = next(label for label in page.charts() if label.startswith("NDCG@10 by slice"))
    assert "overall: this model 0.2500, popularity 0.2000, last blessed 0.2550" in plot


@pytest.mark.parametrize("name, leaks", [("leave_one_out", True), ("temporal", False)])
def test_a_split_that_lets_later_events_train_says_so(tmp_path, name, leaks):
    run = Run(tmp_path).read(EVENTS).build(QUERIES)
    path = tmp_path / "ExampleBuilder/examples/1/report.json"
    path.write_text(path.read_text().replace("leave_one_out", name))
    text = "Leakage. split leave_one_out: events of other users that are later than a target"
    assert (text in run.page().text["data"]) is leaks and (
        "Leakage" in run.page().text["data"]
    ) is leaks


def test_a_log_without_times_is_said_to_be_in_the_order_of_its_rows(tmp_path):
    untimed = {name: values for name, values in EVENTS.items() if name != "timestamp"}
    text = Run(tmp_path).read(untimed).build(QUERIES).page().text["data"]
    assert "Order. split leave_one_out: the log has no times" in text and "later" not in text


def test_no_table_by_slice_is_wider_than_its_page(tmp_path):
    """A page holds ten columns: the slice, the count and eight numbers.

    Four metrics are shown, two of them beside popularity's and the last blessed model's; the other
    eleven are in two tables of their own.
    """
    values = {
        f"{name}_{k}": 0.5 for name in ("hr", "ndcg", "mrr", "recall", "map") for k in (5, 10, 20)
    }
    values |= {"popularity_hr_10": 0.1, "popularity_ndcg_10": 0.2}
    run = Run(tmp_path).read(EVENTS).build(QUERIES).train(EPOCHS)
    text = run.judge({"overall": values}, COUNTS, {"overall": values}).page().text["metrics"]
    first, second = text.split("By slice ")[1].split("The other metrics by slice ")
    assert first.startswith(
        "Slice Count NDCG@10 HR@10 MRR@10 Recall@20 Popularity NDCG@10 Last blessed "
    )
    heads = [table.split(" overall ")[0].split() for table in second.split("Slice ")[1:]]
    assert [len(head) for head in heads] == [1 + 8, 1 + 3]


def test_a_run_that_was_not_blessed_says_which_threshold_and_by_how_much(tmp_path):
    text = (
        "ndcg_10: 0.0500 better than popularity's; required: at least 0.0700 better; short by 0.02"
    )
    failure = {"metric": "lift_ndcg_10", "text": text}
    floor = threshold("ndcg_10", "popularity", 0.05, 0.07, "at least 0.0700 better")
    page = (
        blessed_run(tmp_path, blessed=False, failures=[failure], thresholds=[floor])
        .push(answers=False)
        .page()
    )
    assert "Not blessed: nothing was pushed" in page.text[""] and text in page.text[""]
    assert "✕ missed by 0.0200" in page.text["gate"]


def test_a_blessed_model_that_no_server_can_answer_from_is_not_called_pushed(tmp_path):
    page = blessed_run(tmp_path).push(answers=False).page()
    assert "Blessed, but no server could answer from it: nothing was pushed" in page.text[""]
    assert "user '<b>': the score is nan" in page.text[""]


def test_a_run_that_failed_early_says_what_it_has_not(tmp_path):
    run = Run(tmp_path)
    run.step("TableReader", state="failed")
    page = run.page("events: 3 of 4 rows had to be rejected <here>")
    assert (
        "Failed at TableReader" in page.text[""]
        and "rows had to be rejected <here>" in page.text[""]
    )
    missing = {
        "gate": "far as the gate",
        "data": "No table was read",
        "training": "far as training",
        "users": "far as a model",
    }
    assert (
        all(words in page.text[section] for section, words in missing.items())
        and page.charts() == []
    )
    assert "Interrupted after its start" in Run(tmp_path / "nothing").page().text[""]
    assert "Interrupted after Trainer" in Run(tmp_path / "killed").train(EPOCHS).page().text[""]


@pytest.mark.parametrize(
    "part, told",
    [
        ({"sessions": {"gap_minutes": 30, "sessions": 4}}, "Cut into 4 sessions, by gaps of 30"),
        ({"positives": {"column": "kind", "types": [], "others": 0, "collapsed": 3}}, "3 repeats"),
        (
            {"filters": {"rounds": 2, "dropped": {"items": {"groups": 1, "events": 5}}}},
            "counted 2 times until all that is left has enough: 1 items with 5 events",
        ),
    ],
    ids=["sessions", "positives", "filters"],
)
def test_each_part_of_the_selection_may_stand_alone(tmp_path, part, told):
    """A run with positives and without sessions ended in a traceback, its model pushed."""
    run = Run(tmp_path).read(EVENTS).build(QUERIES)
    path = tmp_path / "ExampleBuilder/examples/1/report.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "selection": {"events": 9, **part}})
    )
    text = run.page().text["data"]
    assert "Of 9 events read." in text and told in text


def test_rows_that_were_read_rejected_and_dropped(tmp_path):
    first = {"count": 2, "file": "/data/toy.events", "line": 7, "received": "<b>five</b>"}
    page = (
        Run(tmp_path).read(EVENTS, rejected={"rating is not a number": first}).build(QUERIES).page()
    )
    assert "events toy.events 6 4 2" in page.text["data"]
    assert "rating is not a number events 2 toy.events , line 7 <b>five</b>" in page.text["data"]
    assert "Dropped: 2 repeated targets (test)" in page.text["data"]
    assert "train 9 9 3 5" in page.text["data"]
    # Three events of a and one of b; plain twice, the others once; four events from day 0 to day
    # 10.
    assert "2 users: half of them have 1 events or fewer, the first 3." in page.text["data"]
    assert "3 items: half of them have 1 events or fewer, the first 2." in page.text["data"]
    assert "From 1970-01-01 to 1970-01-11" in page.text["data"]
    assert "Rating: 1: 1, 5: 3" in page.charts()


def test_data_without_ratings_or_times_has_no_pictures_of_them(tmp_path):
    page = Run(tmp_path).read({name: EVENTS[name] for name in ("user_id", "item_id")}).page()
    assert [label.split(":")[0] for label in page.charts()] == ["Events a user", "Item popularity"]


def test_a_long_log_is_described_by_its_statistics(tmp_path, monkeypatch):
    from tensorflow_metadata.proto.v0 import statistics_pb2

    run = Run(tmp_path).read(EVENTS)
    found = statistics_pb2.DatasetFeatureStatisticsList()
    data = found.datasets.add(num_examples=100)
    for name, counts, unique in (("user_id", (50, 30), 5), ("item_id", (60, 40), 2)):
        feature = data.features.add(type=statistics_pb2.FeatureNameStatistics.STRING)
        feature.path.step.append(name)
        feature.string_stats.unique = unique
        feature.string_stats.common_stats.num_non_missing = 100
        for rank, count in enumerate(counts):
            feature.string_stats.rank_histogram.buckets.add(
                low_rank=rank, high_rank=rank, sample_count=count
            )
            feature.string_stats.top_values.add(value=f"<i>{rank}</i>", frequency=count)
    (folder,) = run.step("StatisticsGen-events", ("statistics",)).values()
    (folder / "Split-all").mkdir()
    (folder / "Split-all" / "FeatureStats.pb").write_bytes(found.SerializeToString())
    monkeypatch.setattr(report_data, "_ROWS", 3)
    page = run.page()
    # 50 + 30 of 100 events are the first two users'; the other three share 20.
    assert (
        "5 users; shown are the first 2, with 80% of all events. The other 3 have 6.7 events each "
        "on average." in page.text["data"]
    )
    assert "user_id string 100.0% 5 <i>0</i>, <i>1</i>" in page.text["data"]


def test_training_marks_the_best_epoch(tmp_path):
    page = Run(tmp_path).train(EPOCHS).page()
    assert (
        "0.4000 at the best epoch, 2." in page.text["training"]
        and "2 (best)" in page.text["training"]
    )
    assert any(
        label.endswith("0.2000 at epoch 1, 0.3000 at epoch 3; best: epoch 2, 0.4000")
        for label in page.charts()
    )
    assert "1,234 trainable parameters, seed 5" in page.text["training"]


def test_what_an_export_in_bytes_costs_stands_beside_what_it_saves(tmp_path):
    export = {"tables": "int8", "bytes": 290e6, "float32_bytes": 1e9}
    export |= {"valid": {"auc": 0.70116}, "float32_valid": {"auc": 0.70117}}
    beside = {"export": export, "unknown_rows": {"item_id": 1200, "ad": 7}}
    text = Run(tmp_path).train(EPOCHS, beside=beside).page().text["training"]
    assert "290.0 of 1,000.0 MB (0.29), tables in int8; auc 0.70116 for 0.70117." in text
    assert "not admitted (features.min_count): item_id 1,200, ad 7." in text
    assert "Exported" not in Run(tmp_path / "plain").train(EPOCHS).page().text["training"]


def test_a_model_in_closed_form_has_no_curve(tmp_path):
    page = (
        Run(tmp_path)
        .train([{**EPOCHS[0], "loss": None, "examples_per_second": None}], best=1)
        .page()
    )
    assert "there is no curve to draw" in page.text["training"] and page.charts() == []


def test_users_stand_beside_their_recommendations(tmp_path, model):
    titles = {
        "item_id": [bytes_(item) for item in ITEMS],
        "title": [b"A & <B>", b"Two", b"Three", b"Four", b"Five"],
    }
    text = (
        Run(tmp_path)
        .read(EVENTS, items=titles)
        .build(QUERIES)
        .train(EPOCHS, model=model)
        .page()
        .text["users"]
    )
    assert "3 users and their recommendations" in text
    # ITEMS in order: a's target is the third, the second user's the first, the third user's the
    # fourth.
    assert "missed: among the first 3, not the first 2" in text
    assert "✓ hit: at rank 1" in text
    assert "✕ missed: not among the first 3" in text
    assert text.count("A & <B> plain") >= 3, "every user is recommended it, by title and id"
    assert "answered by fallback" in text and "none before the split" in text
    # The newest first: of a's two items the second.
    first = text[text.index("User a") :]
    assert first.index("Two") < first.index("A & <B>")
    assert "Last of 3 items" in first
    # What carried an item, by its title; and of whom a fallback answers, the segment.
    assert text.count("why: Two (0.031)") == 10 and "what the score loses where" in text
    assert text.count("why: popular where user_job = none") == 5


def test_rows_of_a_model_that_scores_stand_beside_their_fields(tmp_path, model):
    run = Run(tmp_path).build(QUERIES, task="score").train(EPOCHS, model=model)
    text = run.page().text["users"]
    assert "These are 3 test rows, drawn at random from 3" in text and "parts of the score" in text
    assert text.count("0.2500 user_id -0.50") == 3 and SCRIPT in text


def test_ids_of_any_kind_are_text(tmp_path, model):
    page = (
        Run(tmp_path).read(EVENTS).build(QUERIES).train(EPOCHS, model=model).page()
    )  # no script, no image, no handler
    for identity in (SCRIPT, IMAGE, JAPANESE, ARABIC, "\\udcff\\udcfe"):
        assert identity in page.text["users"], identity


def test_lists_are_held_against_a_random_order(tmp_path):
    """Errors have a reference of their own, and a lift that no threshold holds; not meant here."""
    epochs = [{**epoch, "group_ndcg_10": 0.5} for epoch in EPOCHS]
    run = Run(tmp_path).build([], task="score").train(epochs, monitor="group_ndcg_10")
    values = {
        "mse": 0.5,
        "constant_mse": 0.6,
        "lift_mse": 0.1,
        "group_ndcg_10": 0.75,
        "random_group_ndcg_10": 0.5,
        "lift_group_ndcg_10": 0.25,
    }
    floor = threshold("group_ndcg_10", "a random order", 0.25, 0.125, "at least 0.1250 better")
    page = run.judge({"overall": values}, {"overall": 10}, thresholds=[floor]).page()
    assert "Group NDCG@10 , against a random order" in page.text["gate"]
    assert "+0.1250" in page.text["gate"] and "✓ met" in page.text["gate"]
    assert "Group NDCG@10 0.7500 0.5000 +0.2500 better" in page.text["metrics"]


def test_a_model_that_scores_pairs(tmp_path):
    run = (
        Run(tmp_path)
        .build([], task="score")
        .train([{**EPOCHS[0], "auc": 0.7}, {**EPOCHS[1], "auc": 0.8}], monitor="auc")
    )
    values = {
        "auc": 0.8,
        "log_loss": 0.5,
        "constant_log_loss": 0.6,
        "lift_log_loss": 0.1,
        "calibration": 1.1,
    }
    before = {"auc": 0.81, "log_loss": 0.55, "calibration": 1.0}
    thresholds = [
        threshold("log_loss", "the train mean", 0.1, 0.02, "at least 0.0200 better"),
        threshold("log_loss", "the last blessed model", 0.05, -0.01, "at most 0.0100 worse"),
    ]
    slices = {"overall": values, "activity:0": {**values, "auc": float("nan")}}
    run.judge(slices, {"overall": 10}, baseline={"overall": before}, thresholds=thresholds)
    page = run.page()
    assert "AUC 0.8000 – – 0.8100 −0.0100 worse" in page.text["metrics"]
    assert "Log loss 0.5000 0.6000 −0.1000 better 0.5500 −0.0500 better" in page.text["metrics"], (
        "a lower loss is the better one"
    )
    assert "Calibration 1.1000 – – 1.0000 +0.1000" in page.text["metrics"]
    assert "+0.1000 better" not in page.text["metrics"] and "nan" not in page.text["metrics"]
    assert (
        "Log loss , against the train mean ✓ met at least 0.0200 better +0.1000 ± 0.0040 +0.0800"
        in page.text["gate"]
    )
    # It may rise by 0.01 and fell by 0.05, which is better.
    assert "✓ met at most 0.0100 worse +0.0500 ± 0.0040 +0.0600" in page.text["gate"]
    assert "Validation AUC" in page.text["training"]
    (tmp_path / "Trainer/model/1/Format-Serving").mkdir()
    (tmp_path / "Trainer/model/1/Format-Serving/saved_model.pb").write_bytes(b"")
    assert "does not recommend from the catalogue" in run.page().text["users"]
    broken = (
        Run(tmp_path / "broken")
        .build(QUERIES)
        .train(EPOCHS, model=tmp_path / "Trainer/model/1/Format-Serving")
    )
    assert "The model cannot be asked" in broken.page().text["users"]


def test_lineage_names_what_made_the_model(tmp_path):
    run = blessed_run(tmp_path)
    run.step("Transform", ("transform_graph",), state="cached", seconds=0.1)
    text = run.push().page().text["lineage"]
    for words in (
        "Seed 5",
        "beef",
        "cafe",
        "f00d",
        "data/toy",
        "hidden [64]",
        "Transform cached 0.1 s",
        "Trainer ran 1 min 40 s",
    ):
        assert words in text, words
    assert "transform_graph Transform/transform_graph/1" in text
    assert "Python 3." in text and "tensorflow 2." in text


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError):
        report.write_report(Run(tmp_path).record, path)
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_importing_the_report_is_cheap():
    code = (
        "import pipeline.report, sys; print([m for m in ('tensorflow', 'tfx', 'apache_beam', "
        "'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_metrics_are_called_what_people_call_them():
    names = {
        "hr_10": "HR@10",
        "log_loss": "Log loss",
        "popularity_hr_10": "Popularity HR@10",
        "ncf99_hr_10": "NCF99 HR@10",
    }
    assert {name: report.label(name) for name in names} == names


def test_charts_draw_to_scale():
    # The plot goes from y = 14 (top) to y = 182 (bottom); 0 to 4 in steps of 1: half the scale is y
    # = 98.
    page = Page(str(charts.bar_chart("Counts", [("a", 4), ("b", 2)])))
    bars = [attrs for tag, attrs in page.tags if tag == "rect"]
    assert [(bar["y"], bar["height"]) for bar in bars] == [("14.0", "168.0"), ("98.0", "84.0")]
    # Epochs 1 to 3 from x = 66 to x = 338, values 0 to 4.
    page = Page(str(charts.line_chart("Loss", [(1, 4.0), (2, 2.0), (3, 0.0)], best=3)))
    curve = next(attrs for tag, attrs in page.tags if tag == "polyline")
    assert curve["points"] == "66.0,14.0 202.0,98.0 338.0,182.0"


def test_a_model_that_was_fitted_again_says_so_and_whose_metrics_these_are(tmp_path):
    """The measured model had 9 train events, and the refit has 14, those of the whole log."""
    run = blessed_run(tmp_path)
    run.record.artifacts["Refit", "hyperparameters"] = {}
    assert run.record.refit == {"skipped": "the run did not get as far"}
    (built,) = run.step("ExampleBuilder-refit", ("examples",)).values()
    run.record.artifacts["ExampleBuilder", "examples"] = {"train_events": 9}
    run.record.artifacts["ExampleBuilder-refit", "examples"] = {"train_events": 14}
    (trained,) = run.step("Trainer-refit", ("model_run",)).values()
    log = {"best_epochs": {"gmf": 7, "neumf": 1}, "seconds": 12.3}
    (trained / "training.json").write_text(json.dumps(log))
    run.push().record.artifacts["Canary-refit", "blessing"] = {"blessed": 1, "answered": 5}
    said = (
        "itted again on everything: 14 train events, 5 more than the measured model had, for "
        "7 epochs of gmf, 1 epoch of neumf, in 12 s; the metrics are the measured model's"
    )
    assert said in local.fitted_again(run.record)
    page = run.page()
    assert said in page.text[""] and "answered 5 requests" in page.text[""]
    # What is served is asked and watched by what it was trained on; what was measured stays.
    assert run.record.served_examples_uri == str(built) != run.record.examples_uri
    assert run.record.served("Trainer") == "Trainer-refit"
    assert run.record.model_uri == run.record.steps["Trainer"].outputs["model"]
    # A model that no server can answer from is not pushed, whatever the measured one did.
    run.record.artifacts["Canary-refit", "blessing"] = {"blessed": 0, "reason": "all is nan"}
    run.record.artifacts["Pusher", "pushed_model"] = {"pushed": 0}
    with pytest.raises(local.NotBlessed, match="no server could answer .*: all is nan"):
        local.require_push(run.record)
    run.record.artifacts["Refit", "hyperparameters"] = {"skipped": "because"}
    (trained / "training.json").unlink()
    assert local.fitted_again(run.record) == "not fitted again on everything: because"
    assert run.record.served("Trainer") == "Trainer"
