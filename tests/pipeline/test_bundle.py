"""A bundle out of blessed models, to a pushed version.

Its answers over the wire and as Parquet; refusals.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from models.names.errors import ConfigError, DataError
from pipeline import batch, bundle, lineage, local, report
from pipeline.config import load
from serving.client.client import Query
from tests.models.served import served

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("loaded_once"),
]


def silent(_):
    """No progress."""


@pytest.fixture(scope="module")
def output(toy_run, tmp_path_factory) -> str:
    """A folder of runs with a blessed recall and a blessed ranker of the same split."""
    # Others ask the shared copy for its latest run.
    folder = str(shutil.copytree(toy_run.copy, tmp_path_factory.mktemp("bundles") / "runs"))
    settings = {
        "model": "lr",
        "data.source": toy_run.arguments[3],
        "data.schema": "movielens",
        "split.name": "leave_one_out",
        "output": folder,
    }
    # Ratings are random in the toy log: the gate is not what is tried here.
    settings.update({"hyper_parameters": {"epochs": 1}, "gate.min_lift": -1.0})
    local.require_push(local.run(load(None, settings), silent))
    return folder


@pytest.fixture(scope="module")
def pushed(output):
    """The record of a bundle that was pushed."""
    config = bundle.BundleConfig(recall="two_tower", rank="lr", candidates=12, output=output)
    record = bundle.run(config, silent)
    local.require_push(record)
    return record


def test_the_bundle_is_measured_beside_its_recall_and_pushed_as_one_version(pushed, output):
    overall = pushed.verdict["metrics"]["overall"]
    assert (
        pushed.blessed
        and pushed.canary
        and pushed.is_bundle
        and len(list(Path(pushed.pushed_path).parent.glob("[0-9]*"))) == 1
    )
    recall = next(
        record
        for record in lineage.load_runs(output)
        if record.run_id == pushed.training_parameters["recall_run"]
    )
    assert overall["alone_ndcg_10"] == pytest.approx(
        recall.verdict["metrics"]["overall"]["ndcg_10"], abs=1e-4
    )
    assert overall["lift_alone_ndcg_10"] == pytest.approx(
        overall["ndcg_10"] - overall["alone_ndcg_10"], abs=1e-5
    )
    # Ratings say nothing of the next item here: validation gives the ranking no more weight than is
    # good for the answer.
    weights = {row["weight"]: row["ndcg_10"] for row in pushed.bundling["weights"]}
    assert weights[pushed.bundling["weight"]] == max(weights.values()) >= weights[0.0]


def test_its_report_tells_both_stages(pushed):
    page = report.render(pushed)
    assert (
        "Two-tower recalls 12 items a request" in page
        and "the recall alone" in page
        and "Film" in page
    )
    assert "Validation NDCG@10 by the weight of the ranking" in page


def test_an_unchanged_bundle_comes_from_the_cache(pushed, output):
    again = bundle.run(
        bundle.BundleConfig(recall="two_tower", rank="lr", candidates=12, output=output), silent
    )
    assert again.cached and again.pushed_path == pushed.pushed_path


def test_a_batch_is_what_the_server_answers_row_for_row(pushed, output, tmp_path):
    users = tmp_path / "users.txt"
    # An id that is no UTF-8 is rejected and counted; an empty line is none.
    users.write_bytes("u0\nu17\n\nnobody ☃\n".encode() + b"\xff\xfe\n")
    counts = batch.run(str(tmp_path / "answer"), str(users), 4, pushed.run_id, output, silent)
    assert (
        counts["users"],
        counts["rows"],
        counts["rejected"],
        counts["strategy model"],
        counts["strategy fallback"],
    ) == (3, 12, 1, 2, 1)
    rows = pq.read_table(tmp_path / "answer").to_pylist()
    assert list(rows[0]) == ["user_id", "rank", "item_id", "score"]
    with (
        served(pushed.pushed_path, "recsys", enable_model_warmup=False) as server,
        server.client("grpc") as client,
    ):
        answers = client.recommend_many([Query("u0"), Query("u17"), Query("nobody ☃")], 4)
    assert answers[0].sources == ("two_tower",) * 4 and answers[2].sources == ("popularity",) * 4
    expected = [
        (user, rank, item, pytest.approx(score, rel=1e-5, abs=1e-6))
        for user, answer in zip(("u0", "u17", "nobody ☃"), answers, strict=True)
        for rank, (item, score) in enumerate(answer.items, 1)
    ]
    assert [tuple(row.values()) for row in rows] == expected


def test_a_batch_for_everybody_covers_the_users_table(pushed, output, tmp_path):
    counts = batch.run(str(tmp_path / "all"), None, 2, pushed.run_id, output, silent)
    assert (
        counts["users"] == 60 and counts["rows"] == pq.read_table(tmp_path / "all").num_rows == 120
    )
    with pytest.raises(ConfigError, match="which holds something"):
        batch.run(str(tmp_path / "all"), None, 2, pushed.run_id, output, silent)


def test_a_broken_request_file_is_refused_and_leaves_nothing(pushed, output, tmp_path):
    (tmp_path / "users.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no whole Parquet file"):
        batch.run(
            str(tmp_path / "answer"),
            str(tmp_path / "users.parquet"),
            4,
            pushed.run_id,
            output,
            silent,
        )
    with pytest.raises(DataError, match="which is no file"):
        batch.run(
            str(tmp_path / "answer"), str(tmp_path / "none.txt"), 4, pushed.run_id, output, silent
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users.parquet"]


def test_only_blessed_models_of_the_right_task_make_a_bundle(output):
    for values, message in (
        ({"recall": "lr"}, "--recall takes a retrieve model; received lr"),
        (
            {"recall": "two_tower", "rank": "two_tower"},
            "--rank takes a score model; received two_tower",
        ),
        ({"recall": "neumf"}, "no run of neumf in .*; make one: recsys run neumf"),
        ({"recall": "two_towr"}, "two_tower"),
    ):
        with pytest.raises(ConfigError, match=message):
            bundle.run(bundle.BundleConfig(**values, output=output), silent)


def record_of(name: str, split: dict, selection: str = "", **reader) -> lineage.RunRecord:
    """A run of these splits and reader's parameters, as ML Metadata would tell of it."""
    read = {"fingerprint": "abc", "reader": "", "columns": "", **reader}
    built = {"split": json.dumps(split), "selection": selection}
    steps = {"TableReader": read, "ExampleBuilder": built}
    return lineage.RunRecord(
        "now",
        name,
        Path("runs"),
        {node: lineage.Step(node, "complete", 1.0, values) for node, values in steps.items()},
    )


PARTED = {"name": "predefined", "sequence_by": "session"}


@pytest.mark.parametrize(
    "one, other, message",
    [
        ({"name": "ratio"}, {}, "the same split: split.name is 'ratio' and 'leave_one_out'"),
        ({}, {"seed": 43}, "the same split: split.seed is 42 and 43"),
        ({}, {"valid_fraction": 0.2}, "split.valid_fraction is 0.1 and 0.2"),
        # By session a whole session is held out; by user its last events only.
        (PARTED, {**PARTED, "sequence_by": "user"}, "split.sequence_by is 'session' and 'user'"),
        (PARTED, {**PARTED, "days": 2}, "split.days is 1.0 and 2"),
    ],
)
def test_a_ranker_of_another_split_makes_no_bundle(one, other, message):
    """It may have learned what the recall is tested on."""
    with pytest.raises(ConfigError, match=message):
        bundle._require_same_split(record_of("recall", one), record_of("rank", other))


def test_a_bundle_takes_the_measured_models_and_says_so(monkeypatch):
    """The refitted ones have seen the test rows that a bundle is measured on."""
    values = {"training_parameters": {"model": "two_tower"}, "pipeline": "two_tower-toy"}
    again = SimpleNamespace(**values, refit={"events": 540, "more": 120, "epochs": {"model": 1}})
    held = SimpleNamespace(**values, refit={"skipped": "the gate did not bless the model"})
    monkeypatch.setattr(lineage, "load_runs", lambda output: [])
    monkeypatch.setattr(local, "execute", lambda *arguments: None)
    for record, count in ((again, 1), (held, 0)):
        said = []
        monkeypatch.setattr(bundle, "_blessed", lambda *_, record=record: record)
        bundle.run(bundle.BundleConfig(recall="two_tower"), said.append)
        assert len([line for line in said if "takes the model that was measured" in line]) == count


def test_a_ranker_of_other_events_makes_no_bundle():
    fewer = record_of("recall", {}, '{"filters": {"min_item_events": 5}}')
    with pytest.raises(ConfigError, match="the same split: filters is .*5.* and .*0"):
        bundle._require_same_split(fewer, record_of("rank", {}))
    # What is asked for moves no event from one split to another.
    known = record_of("recall", {}, '{"filters": {"known_targets_only": true}}')
    bundle._require_same_split(known, record_of("rank", {}))


def test_what_only_decides_queries_or_the_length_of_rows_may_differ():
    recall = record_of(
        "recall",
        {"query_history": "train", "drop_repeats": False, "candidates": "ncf99"},
    )
    bundle._require_same_split(recall, record_of("rank", {"sequence_by": "session"}))
    # last_days parts whole sessions, whatever a row is.
    bundle._require_same_split(
        record_of("recall", {"name": "last_days"}),
        record_of("rank", {"name": "last_days", "sequence_by": "session"}),
    )


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"fingerprint": "xyz"},
            "the same data: the fingerprint of data.source is 'abc' and 'xyz'",
        ),
        ({"columns": '{"events": {}}'}, "the same data: data.columns is None and"),
        ({"reader": "csv"}, "the same data: data.reader is None and 'csv'"),
    ],
)
def test_a_ranker_of_other_rows_makes_no_bundle(values, message):
    with pytest.raises(ConfigError, match=message):
        bundle._require_same_split(record_of("recall", {}), record_of("rank", {}, **values))


def test_models_of_one_split_of_the_same_data_make_a_bundle(output):
    recall, rank = (
        next(
            record
            for record in lineage.load_runs(output)
            if record.pipeline.startswith(name) and record.blessed
        )
        for name in ("two_tower-", "lr-")
    )
    bundle._require_same_split(recall, rank)
