"""Several processes behind the same ports, so that Python's lock is not the limit of a machine.

The kernel gives each connection to one of them (SO_REUSEPORT). Each holds the models of its own;
what is one server's for a client is shared through files of a folder: the counters of all are on
every page of metrics, and a configuration that one is told over gRPC is taken over by all.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving.server.options import ServerOptions
from serving.wire.errors import Code, ServingError, StartError

# Names the shared folder to the processes that `supervise` starts.
VARIABLE = "RECSYS_SERVING_SHARED"
_COUNT = "processes"
_PUBLISH_SECONDS, _FOLLOW_SECONDS, _RESTART_SECONDS, _AGREE_SECONDS = 1.0, 0.2, 1.0, 120.0
log = logging.getLogger("serving")


class Shared:
    """What one of several processes tells the others, and is told by them.

    Args:
        folder: shared by all.
        taken: the file of the configuration that this process began with, None for the options'.
        snapshot: returns this process' counters.
        configure: takes over a serialized ModelServerConfig that another process was told.
    """

    def __init__(
        self,
        folder: str,
        taken: Path | None,
        snapshot: Callable[[], dict],
        configure: Callable[[bytes], None],
    ):
        self._folder = Path(folder)
        self._snapshot = snapshot
        self._configure = configure
        self._own = self._folder / f"metrics-{os.getpid()}.json"
        self._stop = threading.Event()
        self._seen = taken
        if taken is not None:
            self._agree(taken, "")
        for seconds, task in ((_PUBLISH_SECONDS, self.publish), (_FOLLOW_SECONDS, self._follow)):
            threading.Thread(target=self._repeat, args=(seconds, task), daemon=True).start()

    def _repeat(self, seconds: float, task: Callable[[], None]) -> None:
        while not self._stop.wait(seconds):
            try:
                task()
            except OSError as error:
                log.error("cannot share with the other processes: %s", error)

    def close(self) -> None:
        """Publishes a last time; the counters of a process outlive it."""
        self._stop.set()
        self.publish()

    def publish(self) -> None:
        """Writes this process' counters for the others."""
        _write(self._own, json.dumps(self._snapshot()).encode())

    def published(self) -> list[dict]:
        """The counters of all processes, this one's new, the others' at most a second old.

        All are read from files, its own too: whichever process is asked, no counter is ever less
        than it was on the last page, which Prometheus would take for a restart.
        """
        self.publish()
        return [json.loads(file.read_bytes()) for file in self._folder.glob("metrics-*.json")]

    def tell(self, config: bytes) -> None:
        """Has the others take over a configuration, and returns when all have.

        Raises:
            ServingError: one of them could not, or did not answer in time.
        """
        file = self._folder / f"config-{time.time_ns():020}.pb"
        self._seen = file
        _write(file, config)
        expected = int((self._folder / _COUNT).read_text()) - 1
        end = time.monotonic() + _AGREE_SECONDS
        while True:
            said = [each.read_text() for each in self._folder.glob(f"{file.stem}.by-*")]
            if any(said):
                raise ServingError(Code.UNKNOWN, f"another process: {next(filter(None, said))}")
            if len(said) >= expected:
                return
            if time.monotonic() > end:
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"{expected - len(said)} of the other processes did not take the configuration "
                    f"over within {_AGREE_SECONDS:g} s",
                )
            time.sleep(0.05)

    def _follow(self) -> None:
        newest = newest_configuration(str(self._folder))
        if newest is None or newest == self._seen:
            return
        self._seen = newest
        said = ""
        try:
            self._configure(newest.read_bytes())
        except ServingError as error:
            said = error.message
            log.error("the configuration that another process was told: %s", error)
        self._agree(newest, said)

    def _agree(self, config: Path, error: str) -> None:
        _write(self._folder / f"{config.stem}.by-{os.getpid()}", error.encode())


def newest_configuration(folder: str) -> Path | None:
    """The file of the last ModelServerConfig that a process of the group was told, if any was."""
    return max(Path(folder).glob("config-*.pb"), default=None)


def supervise(options: ServerOptions, arguments: list[str]) -> int:
    """Runs `options.processes` servers on the same ports until SIGTERM or SIGINT.

    One that dies is replaced. When all answer it prints what one server prints, with the list
    `processes` of their numbers.

    Args:
        options: read from the arguments.
        arguments: the command line, for the processes.

    Returns:
        The exit status.

    Raises:
        StartError: a port is in use, or a process did not start.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="recsys-serving-") as folder:
        (Path(folder) / _COUNT).write_text(str(options.processes))
        held = [_hold(options.host, port) for port in (options.port, options.rest_api_port)]
        ports = [each.getsockname()[1] if each else -1 for each in held]
        cores = options.tensorflow_intra_op_parallelism or max(
            1, (os.cpu_count() or 1) // options.processes
        )
        command = [sys.executable, "-W", "ignore", "-m", "serving.server", *arguments]
        command += ["--processes=1", f"--port={ports[0]}", f"--rest-api-port={ports[1]}"]
        command += [f"--tensorflow-intra-op-parallelism={cores}", "--stop-at-end-of-input"]
        children = [_start(command, folder) for _ in range(options.processes)]
        try:
            lines = [child.stdout.readline() for child in children]
            if stop.is_set():
                return 0
            if not all(line.startswith(b"{") for line in lines):
                raise StartError("a process did not start; it says above why")
            pids = [child.pid for child in children]
            ready = {**json.loads(lines[0]), "pid": os.getpid(), "processes": pids}
            print(json.dumps(ready), flush=True)
            while not stop.wait(_RESTART_SECONDS):
                for place, child in enumerate(children):
                    if child.poll() is not None:
                        log.error("process %d ended with status %d", child.pid, child.returncode)
                        children[place] = _start(command, folder)
        finally:
            _end(children, options.drain_seconds)
    return 0


def _start(command: list[str], folder: str) -> subprocess.Popen:
    # Ctrl-C is for the supervisor.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, VARIABLE: folder},
        start_new_session=True,
    )


def _end(children: list[subprocess.Popen], drain_seconds: float) -> None:
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(drain_seconds + 10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdin.close()
        child.stdout.close()


def _hold(host: str, port: int) -> socket.socket | None:
    """A socket that keeps a port for processes that share it, and takes no connection itself."""
    if port < 0:
        return None
    # Alone first: with SO_REUSEPORT another server's port, if it shares as well, looks free.
    listen_on(host, port).close()
    return listen_on(host, port, shared=True)


def listen_on(host: str, port: int, shared: bool = False) -> socket.socket:
    """A bound socket.

    Args:
        host: an address of this machine.
        port: 0 for a free one.
        shared: other processes may bind it too, if they say the same.

    Raises:
        StartError: the port is in use, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


def _write(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(file)
