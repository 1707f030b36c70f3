"""`recsys ingest`: files, folders and standard input to a state, with what is wrong left out."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from pipeline import ingest as ingesting
from pipeline.cli import main
from serving.state import open_state
from tests.conftest import ROOT, recsys_command
from tests.serving.support import eventually

NOW = int(time.time())


def run(*arguments, stdin: bytes = b""):
    return CliRunner().invoke(main, ["ingest", *map(str, arguments)], input=stdin)


def items_of(path, user: str) -> list[str]:
    with open_state(str(path), ttl_seconds=0) as state:
        return [each.item_id.decode() for each in state.look_up([user.encode()]).histories[0]]


LINES = [
    {"user_id": "u", "item_id": "b", "timestamp": NOW - 5, "event_type": "buy"},
    {"user_id": "u", "item_id": "a", "timestamp": NOW - 9},
    {"item_id": "new", "features": {"genres": ["Drama"], "year": 1999}},
    {"item_id": "gone", "left": True},
    {"user_id": "u", "item_id": "old", "timestamp": NOW - 40 * 86400},
]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_of_json_lines(tmp_path, zipped):
    state, file = tmp_path / "state.db", tmp_path / ("lines.jsonl" + ".gz" * zipped)
    text = "\n\n".join(map(json.dumps, LINES)).encode()
    file.write_bytes(gzip.compress(text) if zipped else text)
    done = run(file, "--state", state)
    assert done.exit_code == 0, done.output
    assert f"4 written to {state}, 1 older than it keeps, 0 rejected" in done.output
    assert items_of(state, "u") == ["a", "b"]
    with open_state(str(state)) as found:
        assert found.look_up([]).left == (b"gone",)
        assert found.items()[b"new"].features == {"genres": ["Drama"], "year": 1999}
    # Once more changes nothing.
    assert run(file, "--state", state).exit_code == 0
    assert items_of(state, "u") == ["a", "b"]


def test_wrong_lines_are_named_and_the_others_written(tmp_path):
    state, file = tmp_path / "state.db", tmp_path / "lines.jsonl"
    wrong = ["{", "[1]", '{"user_id": "u"}', '{"item": "i"}', '{"user_id": "u", "item_id": 1}']
    file.write_text("\n".join([json.dumps(LINES[0]), *wrong]))
    done = run(file, "--state", state)
    assert done.exit_code == 1
    for said in (
        f"{file}, line 2: not JSON",
        f"{file}, line 3: required: an object",
        f"{file}, line 4: item_id: required: a string that is not empty; received nothing",
        f"{file}, line 5: 'item': an item has no such field; the nearest is item_id",
        f"{file}, line 6: item_id: required: a string that is not empty; received 1",
        "1 written",
        "5 rejected",
    ):
        assert said in done.output
    assert items_of(state, "u") == ["b"]
    many = tmp_path / "many.jsonl"
    many.write_text("no JSON\n" * 50)
    done = run(many, "--state", state)
    # The first ten are named.
    assert done.output.count("not JSON") == 10 and "rejected: 50 rows in all" in done.output


def test_a_folder_is_read_as_a_run_reads_it(tmp_path):
    folder, state = tmp_path / "data", tmp_path / "state.db"
    folder.mkdir()
    (folder / "events.csv").write_text(
        f"user_id,item_id,event_type,dwell,rating,timestamp\nu,b,buy,2.5,4,{NOW - 5}\n"
        f"u,a,view,,3,{NOW - 9}\n,c,view,1,3,{NOW}\n"
    )
    (folder / "items.csv").write_text("item_id,genres,year\na,Drama|War,1999\nb,Comedy,\n")
    done = run(folder, "--state", state)
    assert done.exit_code == 1 and "events.csv, line 4: empty user_id" in done.output, done.output
    assert "4 written" in done.output and "1 rejected" in done.output
    with open_state(str(state)) as found:
        first, second = found.look_up([b"u"]).histories[0]
        assert (first.item_id, first.event_type, first.dwell) == (b"a", "view", 0.0)
        assert (second.item_id, second.event_type, second.dwell) == (b"b", "buy", 2.5)
        features = found.items()[b"a"].features
        assert features["genres"] == ["Drama", "War"] and float(features["year"]) == 1999
        assert set(found.items()[b"b"].features) == {"genres"}


def test_a_movielens_folder_whose_events_are_old_says_so(toy_source, tmp_path):
    done = run(toy_source, "--state", tmp_path / "state.db")
    assert done.exit_code == 0, done.output
    # 60 users of 9 or 12 events each, from 1998, and 40 items.
    assert "40 written" in done.output and " 0 older" not in done.output
    done = run(toy_source, "--state", tmp_path / "state.db", "--ttl-days", 0)
    assert done.exit_code == 0 and " 0 older" in done.output
    assert len(items_of(tmp_path / "state.db", "u0")) == 9


def test_lines_of_standard_input_are_written_while_more_may_come(tmp_path):
    state = tmp_path / "state.db"
    process = subprocess.Popen(
        recsys_command("ingest", "-", "--state", state), stdin=subprocess.PIPE, cwd=ROOT
    )
    try:
        for number in range(2):
            line = {"user_id": "u", "item_id": f"i{number}", "timestamp": NOW + number}
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            expected = [f"i{each}" for each in range(number + 1)]
            eventually(lambda expected=expected: items_of(state, "u") == expected, 60)
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_many_rows_are_written_in_few_batches_and_all_of_them(monkeypatch):
    """2,500 lines: batches of 1,000 at most, whether they come from a file or from a pipe."""
    lines = b"\n".join(b'{"user_id": "u%d", "item_id": "i"}' % n for n in range(2500))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    written = []

    def write(events, items):
        written.append([each.user_id for each in events])
        return ingesting.Written(len(events) + len(items))

    report = ingesting.Report()
    ingesting.ingest("-", write, report)
    assert sum(written, []) == [b"u%d" % number for number in range(2500)]
    assert report.written == 2500 and max(map(len, written)) == 1000


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["/nowhere"], "/nowhere: required: a folder, a file of JSON lines, or - for standard"),
        (["-", "--state", "http://h"], "--state: a state is a file, or a Redis by redis://"),
    ],
)
def test_what_is_no_source_or_no_state_is_said(arguments, said):
    done = run(*arguments)
    assert done.exit_code == 1 and said in done.output


def test_nobody_there_is_said_with_what_was_written(monkeypatch):
    def refuse(*_):
        raise ingesting.ServingError(14, "nobody listens")

    monkeypatch.setattr(ingesting, "_to_server", lambda client: refuse)
    done = run("-", stdin=b'{"user_id": "u", "item_id": "i"}')
    assert done.exit_code == 1
    assert "writing to 127.0.0.1:8501, after 0 that were written: UNAVAILABLE" in done.output
