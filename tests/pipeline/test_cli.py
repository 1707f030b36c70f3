"""The command line as a user meets it: in a process of its own."""

import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from pipeline import because, demo, lineage
from pipeline.cli import main
from serving.client import Reasons, Recommendations
from tests.conftest import ROOT, recsys


def test_help_answers_at_once_and_imports_nothing_heavy():
    best = min(_timed("--help") for _ in range(3))
    assert best < 0.5
    code = (
        "import pipeline.cli, sys; print([m for m in ('tensorflow', 'tfx', 'apache_beam', "
        "'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def _timed(*arguments):
    started = time.monotonic()
    assert recsys(*arguments).returncode == 0
    return time.monotonic() - started


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name):
    answer = CliRunner().invoke(main, [name, "--help"])
    assert answer.exit_code == 0 and "Example: recsys " in answer.output


def test_models_are_listed():
    answer = CliRunner().invoke(main, ["models"])
    assert answer.exit_code == 0 and "two_tower" in answer.output and "WWW 2017" in answer.output
    assert "similarity" in answer.output and "explains by" in answer.output


def test_why_an_item_is_answered_is_one_line():
    titles = {"1": "One"}
    said = {
        Reasons("sum", (("1", 0.51234), ("2", 12.0), ("3", 1e-5), ("4", 0.1))): (
            "One (0.51), 2 (12), 3 (1.0e-05)"
        ),
        Reasons("difference"): "no one item",
        Reasons("sum", (("1", 1.0),), (("genre", -0.5), ("age", 0.25))): (
            "One (1.0); genre -0.50, age +0.25"
        ),
        Reasons("segment", (("user_gender = F", 1.0),)): "popular where user_gender = F",
        Reasons("popularity"): "popular",
        Reasons("pin"): "pinned",
        Reasons("none"): "not said",
    }
    for reasons, line in said.items():
        assert because.line(reasons, titles) == line
    assert because.meaning(["pin", "pin"]) == "none"
    assert because.meaning(["attention", "pin"]).startswith("how much of the")


def test_datasets_are_listed():
    answer = CliRunner().invoke(main, ["datasets"])
    assert answer.exit_code == 0 and "movielens-100k" in answer.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "neumff"], "did you mean 'neumf'"),
        (["run", "--data", "movielens-100"], "did you mean 'movielens-100k'"),
        (["run", "--set", "epochs"], "--set requires NAME=VALUE"),
        (["run", "--config", "no-such-file.yaml"], "cannot read the run file"),
        (["data", "get", "movielens-100"], "did you mean 'movielens-100k'"),
        (["show", "latest", "--output", "no-such-folder"], "there are none yet"),
    ],
)
def test_user_errors_are_one_message_and_exit_code_1(tmp_path, arguments, message):
    done = recsys(*arguments, *(["--output", str(tmp_path)] if arguments[0] == "run" else []))
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_a_command_with_one_line(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lineage, "load_runs", interrupt)
    answer = CliRunner().invoke(main, ["runs", "--output", str(tmp_path)])
    assert answer.exit_code == 130
    assert answer.output == "interrupted; the next run goes on from here\n"


@pytest.mark.parametrize("k", ["0", "-3", "many"])
def test_k_below_one_is_a_usage_error(k):
    done = recsys("recommend", "--user", "1", "-k", k)
    assert done.returncode == 2 and "-k" in done.stderr


def test_two_runs_on_one_output_folder(tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = recsys("run", "--output", str(tmp_path))
    assert done.returncode == 1 and "another run (process 4711)" in done.stderr


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = recsys("run", "--output", str(tmp_path / "file" / "below"))
    assert done.returncode == 1 and "cannot write to the output folder" in done.stderr


@pytest.mark.skipif(
    not os.path.exists("/dev/full") or not os.access("/dev/full", os.W_OK), reason="needs /dev/full"
)
def test_a_full_disk_is_said_in_one_line():
    from models.names.errors import RecsysError
    from pipeline.local import readable_errors

    with pytest.raises(RecsysError, match="the disk is full"), readable_errors():
        with open("/dev/full", "w", buffering=1) as device:
            print("anything", file=device)


def test_ports_to_serve_at_are_refused_by_the_flag_that_was_typed(tmp_path):
    flags = ["serve", "--model-dir", str(tmp_path), "--rest-port"]
    beyond = CliRunner().invoke(main, [*flags, "99999"])
    assert beyond.exit_code == 2 and "'--rest-port': 99999 is not in the range" in beyond.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flag in ("--rest-port", "--grpc-port"):
            done = CliRunner().invoke(main, [*flags, "0", flag, port])
            assert done.exit_code == 1
            said = f"{flag}, --host: cannot listen on 127.0.0.1:{port}: Address already in use"
            assert said in done.output


def test_nobody_to_ask_is_a_clear_error():
    done = recsys("recommend", "--user", "1", "--address", "127.0.0.1:9")
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_an_answer_without_items_is_one_line_with_the_reason(capsys):
    said = [
        (Recommendations([], "model"), "user u: no items: the request excl"),
        (Recommendations([], "unknown"), "user u: no items: the model does not know the item"),
        (Recommendations([], "model", fewer="where"), "user u: no items: where"),
    ]
    for answer, line in said:
        demo.print_answer("user u", answer, {}, 10)
        printed = capsys.readouterr().out
        assert printed.startswith(line) and printed.count("\n") == 1
    for asked, is_short in ((1, False), (2, True)):
        demo.print_answer("user u", Recommendations([("i", 1.0)], "model"), {}, asked)
        assert ("1 items in place of 2: the request excl" in capsys.readouterr().out) is is_short
