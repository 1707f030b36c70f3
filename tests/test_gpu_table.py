"""The GPU's benchmark has a row for every model that takes gradient steps."""

import sys

import tensorflow as tf

from benchmarks import gpu
from models.names import registry
from tests.conftest import ROOT


def test_every_model_is_measured_or_takes_no_steps():
    assert gpu.CLOSED_FORM == ("popularity", "item_knn", "ease", "ials", "v_sknn")
    assert [*registry.MODELS] == [
        name for name in registry.MODELS if (name in gpu.SETTINGS) != (name in gpu.CLOSED_FORM)
    ]
    assert {*gpu.CHANGES} <= {*gpu.SETTINGS}


def test_the_committed_table_has_every_model():
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    section = text.split("**A GPU**")[1].split("\n**")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert sorted(rows[1:]) == sorted(gpu.SETTINGS)


def test_without_a_gpu_it_says_so_and_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(sys, "argv", ["gpu"])
    gpu.main()  # which neither raises nor exits
    assert "TensorFlow sees no GPU: nothing was measured" in capsys.readouterr().out
