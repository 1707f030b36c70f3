"""Keeps the configured versions of every model loaded, and hands them out."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import Callable

from serving.server.model_config import ModelConfig, RequestLogConfig
from serving.server.servable import Servable, give_memory_back
from serving.wire import protos
from serving.wire.errors import Code, ServingError, from_exception

log = logging.getLogger("serving")
ModelVersionStatus = protos.status.ModelVersionStatus
Loader = Callable[[str, int, str], Servable]


@dataclass
class Version:
    """One version of one model, from the moment it is first wanted.

    Attributes:
        number: the version.
        path: its folder.
        state: a `ModelVersionStatus.State`.
        error: why it does not serve, where it does not.
        servable: set while it is available.
        attempts: how many attempts to load it have failed.
        next_attempt: when to try again, in seconds of the monotonic clock.
        contents: names, sizes and times of its files at the last attempt.
    """

    number: int
    path: str
    state: int = ModelVersionStatus.START
    error: ServingError | None = None
    servable: Servable | None = None
    attempts: int = 0
    next_attempt: float = 0.0
    contents: tuple = ()


class Manager:
    """Loads and unloads versions as folders and configuration change.

    New versions are loaded before old ones are unloaded, so a model never stops answering. A
    version that does not load is tried again, and at once when its files change; while no wanted
    version of a model loads, the next smaller one serves in its place.
    """

    def __init__(
        self,
        loader: Loader,
        max_load_retries: int = 5,
        retry_interval: float = 60.0,
        labels_for_unavailable: bool = False,
    ):
        """Creates a manager without models.

        Args:
            loader: makes a servable from name, version and folder.
            max_load_retries: further attempts after the first that failed.
            retry_interval: seconds between attempts.
            labels_for_unavailable: accept a new label for a version that is not loaded.
        """
        self._loader = loader
        self._max_load_retries = max_load_retries
        self._retry_interval = retry_interval
        self._labels_for_unavailable = labels_for_unavailable
        self._configs: dict[str, ModelConfig] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._lock = threading.Lock()  # guards the two tables; never held while loading
        self._changing = threading.RLock()  # one change at a time
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None
        self._warned: set[str] = set()

    # --- what requests need

    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable for a request; the caller must `release` it.

        Args:
            name: the model.
            version: a version number; the largest available one where None.
            label: a version label, in place of a number.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._lock:
            if label:
                config = self._configs.get(name)
                if config is None or label not in config.labels:
                    raise ServingError(
                        Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}"
                    )
                version = config.labels[label]
            known = self._versions.get(name, {})
            if version is None:
                available = [entry for entry in known.values() if entry.servable]
                if available:
                    return max(available, key=lambda entry: entry.number).servable.acquire()
                asked = f"Latest({name})"
            else:
                entry = known.get(version)
                if entry is not None and entry.servable:
                    return entry.servable.acquire()
                asked = f"Specific({name}, {version})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {asked}")

    def status(self, name: str, version: int | None = None) -> list[Version]:
        """The states of one version, or of all versions of a model, largest first.

        Raises:
            ServingError: NOT_FOUND for an unknown model or version.
        """
        with self._lock:
            known = dict(self._versions.get(name, {}))
        if version is not None:
            if version not in known:
                raise ServingError(
                    Code.NOT_FOUND, f"Could not find version {version} of model {name}"
                )
            return [known[version]]
        if not known:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return [known[number] for number in sorted(known, reverse=True)]

    def request_log(self, name: str) -> RequestLogConfig | None:
        """Where sampled requests of a model go; None: nowhere."""
        with self._lock:
            config = self._configs.get(name)
        return config.request_log if config else None

    def knows(self, name: str) -> bool:
        """Whether a model of this name is configured, or was."""
        with self._lock:
            return name in self._configs or name in self._versions

    def names(self) -> list[str]:
        """The names of the configured models."""
        with self._lock:
            return list(self._configs)

    def available(self) -> list[tuple[str, int]]:
        """Model and version of everything that serves now."""
        with self._lock:
            return [
                (name, number)
                for name, known in self._versions.items()
                for number, entry in known.items()
                if entry.servable
            ]

    # --- configuration

    def configure(self, configs: list[ModelConfig]) -> None:
        """Replaces the configuration, and returns when every model in it serves.

        Args:
            configs: the models; those left out are unloaded.

        Raises:
            ServingError: FAILED_PRECONDITION for a label of a version that is not loaded, in which
                case nothing changes; UNKNOWN where a model did not become available.
        """
        with self._changing:
            first = not self._configs
            if not first:
                self._check_labels(configs)
            with self._lock:
                self._configs = {
                    config.name: config if not first else _without_labels(config)
                    for config in configs
                }
            self.step()
            if first:
                self._check_labels(configs)
                with self._lock:
                    self._configs = {config.name: config for config in configs}
            failed = [
                self._why_not(config)
                for config in configs
                if not any(name == config.name for name, _ in self.available())
            ]
            if failed:
                raise ServingError(
                    Code.UNKNOWN,
                    f"{len(failed)} servable(s) did not become available: {{{', '.join(failed)}}}",
                )

    def _why_not(self, config: ModelConfig) -> str:
        known = self._versions.get(config.name, {})
        errors = [
            f"{{name: {config.name} version: {entry.number}}} due to error: {entry.error}"
            for entry in known.values()
            if entry.error
        ]
        return ", ".join(errors) or (
            f"{{name: {config.name}}} No versions of servable {config.name} found under base path "
            f"{config.base_path}"
        )

    def _check_labels(self, configs: list[ModelConfig]) -> None:
        serving = set(self.available())
        for config in configs:
            old = self._configs.get(config.name)
            for label, number in config.labels.items():
                if (config.name, number) in serving:
                    continue
                moved = old is not None and old.labels.get(label, number) != number
                if self._labels_for_unavailable and not moved:
                    continue
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {number} of model {config.name}, "
                    "which is not currently available for inference",
                )

    # --- the watch over folders

    def start_polling(self, seconds: float) -> None:
        """Looks at the folders every `seconds`; zero or less: never again."""
        if seconds <= 0:
            return

        def poll() -> None:
            while not self._stop.wait(seconds):
                try:
                    self.step()
                except Exception:
                    log.exception("polling failed; the versions that serve go on")

        self._poller = threading.Thread(target=poll, name="version-poll", daemon=True)
        self._poller.start()

    def step(self) -> None:
        """Looks at every model's folder once, loads what is wanted, unloads what is not."""
        with self._changing:
            for config in list(self._configs.values()):
                try:
                    folders = find_versions(config.base_path, self._warn_once)
                except OSError as error:
                    self._warn_once(
                        f"cannot list {config.base_path}: {error}; "
                        f"model {config.name} stays as it is"
                    )
                    continue
                self._step_model(config, folders)
            with self._lock:
                gone = [name for name in self._versions if name not in self._configs]
            for name in gone:
                for entry in list(self._versions[name].values()):
                    self._unload(name, entry)

    def _warn_once(self, text: str) -> None:
        # The folders are looked at every second; what is wrong with them is said once.
        if text not in self._warned:
            self._warned.add(text)
            log.warning(text)

    def _step_model(self, config: ModelConfig, folders: dict[int, str]) -> None:
        with self._lock:
            known = self._versions.setdefault(config.name, {})
        wanted = config.choose(list(folders))
        if config.policy == "specific" and len(wanted) < len(config.specific):
            missing = sorted(set(config.specific) - set(folders))
            self._warn_once(f"model {config.name}: no folder for version(s) {missing}")
        keep = set(wanted)
        for number in wanted:
            self._load_if_due(config.name, known, number, folders[number])
        serves = any(number in known and known[number].servable for number in wanted)
        if wanted and not serves and config.policy == "latest":
            # A damaged newest version must not leave the model without an answer.
            for number in sorted(set(folders) - set(wanted), reverse=True):
                keep.add(number)
                self._load_if_due(config.name, known, number, folders[number])
                if known[number].servable:
                    serves = True
                    break
        if serves or not wanted:
            for number in sorted(set(known) - keep):
                self._unload(config.name, known[number])

    def _load_if_due(self, name: str, known: dict[int, Version], number: int, path: str) -> None:
        entry = known.get(number)
        if entry is not None and (entry.servable or entry.state == ModelVersionStatus.UNLOADING):
            return
        contents = _contents(path)
        if entry is None or (entry.state == ModelVersionStatus.END and entry.error is None):
            entry = Version(number, path)
            with self._lock:
                known[number] = entry
        elif contents == entry.contents:
            if entry.state == ModelVersionStatus.END or time.monotonic() < entry.next_attempt:
                return
        else:
            entry.attempts = 0
        entry.path, entry.contents, entry.state = path, contents, ModelVersionStatus.LOADING
        begin = time.monotonic()
        try:
            servable = self._loader(name, number, path)
        except Exception as failure:  # whatever a damaged model raises, the others must go on
            error = from_exception(failure)
            entry.error = error
            entry.attempts += 1
            entry.next_attempt = time.monotonic() + self._retry_interval
            if entry.attempts > self._max_load_retries:
                entry.state = ModelVersionStatus.END
            log.error(
                "model %s version %d does not load (attempt %d): %s",
                name,
                number,
                entry.attempts,
                error.message,
            )
            return
        with self._lock:
            entry.servable, entry.state, entry.error = servable, ModelVersionStatus.AVAILABLE, None
        log.info(
            "model %s version %d available after %.2f s", name, number, time.monotonic() - begin
        )

    def _unload(self, name: str, entry: Version) -> None:
        with self._lock:
            servable, entry.servable = entry.servable, None
            if servable is None:
                if entry.state not in (ModelVersionStatus.END, ModelVersionStatus.UNLOADING):
                    entry.state = ModelVersionStatus.END
                return
            entry.state = ModelVersionStatus.UNLOADING

        def close() -> None:
            servable.close()
            entry.state = ModelVersionStatus.END
            give_memory_back()
            log.info("model %s version %d unloaded", name, entry.number)

        # A slow request may hold the old version; the new one must not wait for that.
        threading.Thread(target=close, name="unload", daemon=True).start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stops the watch and unloads everything, waiting at most `timeout` seconds a model."""
        self._stop.set()
        if self._poller is not None:
            self._poller.join(10)
        with self._changing:
            for known in self._versions.values():
                for entry in known.values():
                    with self._lock:
                        servable, entry.servable = entry.servable, None
                    if servable is not None:
                        servable.close(timeout)
                        entry.state = ModelVersionStatus.END
        give_memory_back()


def find_versions(base_path: str, warn: Callable[[str], None] = log.warning) -> dict[int, str]:
    """The version folders of a model: number -> path.

    Names that are not numbers are ignored; of two names for one number the first by name counts.

    Args:
        base_path: the model's folder.
        warn: told of names for the same number.

    Raises:
        OSError: the folder cannot be listed.
    """
    found: dict[int, str] = {}
    for name in sorted(os.listdir(base_path)):
        if not (name.isascii() and name.isdigit()):
            continue
        path = os.path.join(base_path, name)
        if int(name) >= 1 << 63 or not os.path.isdir(path):
            continue
        if int(name) in found:
            warn(f"duplicate version directories for {int(name)}: {path} is ignored")
            continue
        found[int(name)] = path
    return found


def _contents(path: str) -> tuple:
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            found.append((folder, name, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def _without_labels(config: ModelConfig) -> ModelConfig:
    return replace(config, labels={})
