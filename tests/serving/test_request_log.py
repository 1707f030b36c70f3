"""Request logs: a sample of what was asked and answered, in TensorFlow Serving's own format."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from serving.server.metrics import Metrics
from serving.server.model_config import RequestLogConfig, read_model_config_file
from serving.server.options import ServerOptions
from serving.server.request_log import LogLimits, Predicted, RequestLog
from serving.wire import protos
from serving.wire.errors import ServingError, StartError
from tests.serving.support import Process, Target, eventually, free_port
from tests.serving.test_conformance_grpc import predict
from tests.serving.test_conformance_metrics import page
from tests.serving.test_faults_process import ask_slowly


def read(path: Path) -> list:
    """The records of a file as TensorFlow itself reads them, checksums included."""
    log = protos.prediction_log.PredictionLog
    return [log.FromString(one.numpy()) for one in tf.data.TFRecordDataset(str(path))]


def read_all(folder: Path, pattern: str = "*") -> list:
    return [record for path in sorted(folder.glob(pattern)) for record in read(path)]


def visible(folder: Path) -> list[str]:
    """The names that a reader of the folder meets."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def logging_config(folder: Path, name: str, rate: float = 1.0, type_: str = "file") -> str:
    return (
        f'logging_config {{ log_collector_config {{ type: "{type_}" filename_prefix: '
        f'"{folder / name}" }} '
        f"sampling_config {{ sampling_rate: {rate} }} }}"
    )


def config_file(models: Path, path: Path, **logs: str) -> Path:
    """A model config file: a `config` for each model, with its logging_config."""
    entries = [
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" '
        f"{text} }}"
        for name, text in logs.items()
    ]
    path.write_text("model_config_list { " + " ".join(entries) + " }")
    return path


def test_a_process_logs_both_protocols_and_closes_its_files_when_it_is_told_to_stop(
    laboratory, tmp_path
):
    logs, rest, grpc_port = tmp_path / "logs", free_port(), free_port()
    names = {name: logging_config(logs, name) for name in ("half", "faulty")}
    models = config_file(laboratory.models, tmp_path / "models.config", **names)
    process = Process(
        "-m",
        "serving.server",
        f"--rest-api-port={rest}",
        f"--port={grpc_port}",
        f"--model-config-file={models}",
        errors=tmp_path / "server.log",
    )
    try:
        process.line()
        target = Target("127.0.0.1", rest, grpc_port, laboratory.models)
        before = int(time.time())
        assert target.half() == 3.0  # 2 / 2 + 2
        request = predict("half")
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([2.0, 4.0]))
        request.output_filter.append("y")
        response = target.prediction.Predict(request)
        # A request that fails is not logged.
        assert target.post("/v1/models/half:predict", {"instances": ["a"]}).status == 400
        eventually(
            lambda: any(name.startswith(".half-") for name in os.listdir(logs)),
            what="a temporary file",
        )
        assert visible(logs) == []
        # One request is under way when the process is told to stop: it is answered, and logged.
        slow, answered = ask_slowly(target, 30_000.0)
        time.sleep(0.3)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(20) == 0
        slow.join()
        target.channel.close()
    finally:
        process.end()
    assert answered == [200]
    (faulty, half), everything = visible(logs), os.listdir(logs)
    assert half.startswith("half-20") and half.endswith(".tfrecord") and len(everything) == 2
    by_rest, by_grpc = read(logs / half)
    (drained,) = read(logs / faulty)
    for record, version in ((by_rest, 124), (by_grpc, 124), (drained, 1)):
        assert record.WhichOneof("log_type") == "predict_log"
        assert record.log_metadata.model_spec.name == ("half" if version == 124 else "faulty")
        assert record.log_metadata.model_spec.version.value == version
        assert record.log_metadata.sampling_config.sampling_rate == 1
        assert before <= record.log_metadata.timestamp_secs <= time.time()
    assert by_rest.log_metadata.model_spec.signature_name == "serving_default"
    assert drained.log_metadata.model_spec.signature_name == "slow"
    assert tf.make_ndarray(by_rest.predict_log.request.inputs["x"]).tolist() == [2.0]
    assert tf.make_ndarray(by_rest.predict_log.response.outputs["y"]).tolist() == [3.0]
    logged = by_grpc.predict_log
    assert tf.make_ndarray(logged.request.inputs["x"]).tolist() == [2.0, 4.0]
    assert logged.request.model_spec.name == "half" and list(logged.request.output_filter) == ["y"]
    assert logged.response == response


def test_a_file_is_closed_by_age_while_the_server_goes_on_and_only_its_model_is_logged(
    laboratory, start, tmp_path
):
    logs, path = tmp_path / "logs", tmp_path / "models.config"
    server = start(
        model_config_file=config_file(
            laboratory.models, path, half=logging_config(logs, "half"), multi=""
        ),
        monitoring_config_file=laboratory.models / "monitoring.config",
        request_log_max_file_seconds=0.2,
    )
    for _ in range(3):
        server.half()
    instance = {"tag": "a", "signal": [0.0] * 5, "sensor": [[0.0] * 2] * 2}
    assert server.post("/v1/models/multi:predict", {"instances": [instance]}).status == 200
    eventually(lambda: len(read_all(logs)) == 3, what="three records")
    counted = page(server)
    assert counted[':tensorflow:serving:request_log_count{model_name="half",status_code="OK"}'] == 3
    assert not [name for name in counted if "request_log_count" in name and "multi" in name]
    assert all(name.startswith("half-") for name in visible(logs))


def test_examples_are_logged_under_their_own_kind(laboratory, start, tmp_path):
    logs = tmp_path / "logs"
    server = start(
        model_name="half",
        model_base_path=laboratory.models / "half",
        request_log_prefix=logs / "half",
        request_log_sampling_rate=1,
        request_log_max_file_bytes=1,
    )
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}
    assert server.post("/v1/models/half:regress", body).json() == {"results": [3.0]}
    body["signature_name"] = "classify_x_to_y"
    assert server.post("/v1/models/half:classify", body).status == 200
    # The smallest size closes a file after each record.
    eventually(lambda: len(visible(logs)) == 2, what="two files")
    regress, classify = read_all(logs)
    assert regress.regress_log.response.result.regressions[0].value == 3.0
    assert regress.regress_log.request.input.example_list.examples[0].features.feature[
        "x"
    ].float_list.value == [2.0]
    assert classify.classify_log.request.model_spec.signature_name == "classify_x_to_y"


def test_a_rate_of_zero_logs_nothing_and_opens_no_file(laboratory, start, tmp_path):
    logs = tmp_path / "logs"
    server = start(
        model_name="half",
        model_base_path=laboratory.models / "half",
        request_log_prefix=logs / "half",
        request_log_sampling_rate=0,
        request_log_max_file_bytes=1,
        monitoring_config_file=laboratory.models / "monitoring.config",
    )
    for _ in range(5):
        server.half()
    assert os.listdir(logs) == []
    assert not [name for name in page(server) if "request_log_count" in name]


def test_reloading_the_configuration_switches_logs_on_and_off(laboratory, start, tmp_path):
    logs = tmp_path / "logs"
    server = start(
        model_config_file=config_file(laboratory.models, tmp_path / "models.config", half=""),
        request_log_max_file_bytes=1,
    )
    server.half()
    request = protos.management.ReloadConfigRequest()
    text = config_file(
        laboratory.models, tmp_path / "on.config", half=logging_config(logs, "half")
    ).read_text()
    text_format.Parse(text, request.config)
    server.model.HandleReloadConfigRequest(request, timeout=60)
    server.half()
    eventually(lambda: logs.exists() and len(visible(logs)) == 1, what="one file")
    request.config.model_config_list.config[0].ClearField("logging_config")
    server.model.HandleReloadConfigRequest(request, timeout=60)
    server.half()
    assert len(read_all(logs)) == 1


def test_warm_up_takes_a_log_as_it_is(laboratory, start, tmp_path):
    """The log of one version replays on the next: its request names no version."""
    log, config = RequestLog(Metrics()), RequestLogConfig(str(tmp_path / "half"), 1.0)
    fill = Predicted(
        "half", 123, "", "serving_default", {"x": np.float32([2])}, {"y": np.float32([3])}
    )
    log.add(config, "half", 123, "serving_default", fill.size, fill)
    log.close()
    model, (name,) = tmp_path / "models" / "124", visible(tmp_path)
    shutil.copytree(laboratory.models / "half" / "124", model)
    (model / "assets.extra").mkdir(exist_ok=True)
    os.rename(tmp_path / name, model / "assets.extra" / "tf_serving_warmup_requests")
    server = start(
        model_name="half",
        model_base_path=model.parent,
        monitoring_config_file=laboratory.models / "monitoring.config",
    )
    assert server.half() == 3.0
    warmed = {
        name: value for name, value in page(server).items() if "model_warmup_latency_count" in name
    }
    assert list(warmed.values()) == [1] and 'status="OK"' in next(iter(warmed))


# --- the writer by itself


def add(log: RequestLog, config: RequestLogConfig, number: int = 0, size: int = 100) -> None:
    array = np.array([b"u%d" % number], object)
    fill = Predicted(
        "m", 1, "", "serving_default", {"user_id": array}, {"score": np.float32([number])}
    )
    log.add(config, "m", 1, "serving_default", size, fill)


def counts(metrics: Metrics) -> dict[str, int]:
    return {code: count for (_, code), count in metrics.request_log_count.cells.items()}


def users(records: list) -> list[bytes]:
    return [record.predict_log.request.inputs["user_id"].string_val[0] for record in records]


def test_files_are_closed_at_their_size_and_hold_every_record_once(tmp_path):
    metrics = Metrics()
    log, config = (
        RequestLog(metrics, LogLimits(file_bytes=1000)),
        RequestLogConfig(str(tmp_path / "m"), 1.0),
    )
    for number in range(50):
        add(log, config, number)
    log.close()
    names = visible(tmp_path)
    sizes = [(tmp_path / name).stat().st_size for name in names]
    assert len(names) > 3 and all(1000 <= size < 1300 for size in sizes[:-1])
    assert users(read_all(tmp_path)) == [b"u%d" % number for number in range(50)]
    assert counts(metrics) == {"OK": 50}
    assert sorted(os.listdir(tmp_path)) == names


def test_what_does_not_fit_is_dropped_at_once_and_counted(tmp_path):
    metrics, release, begun = Metrics(), threading.Event(), threading.Event()
    log = RequestLog(metrics, LogLimits(pending=2, pending_bytes=1000))
    config = RequestLogConfig(str(tmp_path / "m"), 1.0)

    def hold(record):
        begun.set()
        release.wait(20)
        record.predict_log.request.model_spec.name = "m"

    log.add(config, "m", 1, "", 10, hold)
    assert begun.wait(10)
    add(log, config, 1)  # first in the queue
    add(log, config, 2, size=5000)  # larger than all that may wait: dropped
    add(log, config, 3)  # second in the queue
    started = time.monotonic()
    add(log, config, 4)  # the queue holds two: dropped
    assert time.monotonic() - started < 0.1
    release.set()
    log.close()
    assert counts(metrics) == {"OK": 3, "RESOURCE_EXHAUSTED": 2}
    assert users(read_all(tmp_path)[1:]) == [b"u1", b"u3"]
    add(log, config, 5)  # after the end
    assert counts(metrics)["RESOURCE_EXHAUSTED"] == 3


def test_a_folder_that_cannot_be_written_is_counted_and_fails_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    metrics = Metrics()
    log = RequestLog(metrics)
    add(log, RequestLogConfig(str(tmp_path / "file" / "below" / "m"), 1.0))
    add(log, RequestLogConfig(str(tmp_path / "good"), 1.0), 7)
    log.add(RequestLogConfig(str(tmp_path / "good"), 1.0), "m", 1, "", 1, lambda record: 1 / 0)
    log.close()
    assert counts(metrics) == {"UNAVAILABLE": 1, "OK": 1, "INTERNAL": 1}
    assert users(read_all(tmp_path, "good-*")) == [b"u7"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_whole_records_only(tmp_path):
    metrics = Metrics()
    log, config = RequestLog(metrics), RequestLogConfig(str(tmp_path / "m"), 1.0)
    add(log, config, 1)
    eventually(lambda: counts(metrics).get("OK") == 1)
    (file,) = log._files.values()
    good, file._file = file._file, Full(file._file)
    add(log, config, 2)
    eventually(lambda: counts(metrics).get("UNAVAILABLE") == 1)
    file._file = good
    add(log, config, 3)
    log.close()
    assert users(read_all(tmp_path)) == [b"u1", b"u3"]


class Full:
    """A file on a disk that takes ten more bytes, and then answers as /dev/full does."""

    def __init__(self, file):
        self._file, self._left = file, 10
        self.truncate, self.seek = file.truncate, file.seek

    def write(self, data):
        if not self._left:
            with open("/dev/full", "wb", buffering=0) as full:
                return full.write(data)
        self._left = 0
        return self._file.write(data[:10])


def test_the_sample_has_the_rate(tmp_path):
    log = RequestLog(Metrics())
    found = sum(log.samples(RequestLogConfig("p", 0.1)) for _ in range(20_000))
    # Binomial, 20000 draws at 0.1: 2000, standard deviation 42.4; seven of them never happen.
    assert 1700 < found < 2300
    assert not log.samples(None) and not log.samples(RequestLogConfig("p", 0.0))


# --- configuration


@pytest.mark.parametrize(
    "texts, message",
    [
        (
            {"half": logging_config(Path("/l"), "a", type_="bigtable")},
            "Cannot find LogCollector::Factory for type: bigtable",
        ),
        (
            {"half": logging_config(Path("/l"), "a", rate=1.5)},
            "sampling_rate of model half to be in [0, 1]; got 1.5",
        ),
        ({"half": logging_config(Path("logs"), "a")}, "absolute filename_prefix"),
        (
            {"half": logging_config(Path("/l"), "a"), "multi": logging_config(Path("/l"), "a")},
            "Duplicate LogCollectorConfig",
        ),
    ],
)
def test_a_wrong_logging_config_is_refused_by_name(tmp_path, texts, message):
    with pytest.raises((StartError, ServingError)) as caught:
        read_model_config_file(
            str(config_file(Path("/models"), tmp_path / "models.config", **texts))
        )
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"request_log_prefix": "a", "model_config_file": "f"}, "belongs to --model_base_path"),
        ({"request_log_prefix": "logs/", "model_base_path": "."}, "must end in a name"),
        ({"request_log_sampling_rate": 2, "model_base_path": "."}, "must be 0 to 1"),
        ({"request_log_max_file_bytes": 0, "model_base_path": "."}, "at least 1"),
    ],
)
def test_wrong_flags_are_refused_by_name(options, message):
    with pytest.raises(StartError, match=message):
        ServerOptions(**options).checked()


def test_a_folder_that_cannot_be_made_stops_the_start(laboratory, start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot write request logs to"):
        start(
            model_name="half",
            model_base_path=laboratory.models / "half",
            request_log_prefix=tmp_path / "file" / "below" / "half",
        )
