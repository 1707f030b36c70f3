"""The ledger of what was blessed and pushed: which model the next run is compared with."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tfx.types import standard_artifacts

from components.gate import evaluation, ledger
from components.gate.last_blessed import ENTRY, LastBlessedExecutor
from components.gate.pusher import PusherExecutor
from models.names.errors import ConfigError
from pipeline import dag


def model(folder: Path, fingerprint: str = "f") -> str:
    """A folder such as the Trainer exports, and returns its name."""
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").write_bytes(fingerprint.encode())
    (folder / "variables" / "variables.index").write_bytes(b"\x1f\x8b not really gzip")
    log = folder / "assets.extra" / "training.json"
    log.write_text(json.dumps({"fingerprint": fingerprint}))
    return str(folder)


@pytest.fixture
def place(tmp_path) -> str:
    return str(tmp_path / "serving" / "shop")


def test_nothing_was_blessed_where_nothing_was_pushed(place):
    assert list(ledger.entries(place)) == [] and ledger.last_blessed(place) is None


def test_a_push_is_a_version_and_an_entry(tmp_path, place):
    one = ledger.push(
        model(tmp_path / "m", "a"), place, artifact="runs/Trainer/1", metrics={"hr_10": 0.5}
    )
    version = Path(place) / str(one.version)
    assert (version / "saved_model.pb").read_bytes() == b"a"
    # A name that Arrow would take for that of a compressed file is copied as it is.
    assert (version / "variables" / "variables.index").read_bytes().startswith(b"\x1f\x8b")
    assert (one.fingerprint, one.model, one.metrics) == ("a", "runs/Trainer/1", {"hr_10": 0.5})
    assert list(ledger.entries(place)) == [one]
    # TensorFlow Serving takes numbers for versions; nothing half written is left.
    assert {path.name for path in Path(place).iterdir()} == {str(one.version), ledger.FOLDER}
    assert [path.name for path in (Path(place) / ledger.FOLDER).iterdir()] == [
        f"{one.version}.json"
    ]


def test_two_pushes_within_a_second_are_two_versions(tmp_path, place):
    pushed = [ledger.push(model(tmp_path / name, name), place) for name in "abc"]
    versions = [one.version for one in pushed]
    assert versions[0] < versions[1] < versions[2]
    assert list(ledger.entries(place)) == pushed[::-1]


def test_a_run_is_not_compared_with_itself(tmp_path, place):
    a = ledger.push(model(tmp_path / "a", "a"), place)
    assert ledger.last_blessed(place, "a") is None  # the first run again, from the cache
    b = ledger.push(model(tmp_path / "b", "b"), place)
    assert ledger.last_blessed(place, "b") == a
    assert ledger.last_blessed(place, "a") == ledger.last_blessed(place) == b


def test_a_version_that_is_removed_is_taken_back(tmp_path, place):
    a, b = (ledger.push(model(tmp_path / name, name), place) for name in "ab")
    (Path(place) / str(b.version) / "saved_model.pb").unlink()
    assert ledger.last_blessed(place) == a
    # Its number is not given again: a server may still hold it.
    assert ledger.push(model(tmp_path / "c", "c"), place).version > b.version


def test_the_measured_model_is_kept_where_another_is_pushed(tmp_path, place):
    pushed, measured = model(tmp_path / "refitted", "r"), model(tmp_path / "measured", "m")
    one = ledger.push(pushed, place, measured=measured)
    assert (Path(place) / str(one.version) / "saved_model.pb").read_bytes() == b"r"
    assert one.fingerprint == "m" and ledger.last_blessed(place) == one
    ledger.copy_measured(one, place, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "saved_model.pb").read_bytes() == b"m"
    assert (tmp_path / "copy" / "assets.extra" / "training.json").exists()


def test_a_push_that_is_cut_off_is_not_compared_with(tmp_path, place, monkeypatch):
    a = ledger.push(model(tmp_path / "a", "a"), place)
    copied, seen = ledger.shutil.copyfileobj, []

    def full_disk(old, new, length):
        seen.append(new)
        if len(seen) == 3:  # of the log, the variables and saved_model.pb, which comes last
            raise OSError("no space left")
        copied(old, new, length)

    monkeypatch.setattr(ledger.shutil, "copyfileobj", full_disk)
    with pytest.raises(OSError, match="no space left"):
        ledger.push(model(tmp_path / "b", "b"), place)
    assert ledger.last_blessed(place) == a


def test_versions_of_before_there_was_a_ledger_count_by_their_own_log(tmp_path, place):
    old = Path(place)
    model(old / "1700000000", "old")
    (old / "1700000001").mkdir()
    (old / "1700000001" / "saved_model.pb").touch()  # of something else: no log of a training
    found = ledger.last_blessed(place)
    assert (found.version, found.fingerprint, found.measured) == (1700000000, "old", "1700000000")
    assert ledger.last_blessed(place, "old") is None
    one = ledger.push(model(tmp_path / "a", "a"), place)
    assert [entry.version for entry in ledger.entries(place)] == [one.version, 1700000000]
    # One that was fitted again on everything has learnt test: it is none to be compared with.
    refitted = model(old / "1700000002", "r")
    log = Path(refitted) / ledger.TRAINING_LOG
    log.write_text(json.dumps({"fingerprint": "r", "refit": {"of": "m"}}))
    assert [entry.version for entry in ledger.entries(place)] == [one.version, 1700000000]


@pytest.mark.parametrize("name", ["minio://bucket/x", "serving/shop"])
def test_a_place_that_arrow_does_not_know_is_refused(name):
    with pytest.raises(ConfigError, match="required: an? (absolute )?path.*received "):
        ledger.last_blessed(name)


class Artifact(SimpleNamespace):
    """What an executor is given."""

    def set_int_custom_property(self, name, value):
        self.properties[name] = value

    set_string_custom_property = set_int_custom_property


def test_the_component_copies_the_model_or_says_that_there_is_none(tmp_path, place):
    def found(name: str, **properties):
        artifact = Artifact(uri=str(tmp_path / name), properties={})
        LastBlessedExecutor().Do({}, {"model": [artifact]}, {"destination": place, **properties})
        return artifact, json.loads((tmp_path / name / ENTRY).read_text())

    artifact, entry = found("first")
    assert entry is None and artifact.properties == {}
    assert not ledger.holds_model(str(tmp_path / "first" / "Format-Serving"))
    one = ledger.push(model(tmp_path / "a", "a"), place, artifact="runs/Trainer/7")
    artifact, entry = found("second")
    assert entry["version"] == one.version and entry["fingerprint"] == "a"
    assert artifact.properties == {"version": one.version, "model": "runs/Trainer/7"}
    assert ledger.holds_model(str(tmp_path / "second" / "Format-Serving"))
    assert found("third", other_than="a")[1] is None


def test_a_cached_step_is_not_of_an_older_ledger(tmp_path, place):
    def compared(fingerprint: str):
        return dag.find_last_blessed(place, fingerprint).exec_properties["compared"]

    assert compared("a") == "null"
    ledger.push(model(tmp_path / "a", "a"), place)
    assert compared("a") == "null"  # the run itself again: all of it comes from the cache
    assert json.loads(compared("b"))["fingerprint"] == "a"
    ledger.push(model(tmp_path / "b", "b"), place)
    assert json.loads(compared("a"))["fingerprint"] == "b"
    # On a cluster nobody can know, and the step's cache is off.
    assert set(dag.find_last_blessed(place, None).exec_properties) == {"destination", "code_hash"}


@pytest.mark.parametrize("answered", [1, 0])
def test_what_is_pushed_may_be_another_model_than_the_measured_one(
    tmp_path, place, monkeypatch, answered
):
    def artifact(kind, name: str, **properties):
        made = kind()
        made.uri = str(tmp_path / name)
        for key, value in properties.items():
            made.set_int_custom_property(key, value)
        return [made]

    model(tmp_path / "refitted" / "Format-Serving", "r")
    model(tmp_path / "measured" / "Format-Serving", "m")
    found = SimpleNamespace(metrics={"overall": {"hr_10": 0.25}})
    monkeypatch.setattr(evaluation, "read_verdict", lambda uri, blessed: found)
    given = {
        "model": artifact(standard_artifacts.Model, "refitted"),
        "measured_model": artifact(standard_artifacts.Model, "measured"),
        "evaluation": artifact(standard_artifacts.ModelEvaluation, "evaluation"),
        "model_blessing": artifact(standard_artifacts.ModelBlessing, "blessing", blessed=1),
        "infra_blessing": artifact(standard_artifacts.InfraBlessing, "infra", blessed=answered),
    }
    pushed = artifact(standard_artifacts.PushedModel, "pushed")
    PusherExecutor().Do(given, {"pushed_model": pushed}, {"destination": place})
    assert pushed[0].get_int_custom_property("pushed") == answered
    assert (tmp_path / "pushed" / "pushed.json").is_file()  # an output is never empty
    if not answered:
        assert ledger.last_blessed(place) is None
        return
    one = ledger.last_blessed(place)
    version = Path(pushed[0].get_string_custom_property("pushed_destination"))
    assert version == Path(place) / str(one.version)
    assert (version / "saved_model.pb").read_bytes() == b"r"
    assert (one.fingerprint, one.metrics) == ("m", {"hr_10": 0.25})
    assert one.model == str(tmp_path / "measured")
