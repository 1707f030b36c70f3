"""Beam's engines: what each needs to be told, and whether one can work before a run starts on it.

Light: Beam itself is imported in the functions that run something.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import socket
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from models.names.errors import ConfigError, RecsysError, nearest
from models.names.settings import Settings

Option = str | int | float | bool | tuple[str, ...] | None

# Named, because newer Beams would first try to download another runner.
_IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_WATCHED = "components.watched_runner.WatchedRunner"
_DAY_S = 86_400
_ANSWERS_WITHIN_S = 5
_PROBED_WITHIN_S = 180

# An image's name, whatever it is, keeps TFX from packing up its own package (49 MB and seconds of
# work that stay in the temporary folder, once a component), which workers would install with pip.
_INSTALLED = {"sdk_container_image": "none"}
# The workers are processes that a pool starts.
_POOL = {
    "environment_type": "EXTERNAL",
    "environment_config": "localhost:50000",
    **_INSTALLED,
    # Of each call, and of the stream that tells how a job fares: the usual minute ends longer jobs.
    "job_server_timeout": _DAY_S,
}
_USUAL: dict[str, dict[str, Any]] = {
    # One worker in memory is faster than two processes.
    "in_process": {
        "runner": _IN_PROCESS,
        "direct_running_mode": "in_memory",
        "direct_num_workers": 1,
        **_INSTALLED,
    },
    # 0: as many as there are cores.
    "processes": {
        "runner": _IN_PROCESS,
        "direct_running_mode": "multi_processing",
        "direct_num_workers": 0,
        **_INSTALLED,
    },
    "portable": {"runner": _WATCHED, "job_endpoint": "localhost:8099", **_POOL},
    "prism": {"runner": _WATCHED, "job_endpoint": "localhost:8073", **_POOL},
    # The version that the Beams of both lanes speak. One pool beside each TaskManager: it gets one
    # worker of each slot.
    "flink": {
        "runner": "FlinkRunner",
        "flink_version": "1.19",
        "sdk_worker_parallelism": 1,
        **_POOL,
    },
    "dataflow": {
        "runner": "DataflowRunner",
        "experiments": ("use_runner_v2",),
        "sdk_location": "container",
        "disk_size_gb": 50,
    },
}
# What an engine cannot do without, and nobody but the user knows.
_REQUIRED = {
    "flink": {
        "flink_master": "the JobManager, such as localhost:8081",
        "artifacts_dir": "an absolute path that the job server and all TaskManagers see",
    },
    "dataflow": {
        "project": "of Google Cloud",
        "region": "such as europe-west4",
        "temp_location": "such as gs://bucket/temporary",
        "sdk_container_image": "an image that holds this project",
    },
}
_OWN_JOB_SERVER = ("portable", "prism", "flink")  # which may know options that Python does not
_STARTED_BY = {
    "portable": "python -m apache_beam.runners.portability.local_job_service_main --port {port}",
    "prism": "make engines, then .cache/engines/prism -serve_http=false -job_port={port}",
    "flink": "the JobManager of Flink 1.19",
}
_POOL_STARTED_BY = (
    "TF_USE_LEGACY_KERAS=1 PATH=$PWD/.venv/bin:$PATH python -m "
    "apache_beam.runners.worker.worker_pool_main --service_port={port}"
)


class Beam(Settings):
    """Where Beam's part of the work is done: reading, statistics, examples, Transform, metrics.

    Attributes:
        runner: `in_process` is one worker in memory and `processes` one a core of this machine;
            `portable` is Beam's own job service and `prism` Beam's runner in Go, which must answer
            on `job_endpoint`; `flink` is a cluster of Flink, and `dataflow` Google's service.
        options: Beam's own options for it, by their names; what they leave out is as
            `components.engines` has it, and null takes away what that adds. `flink` requires
            flink_master and artifacts_dir, `dataflow` project, region, temp_location and
            sdk_container_image.
    """

    SECTION: ClassVar[str] = "beam"

    runner: Literal["in_process", "processes", "portable", "prism", "flink", "dataflow"] = (
        "in_process"
    )
    options: dict[str, Option] = pydantic.Field(
        {}, examples=[{"job_endpoint": "localhost:8099", "environment_config": "localhost:50000"}]
    )

    @pydantic.model_validator(mode="after")
    def _can_work(self) -> "Beam":
        said = self.options
        if "runner" in said:
            raise ValueError("options.runner: it is said by beam.runner alone")
        missing = {
            name: what
            for name, what in _REQUIRED.get(self.runner, {}).items()
            if said.get(name) in (None, "")
        }
        if missing:
            needs = "; ".join(f"{name}, {what}" for name, what in missing.items())
            raise ValueError(f"options: {self.runner} requires also {needs}")
        if self.runner == "in_process" and said.get("direct_num_workers", 1) != 1:
            raise ValueError(
                "runner: several workers of this machine are beam.runner: processes; received "
                f"in_process with direct_num_workers {said['direct_num_workers']}"
            )
        if self.runner == "flink" and str(self.told("flink_version")).startswith("2"):
            raise ValueError(
                "options.flink_version: required: 1.19, which the Beams of both lanes speak; on "
                "Flink 2 side inputs of Python fail, and Transform and the statistics live on "
                f"them; received {self.told('flink_version')}"
            )
        if self.told("environment_type") == "EXTERNAL":
            _address("environment_config", self.told("environment_config"))
        if self.told("environment_type") == "DOCKER" and not said.get("sdk_container_image"):
            raise ValueError(
                "options.sdk_container_image: environment_type DOCKER requires an image that holds "
                "this project"
            )
        if self.told("job_endpoint"):
            _address("job_endpoint", self.told("job_endpoint"))
        elif self.runner in ("portable", "prism"):
            raise ValueError(f"options.job_endpoint: {self.runner} requires it, as HOST:PORT")
        if self.runner == "flink" and not os.path.isabs(str(said["artifacts_dir"])):
            raise ValueError(
                "options.artifacts_dir: required: an absolute path that the job server and all "
                f"TaskManagers see; received {said['artifacts_dir']!r}"
            )
        return self

    def told(self, option: str) -> Any:
        """The value of an option: the user's, or else what the engine needs."""
        return {**_USUAL[self.runner], **self.options}.get(option)

    @property
    def is_here(self) -> bool:
        """Whether all of the work is done by this process and its children."""
        return self.runner in ("in_process", "processes")


IN_PROCESS = Beam()


def _address(option: str, value: Any) -> tuple[str, int]:
    """HOST:PORT as a pair."""
    host, _, port = str(value).rpartition(":")
    if not host or not port.isdigit() or "," in str(value):
        raise ValueError(
            f"options.{option}: required: HOST:PORT, one alone: an engine asks one pool, which "
            f"starts a worker for every request; received {value!r}"
        )
    return host, int(port)


def arguments(beam: Beam) -> list[str]:
    """The flags that a Beam pipeline takes, the engine's runner among them."""
    # cloudpickle is what newer Beams use; with it a short Transform takes a fifth less than with
    # dill, and workers that have another of the two read nothing.
    options = {**_USUAL[beam.runner], "pickle_library": "cloudpickle", **beam.options}
    flags = []
    for name, value in options.items():
        if value is True:
            flags.append(f"--{name}")
        elif isinstance(value, (tuple, list)):
            flags += [f"--{name}={one}" for one in value]
        elif value is not None and value is not False:
            flags.append(f"--{name}={value}")
    return flags


def new_pipeline(beam: Beam) -> Any:
    """A new Beam pipeline on the engine."""
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    return apache_beam.Pipeline(options=PipelineOptions(arguments(beam)))


def require_seen(beam: Beam, places: Mapping[str, str]) -> None:
    """Refuses places that workers on other machines cannot see.

    Args:
        beam: the engine.
        places: key of the run -> path or URI.

    Raises:
        ConfigError: one is on this machine, and the workers are Google's; or it is relative, and so
            another folder to a worker.
    """
    for key, place in places.items():
        if beam.runner == "dataflow" and not place.startswith("gs://"):
            raise ConfigError(
                f"{key}: Dataflow's workers see no disk of yours; required: a place under gs:// "
                f"(of a run, as recsys compile takes it); received {place}"
            )
        if not beam.is_here and "://" not in place and not os.path.isabs(place):
            raise ConfigError(
                f"{key}: the workers of {beam.runner} are started in a folder of their own; "
                f"required: an absolute path; received {place}"
            )


def require_usable(
    beam: Beam, folder: str, say: Callable[[str], None] = print, wait_s: float = _PROBED_WITHIN_S
) -> None:
    """Refuses an engine that cannot do a run's work, before any of it is begun.

    The last check is a job: a worker has to read a file in `folder` and write one beside it.

    Args:
        beam: the engine.
        folder: an absolute path, where the run's outputs go.
        say: takes a line of progress.
        wait_s: seconds until a job that nobody takes up is given up.

    Raises:
        ConfigError: nothing answers where it should, two pools listen on one port, an option has no
            meaning for Beam, or the workers cannot see the folder, lack this project, or have
            another Python or Beam.
    """
    if not beam.is_here or beam.options:
        _require_known_options(beam)
    if beam.is_here or beam.runner == "dataflow":  # a job of Dataflow's takes minutes and money
        return
    _require_answers(beam)
    say(f"Beam: {beam.runner} at {_where(beam)}: asking for a worker")
    _probe(beam, Path(folder), wait_s)


def _require_known_options(beam: Beam) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    known = PipelineOptions([]).get_all_options()
    for name in beam.options:
        plain = name.removeprefix("no_")
        if name not in known and plain not in known and beam.runner not in _OWN_JOB_SERVER:
            close = nearest(name, known)
            raise ConfigError(
                f"beam.options.{name}: Beam has no such option"
                + (close if "did you mean" in close else "")
            )


def _where(beam: Beam) -> str:
    return str(beam.told("job_endpoint") or beam.told("flink_master"))


def _require_answers(beam: Beam) -> None:
    """Refuses an engine whose addresses nobody listens at, or two do."""
    endpoint = beam.told("job_endpoint")
    if endpoint:
        _require_listener(
            f"beam.options.job_endpoint: no job server answers at {endpoint}",
            *_address("job_endpoint", endpoint),
            _STARTED_BY[beam.runner],
        )
    else:  # Beam starts the job server itself, out of a jar
        master = urllib.parse.urlparse(f"//{str(beam.told('flink_master')).split('//')[-1]}")
        _require_listener(
            f"beam.options.flink_master: no JobManager answers at {master.netloc}",
            master.hostname or "",
            master.port or 8081,
            _STARTED_BY["flink"],
        )
        jar = beam.told("flink_job_server_jar")
        if jar and "://" not in str(jar) and not Path(str(jar)).is_file():
            raise ConfigError(f"beam.options.flink_job_server_jar: {jar} is no file")
        if not shutil.which("java"):
            raise ConfigError(
                "beam.runner: flink: Beam's job server needs Java 11 or newer on PATH; or start it "
                "elsewhere and name it under beam.options.job_endpoint"
            )
        return  # its pools are beside the TaskManagers, which may not be reached from here
    if beam.told("environment_type") == "EXTERNAL" and beam.runner != "flink":
        pool = beam.told("environment_config")
        _require_listener(
            f"beam.options.environment_config: no worker pool answers at {pool}",
            *_address("environment_config", pool),
            _POOL_STARTED_BY,
        )


def _require_listener(problem: str, host: str, port: int, started_by: str) -> None:
    try:
        socket.create_connection((host, port), timeout=_ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise ConfigError(
            f"{problem} ({error.strerror or error}); it is started by: "
            f"{started_by.format(port=port)}"
        ) from None
    if is_of_this_machine(host) and len(found := listeners(port)) > 1:
        processes = ", ".join(map(str, sorted(found)))
        raise ConfigError(
            f"two processes listen on port {port} ({processes}), and each would get some of the "
            "requests: end all but one"
        )


def is_of_this_machine(host: str) -> bool:
    """Whether a host is this machine by its own names for itself."""
    return host in ("localhost", "127.0.0.1", "::1")


def listeners(port: int) -> set[int]:
    """The processes of this machine that listen on a port, of those that may be looked into.

    gRPC shares ports: a second pool on one starts without a word.
    """
    import psutil

    return {
        one.pid
        for one in psutil.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid
    }


def _here() -> dict[str, str]:
    """What the two ends of a job must have in common."""
    from apache_beam.version import __version__ as beam_version

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Beam": beam_version,
        "TF_USE_LEGACY_KERAS": os.environ.get("TF_USE_LEGACY_KERAS", ""),
    }


def look(mark: str) -> None:
    """A worker's side of the probe: reads the file and writes one beside it.

    Raises:
        ConfigError: the file is not there, or this worker is not as the submitter is.
    """
    worker = f"the worker in {os.getcwd()} on {socket.gethostname()}"
    if not Path(mark).is_file():
        raise ConfigError(
            f"{worker} does not see {Path(mark).parent}; required: a folder that all workers see, "
            "such as a volume that they mount by the same path"
        )
    for name, wanted in json.loads(Path(mark).read_text()).items():
        if _here()[name] != wanted:
            raise ConfigError(
                f"{worker} has {name} {_here()[name] or 'unset'}; required: {wanted}, as here"
            )
    Path(f"{mark}.seen").touch()


def _probe(beam: Beam, folder: Path, wait_s: float) -> None:
    import apache_beam
    import grpc

    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    mark = folder / f".probe-{uuid.uuid4().hex}"
    answer = Path(f"{mark}.seen")
    mark.write_text(json.dumps(_here()))
    problem = f"beam: {beam.runner} at {_where(beam)}"
    try:
        # Of each call to a job server, which may listen and never say a word.
        options = {**beam.options, "job_server_timeout": math.ceil(wait_s)}
        pipeline = new_pipeline(beam if beam.is_here else Beam(runner=beam.runner, options=options))
        _ = pipeline | apache_beam.Create([str(mark)]) | apache_beam.Map(look)
        result = pipeline.run()
        state = result.wait_until_finish(duration=int(wait_s * 1000))
        if state != "DONE":
            with contextlib.suppress(Exception):
                result.cancel()
            raise ConfigError(
                f"{problem}: no worker did a first job within {wait_s:.0f} s (state: {state}); is "
                "the pool's `python` that of this project's environment? It is started by: "
                + _POOL_STARTED_BY.format(port="PORT")
            )
        if not answer.exists():
            raise ConfigError(
                f"{problem}: a worker wrote to {folder}, and nothing is there: to the workers it "
                "is another folder; required: one that all see"
            )
    except RecsysError:
        raise
    except grpc.FutureTimeoutError:
        raise ConfigError(
            f"{problem}: what listens there did not answer as a job server within {wait_s:.0f} s; "
            f"one is started by: {_STARTED_BY[beam.runner].format(port='PORT')}"
        ) from None
    except Exception as error:
        raise ConfigError(f"{problem}: a first job failed: {reason(error)}") from error
    finally:
        for file in (mark, answer):
            file.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """What an engine's error says, without the trace that it carries."""
    details = getattr(error, "details", None)  # an error of gRPC
    text = str(details() if callable(details) else error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "Error: " in line]
    return (told[-1] if told else lines[0]).partition(" [while running")[0]


@contextlib.contextmanager
def explained(beam: Beam) -> Iterator[None]:
    """Says of a job that another process did not finish what the user needs to know.

    Raises:
        RecsysError: the engine gave a job up, or is gone.
    """
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:
        gone = type(error).__module__.startswith("grpc") or "failed in state" in str(error)
        if beam.is_here or not gone:
            raise
        raise RecsysError(
            f"beam: {beam.runner} at {_where(beam)} did not finish a job: {reason(error)}. Nothing "
            "is lost that was finished before: the next run goes on from there, where it is told "
            "the same of the engine"
        ) from error
