"""The printed examples run against the server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from serving.client.client import Client
from serving.client.usage import main, usages
from tests.serving.support import ROOT

MODELS = ["half", "multi", "types", "bytes", "scalar", "counter", "recommender", "told", "a b"]


def printed(target, model: str, capsys) -> str:
    """What the command prints."""
    assert main([f"{target.host}:{target.rest}", model]) == 0
    return capsys.readouterr().out


def blocks(text: str, language: str) -> list[str]:
    """The code in one language."""
    return re.findall(f"```{language}\n(.*?)\n```", text, re.DOTALL)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_printed_runs(target, model, capsys):
    text = printed(target, model, capsys)
    commands = blocks(text, "bash")
    assert commands
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    for command in commands:
        ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
        answer = json.loads(ran.stdout)
        assert set(answer) <= {"outputs", "results"} and answer, (command, answer)
    for program in blocks(text, "python"):
        exec(compile(program, "printed", "exec"), {})  # noqa: S102
        assert capsys.readouterr().out.startswith(("{", "Recommendations("))


def test_every_signature_is_there(target, capsys):
    text = printed(target, "types", capsys)
    with Client(f"{target.host}:{target.rest}", "types") as client:
        signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
    assert re.findall("^## (.*)$", text, re.MULTILINE) == sorted(signatures)
    assert text.count("JSON has no value for this type") == 3  # complex64, float16, bfloat16


def test_recommend(target, capsys):
    text = printed(target, "recommender", capsys)
    assert "user_id string [?]" in text and "k int32 [?]" in text
    (program, _) = blocks(text, "python")
    assert 'client.recommend("1", history=["2", "3"], exclude=["4"], k=10)' in program


def test_names_are_quoted():
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [], "unknown_rank": True}}
    signature = {"inputs": {"it's": tensor}, "outputs": {"y": tensor}, "method_name": "m"}
    metadata = {"metadata": {"signature_def": {"signature_def": {"a'b": signature}}}}
    (usage,) = usages(metadata, "h:1", "m'n")
    words = subprocess.run(
        ["bash", "-c", usage.curl.replace("curl", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert json.loads(words[2]) == {"signature_name": "a'b", "inputs": {"it's": [1.0]}}
    assert words[3] == "http://h:1/v1/models/m%27n:predict"


def test_as_a_command(target):
    """Without TensorFlow, so at once."""
    command = [sys.executable, "-m", "serving.client.usage", f"{target.host}:{target.rest}"]
    ran = subprocess.run([*command, "half"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"# half, version 124, at {target.host}:{target.rest}")
    ran = subprocess.run([*command, "foo"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: Servable not found for request: Latest(foo)\n"
