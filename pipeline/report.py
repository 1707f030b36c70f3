"""The report of a run: one HTML page that needs nothing but itself.

It says first whether a model was pushed and why not.
"""

import importlib.metadata
import itertools
import math
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.names import registry
from models.names.export import described
from models.names.metrics import SAMPLED
from pipeline import charts, local, report_data, report_users
from pipeline.lineage import RunRecord

_TEMPLATES = Path(__file__).parent / "templates"
_OVERALL = "overall"
_ACRONYMS = {
    name: name.upper()
    for name in ("hr", "ndcg", "mrr", "map", "auc", "gauc", "rmse", "mse", "mae", "ncf99")
}
_LOWER_IS_BETTER = {"loss", "log_loss", "rmse", "mse", "mae", "calibration_error"}
_NEITHER_IS_BETTER = {"calibration", "tie_gap", "novelty", "coverage", "gini"}
# A metric `<prefix>_<metric>` belongs to that metric: the same of a reference, how much better than
# it, another protocol.
_REFERENCES = {
    "alone": "the recall alone",
    "random": "a random order",
    "popularity": "popularity",
    "constant": "the train mean",
}
_LIFT, _GROUP = "lift", "group"
_COLUMNS = 8  # numbers beside each other that fit a page of 1,280 pixels
_PACKAGES = (
    "tfx",
    "tensorflow",
    "tf-keras",
    "tensorflow-recommenders",
    "apache-beam",
    "tensorflow-model-analysis",
)


def write_report(record: RunRecord, path: str | Path, error: str | None = None) -> Path:
    """Writes the page whole or not at all, and returns its path.

    Args:
        record: the run, however far it got.
        path: the file; its folder is made.
        error: what stopped a run that failed; ML Metadata knows only which component it was.
    """
    return write_page(render(record, error), path)


def write_page(text: str, path: str | Path) -> Path:
    """Writes a page whole or not at all, and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # An id that is no UTF-8 is shown escaped.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def render(record: RunRecord, error: str | None = None) -> str:
    """Returns the page."""
    return (
        environment()
        .get_template("report.html")
        .render(
            run=_run(record),
            verdict=verdict(record, error),
            data=report_data.describe(record.data_run),
            training=training(record),
            stages=stages(record),
            metrics=metrics(record),
            users=report_users.describe(record),
            lineage=lineage(record),
        )
    )


def environment() -> Any:
    """The jinja2 environment of the pages."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        basename=os.path.basename, seconds=_seconds, metric=label, number=_number, signed=_signed
    )
    return made


def label(name: str) -> str:
    """`hr_10` -> `HR@10`, `log_loss` -> `Log loss`, `ncf99_hr_10` -> `NCF99 HR@10`."""
    prefix, _, rest = name.partition("_")
    if prefix in (*_REFERENCES, _LIFT, SAMPLED, _GROUP) and rest:
        return f"{_ACRONYMS.get(prefix, prefix.capitalize())} {label(rest)}"
    found = re.fullmatch(r"(.+?)_(\d+)", name)
    base, cutoff = (found[1], f"@{found[2]}") if found else (name, "")
    return _ACRONYMS.get(base, base.replace("_", " ").capitalize()) + cutoff


def _run(record: RunRecord) -> dict[str, Any]:
    parameters = record.training_parameters
    name = parameters.get("model") or record.pipeline.partition("-")[0]
    entries = [registry.MODELS[part] for part in name.split("+") if part in registry.MODELS]
    reader = record.data_run.steps.get("TableReader")
    source = reader.properties.get("source", "") if reader else ""
    return {
        "id": record.run_id,
        "pipeline": record.pipeline,
        "model": ", ranked by ".join(entry.title for entry in entries) or name,
        "paper": "; ".join(entry.paper for entry in entries),
        "data": Path(str(source)).name,
        "seconds": record.seconds,
        "cached": record.cached and record.state == "complete",
    }


def verdict(record: RunRecord, error: str | None = None) -> dict[str, Any]:
    """What became of the run.

    That is `state` (pushed, held or failed), a headline and reasons, and every threshold.
    """
    found = {
        "state": "held",
        "reasons": [],
        "thresholds": _thresholds(record),
        "canary": _canary(record),
        "refit": local.fitted_again(record),
        "version": "",
    }
    failed = [step.node for step in record.steps.values() if step.state == "failed"]
    if record.pushed_path:
        found |= {
            "state": "pushed",
            "version": Path(record.pushed_path).name,
            "path": _short(record, record.pushed_path),
        }
        found["headline"] = f"Blessed and pushed as version {found['version']}"
    elif failed or error:
        found |= {
            "state": "failed",
            "headline": f"Failed at {', '.join(failed)}" if failed else "Failed",
        }
        found["reasons"] = [
            error or "Nothing was pushed. The command that ran the pipeline printed the reason."
        ]
    elif record.state == "interrupted":
        last = next(reversed(record.steps), "its start")
        found |= {
            "state": "failed",
            "headline": f"Interrupted after {last}",
            "reasons": ["The next run goes on from there."],
        }
    elif not record.blessed:
        found["headline"] = "Not blessed: nothing was pushed"
        failures = record.verdict.get("failures", [])
        found["reasons"] = [failure.get("text", failure["metric"]) for failure in failures] or [
            "The Evaluator gave no blessing."
        ]
    elif not record.canary:
        found |= {
            "headline": "Blessed, but no server could answer from it: nothing was pushed",
            "reasons": [found["canary"]],
        }
    else:
        found |= {"headline": "Blessed, but the Pusher pushed nothing"}
    return found


def _canary(record: RunRecord) -> str:
    outcome = record.canary_outcome
    if not outcome:
        return ""
    if outcome.get("blessed") == 1:
        answered = outcome.get("answered")
        return (
            f"A server process answered {answered} requests, each over REST and gRPC."
            if answered
            else "A server process answered."
        )
    return str(outcome.get("reason") or "No reason was recorded.")


def _thresholds(record: RunRecord) -> list[dict[str, Any]]:
    """Every threshold, of all rows and of the declared slices.

    A row says what was required, measured and left over, in the metric's own unit, positive where
    the model is better.
    """
    return [
        {
            **one,
            "what": f"against {one['against']}"
            + ("" if one["slice"] == _OVERALL else f", {one['slice'].replace(':', ': ')}"),
            "margin": None if one["value"] is None else one["value"] - one["bound"],
        }
        for one in record.verdict.get("thresholds", [])
    ]


def training(record: RunRecord) -> dict[str, Any]:
    """The training log as a table and two curves a stage; empty where there was no training."""
    log = record.training
    if not log:
        return {}
    monitor, epochs = log.get("monitor", ""), log.get("epochs", [])
    stages = []
    for stage in dict.fromkeys(row["stage"] for row in epochs):
        rows = [row for row in epochs if row["stage"] == stage]
        best, figures = log.get("best_epochs", {}).get(stage), []
        for name, title in (("loss", "Training loss"), (monitor, f"Validation {label(monitor)}")):
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            if len(points) > 1:
                prefix = _reference(rows[0])
                level = rows[0].get(f"{prefix}_{name}")
                reference = (_REFERENCES[prefix], level) if level is not None else None
                chart = charts.line_chart(
                    f"{stage}: {title}", points, best=best, reference=reference
                )
                note = (
                    f"{dict(points)[best]:.4f} at the best epoch, {best}."
                    if best in dict(points)
                    else ""
                )
                figures.append({"title": title, "note": note, "chart": chart})
        stages.append({"name": stage, "best": best, "rows": rows, "figures": figures})
    names = {name for row in epochs for name in row} - {
        "stage",
        "epoch",
        "seconds",
        "loss",
        "examples_per_second",
    }
    return {
        **log,
        "monitor": monitor,
        "stages": stages,
        "shown": _leading(sorted(names), monitor)[:4],
        "base": record.training_parameters,
        "exported": described(log["export"]) if log.get("export") else "",
        "not_admitted": log.get("unknown_rows", {}),
    }


def stages(record: RunRecord) -> dict[str, Any]:
    """The Bundler's log, and what each weight of the ranking reached on validation.

    It is empty where there was none.
    """
    log = record.bundling
    if not log:
        return {}
    titles = {
        stage: registry.MODELS[log[stage]].title if log[stage] else ""
        for stage in ("recall", "rank")
    }
    points = [(row["weight"], row["ndcg_10"]) for row in log["weights"]]
    title = "Validation NDCG@10 by the weight of the ranking"
    chart = (
        charts.line_chart(
            title,
            points,
            best=log["weight"],
            reference=("the recall alone", points[0][1]),
            over="weight",
        )
        if points
        else None
    )
    note = (
        f"{dict(points)[log['weight']]:.4f} at the weight chosen, {log['weight']:g}."
        if points
        else ""
    )
    return {
        **log,
        "titles": titles,
        "figures": [{"title": title, "note": note, "chart": chart}] if chart else [],
    }


def metrics(record: RunRecord) -> dict[str, Any]:
    """The gate's findings, overall and by slice; empty before the gate.

    They stand beside a reference's and the last blessed model's.
    """
    found, before, counts = (
        _finite(record, "metrics"),
        _finite(record, "baseline"),
        record.verdict.get("counts", {}),
    )
    if not found.get(_OVERALL):
        return {}
    overall, old = found[_OVERALL], before.get(_OVERALL, {})
    reference = _reference(overall)
    monitor = record.measured.monitor
    names = [
        name
        for name in _leading(list(overall), monitor)
        if not (_protocol(name, overall) and not overall[name])
    ]
    rows = []
    for name in names:
        other = overall.get(f"{reference}_{name}")
        rows.append(
            {
                "name": name,
                "value": overall[name],
                "reference": other,
                "over_reference": _compare(name, overall[name], other),
                "before": old.get(name),
                "over_before": _compare(name, overall[name], old.get(name)),
            }
        )
    slices = sorted(found, key=lambda name: (name != _OVERALL, *_natural(name)))
    plotted, series = names[:2], ("this model", _REFERENCES.get(reference, ""), "last blessed")
    plots: dict[str, list] = {name: [] for name in plotted}
    for name, one in itertools.product(plotted, slices):
        values = (
            found[one].get(name),
            found[one].get(f"{reference}_{name}"),
            before.get(one, {}).get(name),
        )
        shown = {key: value for key, value in zip(series, values, strict=True) if value is not None}
        plots[name].append((one.replace(":", ": "), shown))
    used = [
        one
        for one in series
        if any(one in values for points in plots.values() for _, values in points)
    ]
    table = [
        {
            "name": one.replace(":", ": "),
            "count": counts.get(one),
            "values": found[one],
            "before": before.get(one, {}),
        }
        for one in slices
    ]
    return {
        "rows": rows,
        "reference": reference,
        "reference_name": _REFERENCES.get(reference, ""),
        "has_before": bool(old),
        "ranks": record.data_run.building.get("task", record.training.get("task", "retrieve"))
        == "retrieve",
        "tie_gap": any(name.startswith("tie_gap_") for name in names),
        "sampled": any(_protocol(name, overall) for name in names),
        "slices": table,
        "slice_tables": _slice_tables(names, overall, record.measured.shown, reference, bool(old)),
        "plotted": plotted,
        "legend": charts.legend(used),
        "figures": [
            {
                "title": label(name),
                "note": "",
                "chart": charts.dot_plot(f"{label(name)} by slice", points, used),
            }
            for name, points in plots.items()
        ],
        "queries": counts.get(_OVERALL),
    }


def _slice_tables(
    names: list[str], overall: dict, shown: Mapping, reference: str, has_before: bool
) -> list[list[dict[str, str]]]:
    """The columns of the tables by slice: the first for all, the others for who wants the rest.

    None has more columns than the page is wide. A column has a `metric`, `of` which model (its key
    in a row of the table) and what it is `called`.
    """
    ours = [
        name for name in names if not _protocol(name, overall) and not name.startswith("tie_gap_")
    ]
    first = [name for name in ours if name in list(shown)[:4]]
    columns = [{"metric": name, "of": "values", "called": ""} for name in first]
    for name in names[:2]:
        if f"{reference}_{name}" in overall:
            columns.append(
                {
                    "metric": f"{reference}_{name}",
                    "of": "values",
                    "called": _REFERENCES[reference].capitalize(),
                    "heading": name,
                }
            )
        if has_before:
            columns.append({"metric": name, "of": "before", "called": "Last blessed"})
    rest = [{"metric": name, "of": "values", "called": ""} for name in ours if name not in first]
    tables = [columns, *(rest[at : at + _COLUMNS] for at in range(0, len(rest), _COLUMNS))]
    return [[{"heading": one["metric"], **one} for one in table] for table in tables]


def _leading(names: list[str], monitor: str) -> list[str]:
    """The metrics that stand for themselves.

    The monitored one comes first, then those that have a reference, then the rest.
    """
    own = [
        name
        for name in names
        if not any(
            name == f"{prefix}_{other}" for prefix in (*_REFERENCES, _LIFT) for other in names
        )
    ]
    reference = _reference(names)
    return sorted(
        own,
        key=lambda name: (
            name != monitor,
            f"{reference}_{name}" not in names,
            _protocol(name, names),
        ),
    )


def _reference(names) -> str:
    """The prefix of the reference's metrics among the names, or an empty string."""
    return next(
        (prefix for prefix in _REFERENCES if any(f"{prefix}_{name}" in names for name in names)), ""
    )


def _finite(record: RunRecord, part: str) -> dict[str, dict[str, float]]:
    """A part of the verdict without the metrics that a slice has no value for."""
    found = record.verdict.get(part, {})
    return {
        one: {name: value for name, value in values.items() if math.isfinite(value)}
        for one, values in found.items()
    }


def _protocol(name: str, names) -> bool:
    """Whether the metric is another one's under sampled candidates."""
    return name.startswith(f"{SAMPLED}_") and name.removeprefix(f"{SAMPLED}_") in names


def _compare(name: str, value: float, other: float | None) -> dict[str, Any] | None:
    if other is None:
        return None
    difference, base = value - other, re.sub(r"_\d+$", "", name)
    gain = -difference if base in _LOWER_IS_BETTER else difference
    return {
        "difference": difference,
        "trend": "same"
        if not gain or base in _NEITHER_IS_BETTER
        else "better"
        if gain > 0
        else "worse",
    }


def _natural(name: str) -> tuple:
    """Slices in a reading order: by name, then from few to many, from head to cold."""
    group, _, value = name.partition(":")
    order = {"head": 0, "middle": 1, "tail": 2, "warm": 0, "cold": 9}
    digits = re.match(r"\d+", value)
    return group, order.get(value, int(digits[0]) if digits else 0), value


def lineage(record: RunRecord) -> dict[str, Any]:
    """Components, hashes, hyper-parameters and versions."""
    parameters, reader = record.training_parameters, record.data_run.steps.get("TableReader")
    recorded = {
        values["tfx_version"] for values in record.artifacts.values() if "tfx_version" in values
    }
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if recorded:
        versions["tfx"] = ", ".join(sorted(recorded))
    longest = max((step.seconds for step in record.steps.values()), default=0) or 1
    steps = [
        {
            "node": step.node,
            "state": "ran" if step.state == "complete" else step.state,
            "seconds": step.seconds,
            "share": step.seconds / longest,
            "outputs": [(key, _short(record, uri)) for key, uri in sorted(step.outputs.items())],
        }
        for step in record.steps.values()
    ]
    facts = {
        "Run": record.run_id,
        "Pipeline": record.pipeline,
        "Data": reader.properties.get("source") if reader else None,
        "Fingerprint of the data": reader.properties.get("fingerprint") if reader else None,
        "Fingerprint of the run": parameters.get("fingerprint"),
        "Code of models/": parameters.get("code_hash"),
        "Code of components/ and schema/": reader.properties.get("code_hash") if reader else None,
        "Seed": parameters.get("seed"),
    }
    return {
        "steps": steps,
        "facts": {name: value for name, value in facts.items() if value not in (None, "")},
        "hyper_parameters": parameters.get("hyper_parameters", {}),
        "versions": versions,
    }


def _short(record: RunRecord, path: str) -> str:
    """A path below the output folder, without the folder."""
    try:
        return str(Path(path).relative_to(Path(record.output).absolute()))
    except ValueError:
        return str(path)


def _seconds(value: float) -> str:
    if value < 90:
        return f"{value:.1f} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4f}"
        if abs(value) < 100
        else f"{value:,.1f}"
    )


def _signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")
