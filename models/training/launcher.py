"""Starts the processes of one training on this machine, and starts them again when one is lost.

The Trainer's `run_fn` of a run with `cluster:` in a local pipeline. On Kubernetes an operator does
what this does. It imports no TensorFlow.
"""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.names.errors import RecsysError

ARGUMENTS = "worker_arguments.json"
WORKER = (sys.executable, "-W", "ignore", "-m", "models.training.worker")
_PASSED_ON = (
    "train_files",
    "eval_files",
    "transform_graph_path",
    "schema_path",
    "serving_model_dir",
    "model_run_dir",
    "base_model",
    "custom_config",
    "hyperparameters",
)
_ROOT = Path(__file__).resolve().parents[2]
_LOG_LINES = 40
_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_LIBC = ctypes.CDLL(None)


def run_fn(fn_args: Any) -> None:
    """Trains and exports one model by several processes of this machine.

    Args:
        fn_args: as `models.training.trainer.run_fn` takes them; `custom_config["cluster"]` has
            `workers`, `parameter_servers` and `restarts`.

    Raises:
        RecsysError: as of a worker; or the processes were lost more often than `restarts`.
    """
    asked = fn_args.custom_config["cluster"]
    launch(
        write_arguments(fn_args),
        roles(asked["workers"], asked["parameter_servers"]),
        restarts=asked["restarts"],
    )


def write_arguments(fn_args: Any) -> str:
    """Writes what a worker needs of the Trainer's arguments; returns the file."""
    file = Path(fn_args.model_run_dir, ARGUMENTS)
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {name: getattr(fn_args, name, None) for name in _PASSED_ON}
    values["train_files"], values["eval_files"] = map(
        list, (fn_args.train_files, fn_args.eval_files)
    )
    temporary = file.with_name(f"{ARGUMENTS}.partial")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(file)
    return str(file)


def roles(workers: int, parameter_servers: int) -> dict[str, int]:
    """How many processes there are of each kind, the one that writes for all first."""
    if not parameter_servers:
        return {"worker": workers}
    return {"chief": 1, "worker": workers, "ps": parameter_servers}


def launch(
    file: str,
    kinds: dict[str, int],
    restarts: int = 3,
    timeout: float | None = None,
    say: Callable[[str], None] | None = None,
    started: Callable[[dict[str, subprocess.Popen]], None] | None = None,
    command: Sequence[str] = WORKER,
) -> int:
    """Runs the processes to their end, whatever happens on the way; none outlives the call.

    Args:
        file: of `write_arguments`.
        kinds: of `roles`.
        restarts: how often all are started again where one was lost.
        timeout: seconds for everything; None for any.
        say: takes the chief's lines; left out, they are printed.
        started: is told the processes by name each time that they were started.
        command: of one process; the file is its last argument.

    Returns:
        How often they were started again.

    Raises:
        RecsysError: an error of a worker; the processes were lost too often, or took too long. The
            message ends with the last lines of each.
    """
    until = time.monotonic() + timeout if timeout else None
    for again in range(restarts + 1):
        with tempfile.TemporaryDirectory(prefix="workers-") as folder:
            found = _attempt([*command, file], kinds, Path(folder), until, say or _print, started)
        if found is None:
            return again
        name, status, text = found
        if mended := _ERROR.search(text) if status == 1 else None:
            raise RecsysError(mended.group(1))
        lost = f"{name} ended with status {status}" if status is not None else "no end in time"
        if status in (None, 1) or again == restarts:
            raise RecsysError(f"training in {sum(kinds.values())} processes: {lost}\n{text}")
        (say or _print)(f"{lost}; all start again from the checkpoint")
    raise AssertionError("not reached")


def _attempt(
    command: list[str],
    kinds: dict[str, int],
    folder: Path,
    until: float | None,
    say: Callable[[str], None],
    started: Callable[[dict[str, subprocess.Popen]], None] | None,
) -> tuple[str, int | None, str] | None:
    """Runs the processes once: None, or which failed, its status (None: none yet) and the logs."""
    addresses = {kind: [f"localhost:{port}" for port in _ports(n)] for kind, n in kinds.items()}
    processes: dict[str, subprocess.Popen] = {}
    first, told = next(iter(kinds)), 0
    needed = [f"{kind}-{n}" for kind, count in kinds.items() for n in range(count)]
    # The servers, and the workers of a chief, wait for what comes, forever.
    ending = [f"{first}-0"] if first == "chief" else needed
    try:
        for name in needed:
            kind, _, number = name.partition("-")
            task = {"type": kind, "index": int(number)}
            with open(folder / name, "wb") as log, open(folder / f"{name}.err", "wb") as errors:
                processes[name] = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=errors,
                    stdin=subprocess.DEVNULL,
                    cwd=_ROOT,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(_ROOT),
                        "TF_CONFIG": json.dumps({"cluster": addresses, "task": task}),
                    },
                    preexec_fn=_die_with_parent,
                )
        if started:
            started(processes)
        while True:
            told = _tell(folder / f"{first}-0", told, say)
            states = {name: process.poll() for name, process in processes.items()}
            # An error of a person's comes first: of it the others only see that somebody left.
            failed = sorted(
                ((name, status) for name, status in states.items() if status),
                key=lambda each: each[1] != 1,
            )
            if failed:
                return *failed[0], _logs(folder)
            if all(states[name] == 0 for name in ending):
                _tell(folder / f"{first}-0", told, say)
                return None
            if until and time.monotonic() > until:
                return f"{first}-0", None, _logs(folder)
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _ports(count: int) -> list[int]:
    """Ports that nobody listens on, different ones."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _tell(log: Path, told: int, say: Callable[[str], None]) -> int:
    """Says the lines of progress in a log from a place on; returns the place after them."""
    with open(log, "rb") as file:
        file.seek(told)
        whole, newline, _ = file.read().rpartition(b"\n")
    for line in whole.decode("utf-8", "replace").splitlines():
        if line.startswith("  "):  # of `models.training.progress.say`
            say(line)
    return told + len(whole) + len(newline)


def _logs(folder: Path) -> str:
    """The last lines of every process."""
    parts = []
    for log in sorted(folder.iterdir()):
        lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        parts += ["\n".join([f"--- {log.name}", *lines])] if lines else []
    return "\n".join(parts)


def _print(line: str) -> None:
    print(line, flush=True)
