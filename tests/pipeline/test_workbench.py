"""A log explored and a model trained without a run: what comes out is what a run would say."""

import collections
import html
import json

import numpy as np
import pytest
import tensorflow as tf

from components import standalone
from components.tables import artifacts
from models.baseline import bpr_mf, item_knn
from models.names.errors import ConfigError, DataError
from pipeline import config, example_log, workbench

SHARE = 0.5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return example_log.write(tmp_path_factory.mktemp("log"), customers=60, articles=40)


def run(source, **settings):
    told = {"model": "popularity", "data.source": str(source), "data.columns": example_log.COLUMNS}
    return config.load(None, told | {name.replace("__", "."): v for name, v in settings.items()})


@pytest.fixture(scope="module")
def log(source, tmp_path_factory):
    strict = run(source, data__max_rejected_share=0)
    return workbench.explore(strict, tmp_path_factory.mktemp("explored"))


def lines(source) -> list[list[str]]:
    return [line.split(",") for line in (source / "events.csv").read_text("utf-8").splitlines()[1:]]


class TestExploration:
    def test_what_is_rejected_is_told_by_file_and_line(self, log, source):
        count = len(lines(source))
        # The last three lines are one without an article, one without a time, and the year 2190.
        assert log.left_out[0] == (
            f"events: 1 of {count:,} rows rejected: empty item_id; events.csv, line {count - 1}: ''"
        )
        assert f"events.csv, line {count}: 'yesterday'" in log.left_out[1]
        assert log.record.reading["events"]["kept"] == count - 2 == len(log.table("events"))

    def test_what_would_stop_a_run_does_not_stop_the_exploration(self, log):
        rejected, future = log.stops
        assert "2 of" in rejected and "(data.max_rejected_share)" in rejected
        assert "1 events in the future" in future and "check.max_future_share" in future
        checks = log.record.checking["checks"]
        assert (checks["duplicates"]["count"], checks["unknown_items"]["count"]) == (3, 4)
        # The made-up columns are in no curated schema: TFDV says so, and it stops nothing.
        assert any("events.device: New column" in note for note in log.record.checking["notes"])
        assert log.record.steps["TableCheck"].state == "failed"
        assert log.record.building["splits"]["train"]["rows"] > 0

    def test_columns_are_told_as_a_run_tells_them(self, log):
        assert log.reader == "csv"
        assert any("price: number (10 buckets)" in note for note in log.notes)
        assert {one["name"] for one in log.data["columns"]["items"]} >= {"aisle", "price", "title"}

    def test_the_page_is_the_data_section_of_the_report(self, log):
        page = log.page()
        assert "Leakage" in page and "check.max_future_share" in page and "Item popularity" in page
        framed = page._repr_html_()  # one attribute holds the page, quotes and all
        assert framed.count('"') == 6 and html.unescape(framed.split('"')[1]) == page

    def test_other_settings_split_the_same_tables(self, log, source):
        bought = {"column": "action", "values": ["purchase"]}
        report = log.split_as(run(source, positives=bought))
        # One event in 2190 has no fault but its time, and is a view; the two rejected are views.
        events = sum(line[2] == "purchase" for line in lines(source))
        splits = report["splits"]
        assert sum(splits[name]["events"] for name in ("train", "valid", "test")) == events
        with pytest.raises(DataError, match="no_such"):
            log.split_as(run(source, positives={"column": "no_such", "values": ["purchase"]}))
        assert log.record.building["splits"] != splits  # the exploration's own is left as it was

    def test_what_is_no_log_is_an_error(self, tmp_path):
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / "events.csv").write_text("user_id,item_id,timestamp\n,,\n,,\n")
        with pytest.raises(DataError, match="empty user_id"):
            told = config.load(None, {"model": "popularity", "data.source": str(tmp_path / "log")})
            workbench.explore(told, tmp_path / "explored")


class TestPrepared:
    @pytest.fixture(scope="class")
    def fitted(self):
        """What Transform was told, each time: it takes longer than all the rest."""
        told = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standalone, "transform", lambda *given: told.append(given))
            yield told

    @pytest.fixture(scope="class")
    def prepared(self, source, tmp_path_factory, fitted):
        return workbench.prepare(run(source), tmp_path_factory.mktemp("prepared"), share=SHARE)

    def test_a_sample_has_whole_users(self, prepared, source):
        of_user = collections.Counter(
            line[0] for line in lines(source) if line[1] and line[3] != "yesterday"
        )
        columns = {"user_id": "bytes", "item_id": "bytes"}
        sample = artifacts.read_split(str(prepared.folder / "tables" / "events"), "all", columns)
        found = collections.Counter(user.decode() for user in sample.column("user_id").to_pylist())
        assert 0 < len(found) < len(of_user)
        assert all(of_user[user] == count for user, count in found.items())
        report = json.loads((prepared.folder / "tables" / "events" / "report.json").read_text())
        assert report["kept"] == sum(found.values())

    def test_the_same_is_prepared_once(self, prepared, source, fitted):
        (told,) = fitted
        assert told[:3] == (
            str(prepared.folder / "examples"),
            prepared.schema,
            str(prepared.folder / "graph"),
        )
        assert "item_title" in told[3]["text"] and told[3]["min_count"] == 1
        assert workbench.prepare(run(source), prepared.folder, share=SHARE) == prepared
        assert len(fitted) == 1
        temporal = run(source, split__name="temporal")
        workbench.prepare(temporal, prepared.folder, share=SHARE)
        assert len(fitted) == 2 and prepared.report["split"]["name"] == "temporal"

    def test_a_share_is_one(self, source, tmp_path):
        for share in (0, 1.5):
            with pytest.raises(ConfigError, match="share: required: more than 0 and at most 1"):
                workbench.prepare(run(source), tmp_path, share=share)
        with pytest.raises(DataError, match="share: 1e-09 of the users are none"):
            workbench.prepare(run(source), tmp_path, share=1e-9)


class Backwards(item_knn.Model):
    """Recommends first what is least like the history."""

    def score_items(self, query, catalogue):
        return -super().score_items(query, catalogue)


class TestTraining:
    """On the toy log of the models: users have items of their own block of 15, of 60 in all."""

    @pytest.fixture(scope="class")
    def prepared(self, toy_data):
        return workbench.Prepared(toy_data("profile", 0.0).folder)

    @pytest.fixture(scope="class")
    def base(self, prepared):
        return workbench.train(prepared, "item_knn")

    def test_a_user_gets_what_validation_measured(self, base):
        (row,) = base.loop.history
        for metric in ("hr_10", "ndcg_10", "mrr_20"):
            of_users = np.average(base.by_user.means[metric], weights=base.by_user.rows)
            assert of_users == pytest.approx(row[metric], abs=1e-6)

    def test_a_class_of_a_cell_is_compared_with_the_registered_one(self, prepared, base):
        changed = workbench.train(prepared, Backwards)
        assert changed.name == "Backwards"
        (found,) = [one for one in workbench.compare(base, changed) if one.metric == "recall_20"]
        # A user has had 7 of the 15 items of the block, so the target is among the 8 left, which
        # are the only ones like the history: within the first 20, and, backwards, never.
        assert (found.first, found.second) == (1, 0)
        assert (found.difference, found.low, found.high) == (-1, -1, -1)

    def test_the_test_split_is_not_loaded(self, base):
        assert len(base.data.queries("valid")) and not len(base.data.queries("test"))

    def test_settings_of_a_class_are_its_own(self):
        class HyperParameters(bpr_mf.HyperParameters):
            margin: float = 1.0

        class Hinge(bpr_mf.Model):
            pass

        Hinge.HyperParameters = HyperParameters
        from models.training import trainer

        name = workbench.registered(Hinge)
        assert name == "bpr_mf"
        settings = trainer.resolve(name, {"margin": 2.0}, Hinge.HyperParameters)
        assert (settings.margin, settings.factors) == (2.0, 64)
        with pytest.raises(ConfigError, match="'margin'"):
            trainer.resolve(name, {"margin": 2.0})

    def test_a_class_that_derives_from_no_model_is_refused(self):
        with pytest.raises(ConfigError, match="Stranger: required: a class that derives from"):
            workbench.registered(type("Stranger", (tf.keras.Model,), {}))
