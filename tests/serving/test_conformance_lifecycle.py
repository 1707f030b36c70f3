"""Configuration, labels and versions that come and go (cases L)."""

from __future__ import annotations

import shutil
import threading

import pytest

from serving.wire import protos
from tests.serving.support import entry, eventually, expect_status

LATEST_2 = "model_version_policy { latest { num_versions: 2 } }"
ALL = "model_version_policy { all {} }"
AVAILABLE = "AVAILABLE"


def labelled(**labels: int) -> str:
    """Text of version_labels."""
    return " ".join(
        f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items()
    )


def test_models_replaced_L1(target, scratch, copy_model):
    first, second = scratch("first"), scratch("second")
    copy_model("half/123", first / "1")
    copy_model("half3/123", second / "1")
    assert target.reload(entry(first.name, first)).status.error_code == 0
    assert target.half(first.name) == 3.0
    assert target.reload(entry(second.name, second)).status.error_code == 0
    assert target.half(second.name) == 4.0
    eventually(lambda: target.states(first.name) == {1: "END"})
    assert target.post(f"/v1/models/{first.name}:predict", {"instances": [1]}).status == 404


def test_other_config_L2(target):
    request = protos.management.ReloadConfigRequest()
    request.config.custom_model_config.type_url = "x"
    with expect_status("INVALID_ARGUMENT", "Only ModelConfigList is currently supported"):
        target.model.HandleReloadConfigRequest(request)
    with expect_status("INVALID_ARGUMENT", "Only ModelConfigList is currently supported"):
        target.model.HandleReloadConfigRequest(protos.management.ReloadConfigRequest())


@pytest.mark.parametrize(
    "text,message",
    [
        pytest.param(
            'name: "half" base_path: "/m" model_platform: "tensorflow"',
            "Illegal to list model half multiple times in config list",
            id="L3",
        ),
        pytest.param(
            'name: "A" base_path: "m/a" model_platform: "tensorflow"',
            "Expected model A to have an absolute path or URI; got base_path()=m/a",
            id="L4",
        ),
        pytest.param(
            'name: "A" base_path: "/m/a"',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform",
            id="L5",
        ),
    ],
)
def test_config_refused(target, text, message):
    with expect_status("INVALID_ARGUMENT", message):
        target.reload(text)
    assert target.half() == 3.0


def test_label_of_an_absent_version_L6(target, scratch, copy_model):
    folder = scratch("label")
    copy_model("half/123", folder / "1")
    target.reload(entry(folder.name, folder))
    text = (
        f"Request to assign label to version 9 of model {folder.name}, "
        "which is not currently available for inference"
    )
    with expect_status("FAILED_PRECONDITION", text):
        target.reload(entry(folder.name, folder, labelled(new=9)))
    assert target.half(folder.name) == 3.0
    target.reload(entry(folder.name, folder, labelled(new=1)))
    assert target.half(folder.name, "/labels/new") == 3.0


def test_label_and_version_in_one_reload_L8(target, scratch, copy_model):
    folder = scratch("label-first")
    copy_model("half/123", folder / "1")
    target.reload(entry(folder.name, folder, "model_version_policy { specific { versions: 1 } }"))
    copy_model("half3/123", folder / "2")
    both = "model_version_policy { specific { versions: 1 versions: 2 } } "
    with expect_status("FAILED_PRECONDITION", "Request to assign label to version 2"):
        target.reload(entry(folder.name, folder, both + labelled(next=2)))
    target.reload(entry(folder.name, folder, both))
    target.reload(entry(folder.name, folder, both + labelled(next=2)))
    assert target.half(folder.name, "/labels/next") == 4.0


def test_labels_for_unavailable_L7(start, tmp_path, copy_model):
    copy_model("half/123", tmp_path / "1")
    config = tmp_path / "models.config"

    def write(labels: str) -> None:
        config.write_text(f"model_config_list {{ config {{ {entry('m', tmp_path, labels)} }} }}")

    write(labelled(now=1, later=2))
    server = start(
        model_config_file=config,
        allow_version_labels_for_unavailable_models=True,
        file_system_poll_wait_seconds=0.05,
    )
    assert server.half("m", "/labels/now") == 3.0
    reply = server.post("/v1/models/m/labels/later:predict", {"instances": [1]})
    assert (reply.status, reply.json()["error"]) == (
        404,
        "Servable not found for request: Specific(m, 2)",
    )

    def reload(labels: str) -> None:
        request = protos.management.ReloadConfigRequest()
        from google.protobuf import text_format

        text_format.Parse(
            f"model_config_list {{ config {{ {entry('m', tmp_path, labels)} }} }}", request.config
        )
        server.model.HandleReloadConfigRequest(request)

    reload(labelled(now=1, later=2, another=7))
    with expect_status("FAILED_PRECONDITION", "Request to assign label to version 7 of model m"):
        reload(labelled(now=7))
    copy_model("half3/123", tmp_path / "2")
    eventually(lambda: server.states("m").get(2) == AVAILABLE)
    assert server.half("m", "/labels/later") == 4.0


def test_metric_names_L9(target, scratch, copy_model):
    name = "/tensorflow/cc/saved_model/load_attempt_count"
    folder = scratch("metric")
    copy_model("half/123", folder / "1")
    response = target.reload(entry(folder.name, folder), metric_names=[name, "/no/such"])
    assert {metric.name: metric.int64_value_increase for metric in response.metric} == {
        name: 1,
        "/no/such": 0,
    }


@pytest.mark.parametrize(
    "policy,loaded",
    [
        pytest.param("", [3], id="L10"),
        pytest.param(LATEST_2, [2, 3], id="L11"),
        pytest.param(ALL, [1, 2, 3], id="L12"),
        pytest.param("model_version_policy { specific { versions: 2 } }", [2], id="L13"),
        pytest.param(
            "model_version_policy { specific { versions: 2 versions: 9 } }", [2], id="L13-missing"
        ),
    ],
)
def test_policy(target, scratch, copy_model, policy, loaded):
    folder = scratch("policy")
    for version in (1, 2, 3):
        copy_model("half/123", folder / str(version))
    target.reload(entry(folder.name, folder, policy))
    eventually(lambda: target.states(folder.name) == dict.fromkeys(loaded, AVAILABLE))


def test_directory_names_L14(target, scratch, copy_model):
    folder = scratch("names")
    copy_model("half/123", folder / "00000123")
    copy_model("half/123", folder / "abc")
    copy_model("half/123", folder / ".tmp")
    copy_model("half/123", folder / "7")
    copy_model("half3/123", folder / "007")
    (folder / "9").write_text("a file")
    target.reload(entry(folder.name, folder, ALL))
    assert target.states(folder.name) == {123: AVAILABLE, 7: AVAILABLE}
    assert target.half(folder.name, "/versions/123") == 3.0


class Load:
    """Asks without pause, from threads of its own, until the `with` ends."""

    def __init__(self, target, model: str, threads: int = 2):
        self._target, self._model = target, model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        self.answers: list[float] = []
        self.failures: list[object] = []

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._target.half(self._model))
            except (AssertionError, OSError) as error:
                self.failures.append(error)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.answers) > 5)
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_new_version_L15(target, scratch, copy_model):
    folder = scratch("next")
    copy_model("half/123", folder / "124")
    target.reload(entry(folder.name, folder))
    with Load(target, folder.name) as load:
        copy_model("half3/123", folder / "125")
        eventually(lambda: target.states(folder.name) == {124: "END", 125: AVAILABLE})
        eventually(lambda: load.answers[-1] == 4.0)
    assert load.failures == []
    assert set(load.answers) == {3.0, 4.0}


def test_broken_version_L16(target, scratch, copy_model):
    folder = scratch("broken")
    copy_model("half/123", folder / "124")
    target.reload(entry(folder.name, folder))
    (folder / "125").mkdir()
    (folder / "125" / "saved_model.pb").write_bytes(b"no model")
    eventually(lambda: target.states(folder.name) == {124: AVAILABLE, 125: "END"})
    assert target.half(folder.name) == 3.0


def test_load_retries_L16(start, tmp_path, copy_model):
    copy_model("half/123", tmp_path / "124")
    server = start(
        model_base_path=tmp_path,
        file_system_poll_wait_seconds=0.05,
        max_num_load_retries=2,
        load_retry_interval_micros=300_000,
        monitoring_config_file=server_monitoring(tmp_path),
    )
    (tmp_path / "125").mkdir()
    eventually(lambda: server.states("default").get(125) == "LOADING")
    eventually(lambda: server.states("default").get(125) == "END")
    page = server.get("/monitoring/prometheus/metrics").body.decode()
    assert f'model_path="{tmp_path / "125"}",status="fail"}} 3' in page
    assert server.half("default") == 3.0


def server_monitoring(folder):
    """A file that switches the metrics on."""
    path = folder / "monitoring.config"
    path.write_text("prometheus_config { enable: true }")
    return path


def test_largest_removed_L17(target, scratch, copy_model):
    folder = scratch("fallback")
    copy_model("half/123", folder / "1")
    copy_model("half3/123", folder / "2")
    target.reload(entry(folder.name, folder))
    assert target.half(folder.name) == 4.0
    with Load(target, folder.name) as load:
        shutil.rmtree(folder / "2")
        eventually(lambda: target.states(folder.name) == {1: AVAILABLE, 2: "END"})
        eventually(lambda: load.answers[-1] == 3.0)
    assert load.failures == []


def test_polled_once_L18(start, tmp_path, copy_model):
    copy_model("half/123", tmp_path / "1")
    once = start(model_base_path=tmp_path, file_system_poll_wait_seconds=0)
    polling = start(model_base_path=tmp_path, file_system_poll_wait_seconds=0.05)
    copy_model("half3/123", tmp_path / "2")
    eventually(lambda: polling.half("default") == 4.0)
    eventually(lambda: polling.states("default") == {1: "END", 2: AVAILABLE})
    assert once.states("default") == {1: AVAILABLE}
    assert once.half("default") == 3.0


def test_config_file_polled_L19(start, tmp_path, copy_model, laboratory):
    for name, model in (("a", "half/123"), ("b", "half3/123")):
        (tmp_path / name).mkdir()
        copy_model(model, tmp_path / name / "1")
    config = tmp_path / "models.config"

    def write(*names: str) -> None:
        entries = (f"config {{ {entry(name, tmp_path / name)} }}" for name in names)
        config.write_text(f"model_config_list {{ {' '.join(entries)} }}")

    write("a")
    server = start(model_config_file=config, model_config_file_poll_wait_seconds=0.05)
    write("a", "b")
    eventually(lambda: server.states("b") == {1: AVAILABLE})
    config.write_text("model_config_list { nonsense }")
    eventually(lambda: "the model configuration stays as it was" in laboratory.log())
    assert (server.half("a"), server.half("b")) == (3.0, 4.0)
    write("b")
    eventually(lambda: server.states("a") == {1: "END"})
    assert server.half("b") == 4.0
