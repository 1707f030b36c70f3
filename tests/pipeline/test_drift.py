"""`recsys drift`: from a served model's own logs to findings, a page and an exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from models.names.errors import RecsysError
from pipeline import cli, drift, lineage
from serving.client.client import Query
from tests.models.served import served
from tests.pipeline.test_report import Page

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1200)]


def pushed(toy_run) -> lineage.RunRecord:
    """The toy run that pushed; other tests may have pushed more since."""
    return next(record for record in lineage.load_runs(toy_run.output) if record.pushed_path)


@pytest.fixture(scope="module")
def logs(toy_run, tmp_path_factory):
    """Requests to the pushed model, over both protocols.

    They are for each user in `asked`, and 120 strangers in `strange`.
    """
    assert toy_run.finished.returncode == 0, toy_run.finished.stderr
    folder, record = tmp_path_factory.mktemp("logs"), pushed(toy_run)
    histories = {f"u{user}": [] for user in range(60)}
    # Other tests may have pushed more: alone in a folder, this version is the newest.
    (folder / "served").mkdir()
    (folder / "served" / Path(record.pushed_path).name).symlink_to(record.pushed_path)
    for prefix, queries in (
        ("asked", [Query(user) for user in histories] * 4),
        ("strange", [Query(f"x{n}", ["no such item"]) for n in range(240)]),
    ):
        logged = {"request_log_prefix": str(folder / prefix), "request_log_sampling_rate": 1.0}
        version = folder / "served" / Path(record.pushed_path).name
        with served(version, "recsys", enable_model_warmup=False, **logged) as server:
            for protocol, half in (("rest", queries[:120]), ("grpc", queries[120:])):
                with server.client(protocol) as client:
                    for start in range(0, 120, 10):
                        client.recommend_many(half[start : start + 10], 5)
    return folder


def test_logs_of_known_users_pass(toy_run, logs, tmp_path):
    record, said = pushed(toy_run), []
    drift.require_met(
        drift.run(
            str(logs / "asked"),
            str(toy_run.output),
            record.run_id,
            report=str(tmp_path),
            say=said.append,
        )
    )
    assert (
        any("240 rows of 24 requests" in line for line in said)
        and f"report: {tmp_path / 'report.html'}" in said
    )
    found = json.loads((tmp_path / "findings.json").read_text("utf-8"))
    assert found["run"] == record.run_id and found["broken"] == [] and found["earlier"] is None
    assert found["logs"]["models"] == {f"recsys/{found['version']}": 24} and found["notes"] == []
    shares = {one["name"]: one["value"] for one in found["findings"] if one["kind"] == "share"}
    assert (
        shares["unknown users"] == 0
        and shares["answered by model"] == 1
        and shares["empty histories"] == 1
    )
    # Each user asked four times of 240, and has 9 of 540 events.
    skew = {one["name"]: one["value"] for one in found["findings"] if one["kind"] == "skew"}
    assert skew["user_id"] == pytest.approx(0, abs=1e-4)


def test_strangers_break_bounds_and_the_page_says_so(toy_run, logs, tmp_path):
    limits = {"max_fallback_share": 0.1}
    found = drift.run(
        str(logs / "strange"),
        str(toy_run.output),
        pushed(toy_run).run_id,
        str(logs / "asked"),
        limits=limits,
        report=str(tmp_path),
        say=str,
    )
    with pytest.raises(drift.Drifted, match="bounds are broken") as broken:
        drift.require_met(found)
    for text in (
        "100.0%: 240 of 240 rows are for users that the run's data do not have; at most 20.00% is "
        "allowed",
        "100.0%: 240 of 240 rows are answered by fallback; at most 10.00% is allowed "
        "(max_fallback_share)",
    ):
        assert text in str(broken.value)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img"} & set(tags) and "bounds are broken" in page.text[""]
    assert "answered by model: 0.0% now, 100.0% in the earlier period" in page.text["drift"]
    assert {"logs", "drift", "share", "pictures"} <= set(page.text)
    assert any(chart.startswith("Shares: ") for chart in page.charts())


def test_what_is_not_there_is_named(toy_run, logs, tmp_path):
    asked, output, run_id = str(logs / "asked"), str(toy_run.output), pushed(toy_run).run_id
    for arguments, message in (
        (
            {"logs": str(tmp_path / "none"), "output": output, "run_id": run_id},
            "no request logs at",
        ),
        ({"logs": asked, "output": str(tmp_path)}, "no model was pushed under"),
        ({"logs": asked, "output": output, "run_id": "no-such-run"}, "no run 'no-such-run'"),
        (
            {"logs": asked, "output": output, "run_id": run_id, "limits": {"max_fallback": 1}},
            "did you mean 'max_fallback_share'",
        ),
    ):
        with pytest.raises(RecsysError, match=message):
            drift.run(**arguments, report=str(tmp_path / "report"), say=str)


def test_the_command_exits_with_1_and_the_reason(toy_run, tmp_path):
    done = CliRunner().invoke(
        cli.main,
        [
            "drift",
            "--logs",
            str(tmp_path / "none"),
            "--output",
            str(toy_run.output),
            "--set",
            "min_rows=1",
        ],
    )
    assert done.exit_code == 1 and "error: no request logs at" in done.stderr
