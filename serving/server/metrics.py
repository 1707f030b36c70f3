"""Counters and histograms under TensorFlow Serving's names, exported in its Prometheus format.

The library prometheus-client cannot write that format: it ends the name of every counter in
`_total`, sorts labels by name and prints counts as decimals. Counting costs it four times as much.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Callable

from serving.server.text_proto import read_text_proto
from serving.wire import protos

DEFAULT_PATH = "/monitoring/prometheus/metrics"
OPEN_METRICS = "application/openmetrics-text"


def page_path(config_file: str) -> str:
    """The HTTP path of the metrics that a file of TensorFlow Serving's MonitoringConfig asks for.

    Args:
        config_file: in protobuf's text format: `prometheus_config { enable: true }`; `path:` in it
            replaces the default path.

    Returns:
        The path; empty where the file does not switch the metrics on.

    Raises:
        StartError: the file cannot be read or does not parse.
    """
    config = read_text_proto(config_file, protos.MonitoringConfig()).prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else ""


class Counter:
    """A number that only grows, one for each combination of label values.

    Args:
        name: TensorFlow Serving's; or one of our own, as Prometheus' linter wants it.
        labels: names of the labels.
        meaning: the line of help that one of our own has.
    """

    kind = "counter"

    def __init__(self, name: str, labels: tuple[str, ...], meaning: str = ""):
        self.name = name
        self.labels = labels
        self.meaning = meaning
        self.cells: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, by: int = 1) -> None:
        """Adds `by` to the cell of these label values."""
        with self._lock:
            self.cells[values] = self.cells.get(values, 0) + by

    def snapshot(self) -> list:
        """The cells as JSON takes them."""
        with self._lock:
            return [[labels, count] for labels, count in self.cells.items()]

    def absorb(self, cells: list) -> None:
        """Adds the cells of a snapshot."""
        for labels, count in cells:
            self.add(*labels, by=count)

    def total(self) -> int:
        """The sum over all cells."""
        with self._lock:
            return sum(self.cells.values())

    def lines(self, open_metrics: bool = False) -> list[str]:
        """The metric in Prometheus' text format, or in OpenMetrics'."""
        name = metric_name(self.name)
        with self._lock:
            cells = sorted(self.cells.items())
        family, kind = name, self.kind
        if open_metrics and self.meaning:
            family = name.removesuffix("_total")
        elif open_metrics:
            # There every sample of a counter ends in `_total`: whoever asks for it would not find
            # the metric under TensorFlow Serving's name.
            kind = "unknown"
        told = [f"# HELP {family} {self.meaning}"] if self.meaning else []
        return [*told, f"# TYPE {family} {kind}"] + [
            f"{name}{{{_labels(self.labels, values)}}} {count}" for values, count in cells
        ]


class Histogram:
    """How many values fell into each of a row of growing buckets."""

    kind = "histogram"

    def __init__(self, name: str, labels: tuple[str, ...], scale: float, growth: float, count: int):
        self.name = name
        self.labels = labels
        self._limits = [scale * growth**power for power in range(count)]
        self._cells: dict[tuple[str, ...], list] = {}
        self._lock = threading.Lock()

    def add(self, value: float, *labels: str) -> None:
        """Counts one value in the cell of these label values."""
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = [[0] * (len(self._limits) + 1), 0.0]
            cell[0][bisect_right(self._limits, value)] += 1
            cell[1] += value

    def snapshot(self) -> list:
        """The cells as JSON takes them."""
        with self._lock:
            return [
                [labels, list(counts), total] for labels, (counts, total) in self._cells.items()
            ]

    def absorb(self, cells: list) -> None:
        """Adds the cells of a snapshot."""
        with self._lock:
            for labels, counts, total in cells:
                cell = self._cells.setdefault(tuple(labels), [[0] * len(counts), 0.0])
                cell[0] = [one + other for one, other in zip(cell[0], counts, strict=True)]
                cell[1] += total

    def total(self) -> int:
        """How many values were counted."""
        with self._lock:
            return sum(sum(cell[0]) for cell in self._cells.values())

    def lines(self, open_metrics: bool = False) -> list[str]:
        """The metric in Prometheus' text format, or in OpenMetrics'; buckets cumulate."""
        name = metric_name(self.name)
        lines = [f"# TYPE {name} {self.kind}"]
        with self._lock:
            cells = sorted((labels, list(cell[0]), cell[1]) for labels, cell in self._cells.items())
        written = [f"{limit:g}" for limit in self._limits]
        # OpenMetrics writes bounds as decimals.
        limits = [str(float(limit)) if open_metrics else limit for limit in written] + ["+Inf"]
        for values, counts, total in cells:
            labels = _labels(self.labels, values)
            prefix = f"{labels}," if labels else ""
            running = 0
            for limit, count in zip(limits, counts, strict=True):
                running += count
                lines.append(f'{name}_bucket{{{prefix}le="{limit}"}} {running}')
            lines.append(f"{name}_sum{{{labels}}} {total:g}")
            lines.append(f"{name}_count{{{labels}}} {running}")
        return lines


class Metrics:
    """The metrics of one server.

    Attributes:
        published: returns the snapshots that a page adds up, where several processes are one
            server; None where there is one.
    """

    def __init__(self):
        self.published: Callable[[], list[dict]] | None = None
        latency = (10, 1.8, 33)  # microseconds, to about 20 minutes
        self.request_count = Counter("/tensorflow/serving/request_count", ("model_name", "status"))
        self.request_latency = Histogram(
            "/tensorflow/serving/request_latency", ("model_name", "API", "entrypoint"), *latency
        )
        self.runtime_latency = Histogram(
            "/tensorflow/serving/runtime_latency", ("model_name", "API", "runtime"), *latency
        )
        self.example_counts = Histogram(
            "/tensorflow/serving/request_example_counts", ("model",), 1, 2, 15
        )
        self.example_count_total = Counter(
            "/tensorflow/serving/request_example_count_total", ("model",)
        )
        self.queuing_latency = Histogram(
            "/tensorflow/serving/batching_session/queuing_latency", (), *latency
        )
        self.warmup_latency = Histogram(
            "/tensorflow/serving/model_warmup_latency", ("model_path", "status"), *latency
        )
        self.request_log_count = Counter(
            "/tensorflow/serving/request_log_count", ("model_name", "status_code")
        )
        self.state_count = Counter(
            "recsys_serving_state_operations_total",
            ("operation", "status"),
            "What was asked of the live state, by operation and how it ended.",
        )
        self.load_attempts = Counter(
            "/tensorflow/cc/saved_model/load_attempt_count", ("model_path", "status")
        )
        self._all = {
            metric.name: metric for metric in vars(self).values() if hasattr(metric, "lines")
        }

    def totals(self, names: list[str]) -> dict[str, int]:
        """The sum over all cells of each counter named; 0 for a name that is none."""
        return {
            name: self._all[name].total() if isinstance(self._all.get(name), Counter) else 0
            for name in names
        }

    def snapshot(self) -> dict[str, list]:
        """All cells, as JSON takes them."""
        return {name: metric.snapshot() for name, metric in self._all.items()}

    def page(self, open_metrics: bool = False) -> str:
        """Every metric that counted anything, in Prometheus' text format, or in OpenMetrics'."""
        if self.published is not None:
            every = Metrics()
            for snapshot in self.published():
                for name, cells in snapshot.items():
                    every._all[name].absorb(cells)
            return every.page(open_metrics)
        lines: list[str] = []
        for name in sorted(self._all):
            if self._all[name].total():
                lines += self._all[name].lines(open_metrics)
        return "\n".join(lines + ["# EOF"] * open_metrics) + "\n"


def metric_name(name: str) -> str:
    """TensorFlow's metric name as Prometheus may hold it: `:tensorflow:serving:...`."""
    return re.sub("[^a-zA-Z0-9_]", ":", name)


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in zip(names, values, strict=True)
    )
