"""The local runner: one process, quiet logs and progress that a person can read.

Its verdict is checked, not assumed.
"""

import contextlib
import dataclasses
import errno
import fcntl
import gc
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components import engines
from components.tables.places import is_remote, place
from models.names import memory
from models.names.errors import ConfigError, RecsysError
from pipeline import lineage
from pipeline.config import RunConfig

RUN_FILE = "run.yaml"


class NotBlessed(RecsysError):
    """The pipeline ran to its end and pushed nothing."""


def run(config: RunConfig, say: Callable[[str], None] = print) -> lineage.RunRecord:
    """Runs the pipeline and returns its record.

    Args:
        config: the run.
        say: takes lines of progress.

    Raises:
        ConfigError: the data set, model, hyper-parameters or output folder are not to be had.
        DataError: the data broke a rule.
        NotBlessed: nothing was pushed; the message names the threshold and by how much it was
            missed.
        RecsysError: another run holds the output folder, or the disk is full.
    """

    def create(output: Path):
        from pipeline import preflight

        found = preflight.check(config, say)
        # Beam's workers may have been started in another folder.
        file = config.split.file and str(Path(config.split.file).absolute())
        located = {
            "data": config.data.model_copy(update={"reader": found.reader}),
            "split": config.split.model_copy(update={"file": file}),
        }
        load_tensorflow(say)
        from components.read.tables import fingerprint
        from pipeline import dag

        return dag.create_pipeline(
            config.model_copy(update=located),
            source=str(found.source),
            fingerprint=fingerprint(str(found.source)),
            schemas=found.schemas,
            hyper_parameters=found.hyper_parameters.model_dump(mode="json"),
            pipeline_root=str(output / config.pipeline_name),
            serving_dir=config.serving_dir,
            checkpoint_root=str(output / "checkpoints"),
            metadata_path=str(output / lineage.METADATA),
        )

    if is_remote(config.output):
        raise ConfigError(
            "output: required: a folder of this machine, for the metadata of a run is a file that "
            "is locked, and TensorFlow writes checkpoints to it; what others are to see is pushed "
            f"to push: {config.output}, and recsys compile takes a bucket; received {config.output}"
        )
    return execute(
        Path(config.output).absolute(),
        config.pipeline_name,
        create,
        config.to_yaml(),
        say,
        config.beam,
    )


def execute(
    output: Path,
    name: str,
    create: Callable[[Path], Any],
    resolved: str,
    say: Callable[[str], None] = print,
    beam: engines.Beam = engines.IN_PROCESS,
) -> lineage.RunRecord:
    """Runs a pipeline in this process and returns its record.

    Args:
        output: folder of runs; held against other runs meanwhile.
        name: of the pipeline.
        create: makes the pipeline, given `output`; it says by `load_tensorflow` when nothing is
            left that can be refused without.
        resolved: YAML of what is run, kept beside its outputs.
        say: takes lines of progress.
        beam: the engine that Beam's part of the work is done on.

    Raises:
        RecsysError: as of `create` or a component; another run holds the output folder, the disk is
            full, or the engine cannot work or gave up.
    """
    with _exclusive(output), readable_errors(), engines.explained(beam):
        quiet()
        engines.require_usable(beam, str(output), say)
        say(f"{name}: starting")
        started = time.monotonic()
        pipeline = create(output)
        from components import servers
        from pipeline import tfx_api as tfx

        gc.collect()
        gc.freeze()  # what was imported stays, and need not be looked through again and again
        quiet()
        with _progress(say), servers.servers_ahead():
            tfx.LocalDagRunner().run(pipeline)
        record = lineage.load_run(output)
        save_verdict(record)
        (output / name / RUN_FILE).write_text(resolved, encoding="utf-8")
        for line in left_out(record):
            say(line)
        if line := fitted_again(record):
            say(line)
        say(
            f"all components in {time.monotonic() - started:.0f} s"
            + (", served from the cache" if record.cached else "")
        )
    return record


def require_push(record: lineage.RunRecord) -> None:
    """Raises NotBlessed unless the run ended with a pushed model.

    A pipeline can be green and push nothing.
    """
    if record.pushed_path and place(record.pushed_path).exists():
        return
    if not record.blessed:
        failures = record.verdict.get("failures", [])
        reasons = (
            "\n  ".join(failure["text"] for failure in failures) or "the Evaluator gave no blessing"
        )
        raise NotBlessed(f"the model was not blessed and nothing was pushed:\n  {reasons}")
    if not record.canary:
        why = record.canary_outcome.get("reason", "no reason was recorded")
        raise NotBlessed(
            "the model was blessed, but no server could answer from it, so nothing was pushed: "
            f"{why}"
        )
    if record.pushed_path:
        raise NotBlessed(
            f"the model was pushed to {record.pushed_path}, which is gone; remove {record.output} "
            "to run afresh"
        )
    raise NotBlessed("the model was blessed, but the Pusher pushed nothing")


def left_out(record: lineage.RunRecord) -> list[str]:
    """In words, the rows of the data that were rejected and the values that could not be read."""
    lines = []
    for table, folder in record.steps.get("TableReader", lineage.Step("", "", 0)).outputs.items():
        file = Path(folder) / "report.json"
        report = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        for reason, first in report.get("rejected", {}).items():
            lines.append(
                f"{table}: {first['count']:,} of {report['read']:,} rows rejected: {reason}; "
                f"{Path(first['file']).name}, line {first['line']}: {first['received']}"
            )
        for column, count in report.get("unreadable", {}).items():
            lines.append(
                f"{table}.{column}: {count:,} values are no {report['columns'][column]} and count "
                f"as missing (data.columns.types.{column})"
            )
    return lines


def fitted_again(record: lineage.RunRecord) -> str:
    """In words, on how much more and for how long the model was fitted again, or why it was not.

    It is empty where the run did not ask for it.
    """
    refit = record.refit
    if not refit:
        return ""
    if "skipped" in refit:
        return f"not fitted again on everything: {refit['skipped']}"
    stages = [
        f"{count} epoch{'s' if count > 1 else ''}"
        + (f" of {stage}" if len(refit["epochs"]) > 1 else "")
        for stage, count in refit["epochs"].items()
    ]
    return (
        f"fitted again on everything: {refit['events']:,} train events, {refit['more']:,} more "
        f"than the measured model had, for {', '.join(stages)}, in {refit['seconds']:.0f} s; the "
        "metrics are the measured model's, which has not seen test"
    )


def save_verdict(record: lineage.RunRecord) -> None:
    """Stores the gate's findings beside TFMA's own files, so that nobody needs TFMA to read them.

    They are the verdict as JSON, and what each test user got as Parquet, for `recsys compare`.
    """
    evaluation = record.steps.get("Evaluator", lineage.Step("", "", 0)).outputs.get("evaluation")
    if evaluation is None or (Path(evaluation) / lineage.VERDICT).exists():
        return
    from components.gate import evaluation as gate

    verdict = gate.read_verdict(evaluation, record.blessed)
    values = dataclasses.asdict(verdict)
    for failure, text in zip(values["failures"], verdict.failures):
        failure["text"] = str(text)
    for threshold, one in zip(values["thresholds"], verdict.thresholds):
        threshold |= {"met": one.met, "requirement": one.requirement}
    (Path(evaluation) / lineage.BY_USER).write_bytes(gate.read_by_user(evaluation))
    (Path(evaluation) / lineage.VERDICT).write_text(json.dumps(values, indent=1), encoding="utf-8")


def require_plain(folder: Path | str, flag: str) -> None:
    """Refuses a folder whose name Beam and TFX would take for a pattern.

    Raises:
        ConfigError: it has one of their marks.
    """
    if found := re.search(r"[][*?]", str(folder)):
        raise ConfigError(
            f"{flag}: required: a path without [ ] * ?, which Beam takes for a pattern; "
            f"received {found.group()!r} in {folder}"
        )


@contextlib.contextmanager
def _exclusive(output: Path) -> Iterator[None]:
    """Holds the output folder; the kernel lets go of it when the process dies, however it dies."""
    require_plain(output, "--output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
        lock = open(output / lineage.LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to the output folder {output}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RecsysError(
                f"another run (process {lock.read().strip()}) is using {output}; wait for it or "
                "choose another --output"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Brings an error that a user can mend up from under Beam and TFX."""
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RecsysError):
                raise type(cause)(_without_beam(str(cause))) from error
            if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                raise RecsysError(f"the disk is full: {cause.filename or cause}") from error
            cause = cause.__cause__ or cause.__context__
        text = str(error)
        if "No space left on device" in text or "Disk full" in text or "disk is full" in text:
            raise RecsysError(f"the disk is full: {text.splitlines()[0]}") from error
        found = re.search(r"(?:DataError|ConfigError|RecsysError): (.*)", text, re.DOTALL)
        if found:
            raise RecsysError(_without_beam(found.group(1))) from error
        raise


def _without_beam(text: str) -> str:
    return re.split(r" \[while running", text, maxsplit=1)[0].strip()


def quiet() -> None:
    """A run prints thousands of log lines; what matters is said by the progress and by errors."""
    import warnings

    from absl import logging as absl_logging

    warnings.filterwarnings("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("apache_beam", "tensorflow", "tfx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    absl_logging.use_absl_handler()
    absl_logging.get_absl_handler().setLevel(logging.ERROR)


def load_tensorflow(say: Callable[[str], None]) -> None:
    """Imports what takes long, once nothing is left that can be refused without."""
    say("TensorFlow and TFX take a while to load")
    import tensorflow  # noqa: F401


class _Progress(logging.Handler):
    """Turns the runner's own messages into one line a component, and one before where it is long.

    Below it stands what the component itself has to say, such as how many rows it dropped and why.
    What one that was long has freed is given back to the system, as its process goes on.

    Args:
        say: takes lines of progress.
        patience_s: seconds after which a component that is still at work is named.
    """

    _RUNNING = re.compile(r"Component (\S+) is running")
    _FINISHED = re.compile(r"Component (\S+) is finished")
    _TOLD = re.compile(r"(\w+): (.+)", re.DOTALL)
    _MOST_TOLD = 5

    def __init__(self, say: Callable[[str], None], patience_s: float = 2.0):
        super().__init__(logging.INFO)
        self._say, self._patience_s = say, patience_s
        self._cached, self._started = False, 0.0
        self._waiting = threading.Timer(0, say)
        self._kind, self._told = "", list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage() if len(record.msg) < 100 else ""
        if started := self._RUNNING.match(message):
            self._started, self._cached = time.monotonic(), False
            self._kind, self._told = started.group(1).partition("-")[0], []
            line = f"  {started.group(1)} ..."
            if started.group(1) in ("Trainer", "Trainer-refit"):
                self._say(line)  # before the lines of its epochs
            else:
                self._waiting = threading.Timer(self._patience_s, self._say, [line])
                self._waiting.daemon = True
                self._waiting.start()
        elif message.startswith("A cached execution"):
            self._cached = True
        elif (told := self._TOLD.match(message)) and told.group(1) == self._kind:
            self._told.append(told.group(2))
        elif finished := self._FINISHED.match(message):
            self._waiting.cancel()
            seconds = time.monotonic() - self._started
            self._say(
                f"  {finished.group(1):<26} {'cached' if self._cached else f'{seconds:6.1f} s'}"
            )
            for line in self._told[: self._MOST_TOLD]:
                self._say(f"    {line}")
            if len(self._told) > self._MOST_TOLD:
                self._say(f"    and {len(self._told) - self._MOST_TOLD} more, in the report")
            if seconds > self._patience_s:  # to look through a process takes up to a second
                memory.give_back()

    def close(self) -> None:
        """Names nothing any more: a component that failed is not finished."""
        self._waiting.cancel()
        super().close()


@contextlib.contextmanager
def _progress(say: Callable[[str], None]) -> Iterator[None]:
    from absl import logging as absl_logging

    logger, handler = absl_logging.get_absl_logger(), _Progress(say)
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.get_absl_handler().setLevel(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        absl_logging.set_verbosity(absl_logging.ERROR)
