"""The main job, whole, on the toy log.

It is killed, finished, cached; and a worse model is not blessed.
"""

import json
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from components.gate import ledger
from components.tables.places import place
from models.training import warm_up
from pipeline import lineage
from serving.client.client import Client
from serving.server.process import ServerProcess
from serving.wire.protos import prediction_log
from serving.wire.records import read_records
from tests.conftest import recsys, recsys_here, recsys_until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1200)]


def versions(run):
    return sorted(path.name for path in (run.output / "serving").glob("*/[0-9]*"))


@pytest.mark.thorough
def test_ctrl_c_ends_a_run_with_one_line_and_the_next_goes_on_from_there(toy_source, tmp_path):
    arguments = ["run", "popularity", "--data", str(toy_source), "--output", str(tmp_path)]
    status, printed = recsys_until("TableReader  ", signal.SIGINT, *arguments)
    assert (
        status == 130
        and "interrupted; the next run goes on from here" in printed
        and "Traceback" not in printed
    )
    _, printed = recsys_until("TableReader  ", signal.SIGKILL, *arguments)
    assert re.search(r"TableReader +cached", printed)


def test_a_killed_run_goes_on_where_it_was(toy_run):
    status, _ = toy_run.killed
    assert status == -signal.SIGKILL
    for step in ("TableReader", "Transform"):
        assert re.search(rf"{step} +cached", toy_run.finished.stdout)
    resumed = int(re.search(r"resumed after epoch (\d+)", toy_run.finished.stdout).group(1))
    assert resumed >= 1
    epochs = [int(number) for number in re.findall(r"model epoch +(\d+)", toy_run.finished.stdout)]
    assert epochs == list(range(resumed + 1, 13))


def test_the_model_is_blessed_tried_and_pushed(toy_run):
    assert toy_run.finished.returncode == 0, toy_run.finished.stdout + toy_run.finished.stderr
    record = next(one for one in lineage.load_runs(toy_run.output) if one.pushed_path)
    assert record.blessed and record.canary and record.state == "complete"
    printed = toy_run.finished.stdout
    assert "split leave_one_out: events of other users that are later" in printed
    # What takes long is named before it is done.
    assert printed.index("exporting ...") < printed.index("writing the report ...")
    overall = record.verdict["metrics"]["overall"]
    assert overall["ndcg_10"] > overall["popularity_ndcg_10"] and overall["hr_10"] > 0.8
    assert {"activity:1-9", "temperature:warm"} <= set(record.verdict["metrics"])
    assert versions(toy_run) == [record.pushed_path.rsplit("/", 1)[-1]]
    page = next((toy_run.output / "reports").glob("*.html")).read_text("utf-8")
    assert (
        "two_tower" in page
        and str(next((toy_run.output / "reports").glob("*.html"))) in toy_run.finished.stdout
    )


def test_an_unchanged_run_comes_from_the_cache(toy_run):
    before = versions(toy_run)
    again = recsys_here(*toy_run.arguments)
    assert again.exit_code == 0, again.output
    record = lineage.load_run(toy_run.output)
    assert record.cached and {step.state for step in record.steps.values()} == {"cached"}
    assert "served from the cache" in again.stdout and versions(toy_run) == before


@pytest.mark.thorough
def test_refit_trains_the_blessed_model_again_on_everything_and_pushes_that(toy_run):
    """The toy log: 60 users with 9 events each, of which leave-one-out holds out two."""
    before = versions(toy_run)
    done = recsys_here(*toy_run.arguments, "--refit")
    assert done.exit_code == 0, done.output
    record = lineage.load_run(toy_run.output)
    # The model was measured before, and is not made again.
    states = {node: step.state for node, step in record.steps.items()}
    assert states["Trainer"] == states["Evaluator"] == "cached"
    chosen = record.training["best_epochs"]
    refit = dict(record.refit)
    assert refit.pop("seconds") > 0
    assert refit == {"events": 540, "more": 120, "epochs": chosen}
    assert "fitted again on everything: 540 train events, 120 more" in done.stdout
    assert record.canary_outcome is record.artifacts["Canary-refit", "blessing"]
    # What is pushed is the model that was fitted again; its log names the measured one.
    log = json.loads((Path(record.pushed_path) / "assets.extra" / "training.json").read_text())
    assert len(versions(toy_run)) == len(before) + 1 and len(log["epochs"]) == chosen["model"]
    assert log["refit"]["of"] == record.training["fingerprint"] != log["fingerprint"]
    assert log["refit"]["model"] == record.model_uri
    assert record.served_examples_uri != record.examples_uri
    # It comes from the cache as a whole.
    again = recsys_here(*toy_run.arguments, "--refit")
    assert again.exit_code == 0 and lineage.load_run(toy_run.output).cached


def test_a_worse_model_is_not_blessed_and_nothing_is_pushed(toy_run):
    before = versions(toy_run)
    assert before
    blessed = next(one for one in lineage.load_runs(toy_run.output) if one.pushed_path)
    settings = ("--set", "epochs=1", "--set", "learning_rate=1e-9", "--refit")
    worse = recsys_here(*toy_run.arguments, *settings)
    assert worse.exit_code == 1, worse.output
    found = re.search(
        r"ndcg_10: (0\.\d+) worse than the last blessed model's \(± 0\.\d+\); required: at most "
        r"(0\.\d+) worse.*; short by (0\.\d+)",
        worse.stderr,
    )
    assert found, worse.stderr
    fall, tolerated, short = map(float, found.groups())
    assert short == pytest.approx(fall - tolerated, abs=2e-4)
    assert found.group() not in worse.stdout  # said once
    assert versions(toy_run) == before
    record = lineage.load_run(toy_run.output)
    assert (
        not record.blessed
        and record.verdict["baseline"]["overall"]["ndcg_10"]
        > record.verdict["metrics"]["overall"]["ndcg_10"]
    )
    assert not any(
        name.endswith("_diff") for name in record.verdict["metrics"]["overall"]
    )  # TFMA's own; the baseline stands beside
    why = "the gate did not bless the model"
    assert record.artifacts["Canary", "blessing"]["reason"] == why
    # Nor was it fitted again, which would have taken a training.
    assert record.refit == {"skipped": why}
    left = Path(record.steps["Trainer-refit"].outputs["model"]).iterdir()
    assert [file.name for file in left] == ["skipped"]
    # It was compared with the model that was measured, not with the one fitted again and pushed,
    # which has learnt these very test rows.
    assert record.verdict["baseline"]["overall"]["ndcg_10"] == pytest.approx(
        blessed.verdict["metrics"]["overall"]["ndcg_10"], abs=1e-6
    )


@pytest.mark.thorough
def test_a_run_pushes_to_a_bucket_and_the_next_is_compared_with_what_lies_there(
    toy_run, bucket, tmp_path
):
    """The first finds no model in the bucket, though the folder of runs has one."""
    pushes, output = f"{bucket}/models", shutil.copytree(toy_run.copy, tmp_path / "runs")
    arguments = [*toy_run.arguments, "--output", output, "--set", f"push={pushes}"]
    first = recsys_here(*arguments)
    assert first.exit_code == 0, first.output
    record = lineage.load_run(output)
    assert record.blessed and record.verdict["baseline"] == {}
    (serving,) = place(pushes).iterdir()
    (entry,) = ledger.entries(str(serving))
    assert record.pushed_path == str(serving / str(entry.version))
    assert (serving / str(entry.version) / "saved_model.pb").is_file()
    worse = recsys_here(*arguments, "--set", "epochs=1", "--set", "learning_rate=1e-9")
    assert worse.exit_code == 1 and "worse than the last blessed model's" in worse.stderr
    # What was measured of the first is what the second is told of the model in the bucket.
    assert lineage.load_run(output).verdict["baseline"]["overall"]["ndcg_10"] == (
        pytest.approx(record.verdict["metrics"]["overall"]["ndcg_10"], abs=1e-6)
    )
    assert list(ledger.entries(str(serving))) == [entry]


def test_two_runs_are_compared_by_user(toy_run):
    pushed = next(one for one in lineage.load_runs(toy_run.copy) if one.pushed_path)
    table = recsys_here("compare", "latest", pushed.run_id, "--output", toy_run.copy)
    assert table.exit_code == 0, table.output
    assert re.search(r"ndcg_10 .*\+0\.0000 .*\+0\.0000 to \+0\.0000 .*within chance", table.output)
    assert "popularity_" not in table.output  # the same for both


def test_the_pushed_model_is_served_to_both_protocols(toy_run):
    folder = next((toy_run.output / "serving").iterdir())
    with open(next(folder.glob("[0-9]*")) / warm_up.FILE, "rb") as file:
        warm = [prediction_log.PredictionLog.FromString(record) for record in read_records(file)]
    asked = [log.predict_log.request for log in warm]
    assert [request.model_spec.signature_name for request in asked[::2]] == [
        "serving_default",
        "recommend",
        "recommend_rules",
        "recommend_explained",
        "similar",
        "similar_features",
        "embed",
        "retrieve",
    ]
    assert [request.inputs["user_id"].tensor_shape.dim[0].size for request in asked[:2]] == [1, 8]
    # The canary's server has replayed them.
    options = ("--enable-model-warmup=false",)
    with ServerProcess("recsys", str(folder), options=options) as ready:
        for protocol, flags in (("rest", ()), ("grpc", ("--grpc",))):
            address = f"127.0.0.1:{ready[protocol]}"
            with Client(address, "recsys", protocol) as client:
                first = client.recommend("u0", k=3)
                assert first.strategy == "model" and len(first.items) == 3
                excluded = [item for item, _ in first.items]
                like = client.similar(excluded[0], k=3)
                assert like.strategy == "vectors" and len(like.items) == 3
            asked = recsys(
                "recommend",
                "--user",
                "u0",
                "-k",
                "5",
                "--explain",
                "--address",
                address,
                *flags,
                "--output",
                toy_run.output,
                *(part for item in excluded for part in ("--exclude", item)),
            )
            assert asked.returncode == 0, asked.stderr
            shown = {
                line.split("│")[2].strip()
                for line in asked.stdout.splitlines()
                if line.count("│") > 3
            }
            assert shown and not shown & set(excluded)
            # The two-tower's difference, of films that the user had.
            assert re.search(r"Film \d+ \(0\.\d+\)", asked.stdout), asked.stdout
            assert "weights: what the score loses where" in asked.stdout
            stranger = recsys(
                "recommend",
                "--user",
                "nobody",
                "--address",
                address,
                *flags,
                "--output",
                toy_run.output,
            )
            assert "strategy: fallback" in stranger.stdout and "Film" in stranger.stdout


def test_runs_are_listed_and_shown(toy_run):
    listed = recsys("runs", "--output", toy_run.output)
    assert (
        listed.returncode == 0 and "two_tower" in listed.stdout and "interrupted" in listed.stdout
    )
    record = next(one for one in lineage.load_runs(toy_run.output) if one.pushed_path)
    shown = recsys("show", record.run_id, "--output", toy_run.output)
    assert (
        shown.returncode == 0
        and record.pushed_path in shown.stdout.replace("\n", "")
        and "code hash" in shown.stdout
    )


def test_a_second_server_on_the_same_port_is_refused(toy_run):
    folder = next((toy_run.output / "serving").iterdir())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = recsys("serve", "--model-dir", folder, "--rest-port", port, "--grpc-port", "0")
    assert refused.returncode == 1 and port in refused.stderr and "Traceback" not in refused.stderr


def test_a_broken_log_stops_the_run_by_name(toy_source, tmp_path):
    source = tmp_path / "broken"
    source.mkdir()
    for file in toy_source.iterdir():
        text = file.read_text("utf-8")
        if file.suffix == ".inter":
            head, *lines = text.splitlines()
            text = "\n".join([head, *(line.rsplit("\t", 2)[0] + "\tlots\t1" for line in lines)])
        (source / file.name).write_text(text, "utf-8")
    done = recsys_here("run", "popularity", "--data", source, "--output", tmp_path / "runs")
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    assert "toy.inter" in done.stderr and "line 2" in done.stderr and "lots" in done.stderr
    page = next((tmp_path / "runs" / "reports").glob("*.html"))
    assert str(page) in done.stdout and "lots" in page.read_text("utf-8")
