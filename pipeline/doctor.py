"""What is wrong with this machine, and the mend; and what a run will want of it.

Each check is a function that gives findings; nothing is changed.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import RunConfig

OK, WARNING, ERROR = "ok", "warning", "error"
_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: was looked at.
        found: on this machine.
        state: `ok`, `warning` (works, but not as it should) or `error` (will not work).
        mend: what to do; empty when there is nothing to.
    """

    what: str
    found: str
    state: str = OK
    mend: str = ""


@dataclass(frozen=True)
class Lane:
    """One supported combination of versions: package -> the beginning of its version."""

    name: str
    pythons: tuple[tuple[int, int], ...]
    glibc: tuple[int, int]
    packages: dict[str, str]


_BOTH = {
    "tensorflow-recommenders": "0.7.",
    "numpy": "",
    "pyarrow": "",
    "grpcio": "",
    "aiohttp": "",
    "pydantic": "2.",
}
LANES = (
    Lane(
        "portable",
        ((3, 10),),
        (2, 17),
        {
            "tfx": "1.16.",
            "tfx-bsl": "1.16.",
            "tensorflow": "2.16.",
            "tf-keras": "2.16.",
            "tensorflow-transform": "1.16.",
            "tensorflow-data-validation": "1.16.",
            "tensorflow-model-analysis": "0.47.",
            "apache-beam": "2.64.",
            "dill": "0.3.1.1",
            "keras-tuner": "1.3.5",
            "tensorflow-serving-api": "2.16.",
            "protobuf": "3.20.",
            **_BOTH,
        },
    ),
    Lane(
        "current",
        ((3, 12), (3, 13)),
        (2, 39),
        {
            "tfx": "1.21.",
            "tfx-bsl": "1.21.",
            "tensorflow": "2.21.",
            "tf-keras": "2.21.",
            "tensorflow-transform": "1.21.",
            "tensorflow-data-validation": "1.21.",
            "tensorflow-model-analysis": "",
            "apache-beam": "2.77.",
            "tensorflow-serving-api": "2.",
            "protobuf": "",
            **_BOTH,
        },
    ),
)


def check_lane() -> Iterator[Finding]:
    """Python and glibc."""
    version = sys.version_info[:2]
    lane = _lane()
    if lane is None:
        mend = (
            "make venv with Python 3.10, 3.12 or 3.13 (3.11 has no wheels of TFX): make venv "
            "RECSYS_PYTHON=/path/to/python3.10"
        )
        yield Finding("Python", platform.python_version(), ERROR, mend)
        return
    yield Finding("lane", lane.name)
    yield Finding("Python", f"{platform.python_version()} at {sys.executable}")
    name, number = platform.libc_ver()
    found = tuple(int(part) for part in number.split(".")[:2]) if number else (0, 0)
    needed = ".".join(map(str, lane.glibc))
    if name != "glibc" or found < lane.glibc:
        mend = (
            f"the {lane.name} lane on Python {version[0]}.{version[1]} requires glibc {needed}; "
            "use Python 3.10, or Debian 13, Ubuntu 24.04 or later"
        )
        yield Finding("glibc", f"{name or 'another C library'} {number}", ERROR, mend)
    else:
        yield Finding("glibc", f"{number} (required: {needed})")


def check_packages() -> Iterator[Finding]:
    """Versions against the lane's lock."""
    lane = _lane()
    for name, prefix in lane.packages.items() if lane else ():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", ERROR, "make venv")
            continue
        if version.startswith(prefix):
            yield Finding(name, version)
        else:
            yield Finding(
                name,
                f"{version} (required: {prefix}*)",
                ERROR,
                f"make venv (installs requirements/{lane.name}.txt)",
            )


def check_keras() -> Iterator[Finding]:
    """TensorFlow, the legacy Keras behind it, and its devices."""
    try:
        import tensorflow as tf
    except Exception as error:
        yield Finding("import tensorflow", f"{type(error).__name__}: {error}", ERROR, "make venv")
        return
    module = tf.keras.Model.__module__.split(".")[0]
    if module == "tf_keras":
        yield Finding(
            "Keras",
            f"{importlib.metadata.version('tf-keras')} (legacy, as TensorFlow Recommenders "
            "requires)",
        )
    else:
        mend = (
            "set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported (importing `models` first "
            "does) and have tf-keras installed"
        )
        yield Finding("Keras", f"{module}, not tf_keras", ERROR, mend)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        yield Finding("GPU", ", ".join(gpu.name for gpu in gpus))
    elif os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "a driver is there, TensorFlow sees no GPU",
            WARNING,
            "make gpu (installs TensorFlow with CUDA)",
        )
    else:
        yield Finding("GPU", "none; training runs on the CPU")


def check_machine() -> Iterator[Finding]:
    """Room to work in."""
    free = shutil.disk_usage(".").free / 2**30
    short = free < _FREE_GB
    yield Finding(
        "disk",
        f"{free:.0f} GB free here",
        WARNING if short else OK,
        f"have {_FREE_GB} GB, or choose another --output" if short else "",
    )
    yield Finding("cores", str(os.cpu_count()))


def check_pipeline() -> Iterator[Finding]:
    """TFX's components and a Beam pipeline on the runner that runs use.

    Imports everything, which takes a while.
    """
    try:
        from tfx import v1 as tfx

        needed = (
            "ImportSchemaGen",
            "ExampleValidator",
            "Trainer",
            "Evaluator",
            "Pusher",
        )
        # TFX swallows ImportErrors and leaves None.
        missing = [name for name in needed if getattr(tfx.components, name, None) is None]
        mend = (
            "an import inside TFX failed: python -c 'from tfx.components.evaluator import "
            "component' shows it; then make venv"
        )
        yield Finding(
            "TFX components",
            ", ".join(missing) + " missing" if missing else "all there",
            ERROR if missing else OK,
            mend if missing else "",
        )
        import apache_beam as beam

        from components.in_process import in_process_pipeline

        with in_process_pipeline() as pipeline:
            _ = pipeline | beam.Create([1, 2]) | beam.CombineGlobally(sum)
        yield Finding("Beam runner", "FnApiRunner, in process")
        from components.canary.canary import Canary  # noqa: F401
        from pipeline import dag  # noqa: F401

        yield Finding("pipeline", "imports")
    except Exception as error:
        yield Finding("pipeline", f"{type(error).__name__}: {error}", ERROR, "make venv")


_LIGHT: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_lane,
    check_packages,
    check_keras,
    check_machine,
)


def run_doctor(deep: bool = False) -> int:
    """Prints the findings; returns 1 when one is an error, else 0."""
    from pipeline.show import print_table

    checks = (*_LIGHT, check_pipeline) if deep else _LIGHT
    findings = [finding for check in checks for finding in check()]
    rows = [(finding.what, finding.found, finding.state, finding.mend) for finding in findings]
    print_table("This machine", ("what", "found", "state", "mend"), rows)
    bad = [finding for finding in findings if finding.state == ERROR]
    print(
        f"{len(bad)} of {len(findings)} checks found something that will not work"
        if bad
        else "nothing is wrong"
    )
    return 1 if bad else 0


def _lane() -> Lane | None:
    return next((lane for lane in LANES if sys.version_info[:2] in lane.pythons), None)


def run_estimate(config: "RunConfig", say: Callable[[str], None]) -> int:
    """Prints what a run will want; returns 1 when it does not fit, else 0.

    Args:
        config: the run.
        say: takes lines.

    Raises:
        ConfigError: a fault of the run that is seen before anything starts.
        DataError: likewise of its data.
    """
    from pipeline import estimate, preflight, room
    from pipeline.show import print_table

    found, tables = preflight.look(config, say)
    wanted = estimate.estimate(config, found.hyper_parameters, tables, found.schemas)
    there = room.Room.of(config)
    print_table(
        f"What {config.pipeline_name} will want, about",
        ("what", "how many", "there are", ""),
        room.lines(wanted, there),
    )
    lacking = room.lacks(wanted, there)
    for line in lacking:
        say(f"does not fit: {line}")
    return int(bool(lacking))
