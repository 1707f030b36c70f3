"""Runs and their findings on a terminal."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import rich.console
import rich.table
from rich.text import Text

from components.build.config import SPLITS
from models.names.export import described
from pipeline import local
from pipeline.lineage import RunRecord

_SHOWN = 4  # metrics of the table by slice, which is as wide as a terminal


def console() -> rich.console.Console:
    """Standard output, as wide as its window."""
    # Into a pipe or a file there is no window to fit into.
    return rich.console.Console(width=None if sys.stdout.isatty() else 160)


def print_table(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints one table; ids and titles are shown as they are, never read as markup."""
    table = rich.table.Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(str(value))) for value in row))
    console().print(table)


def _printable(value: str) -> str:
    """Bytes of an id that are no UTF-8 are shown escaped: a terminal cannot print them."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def print_evaluation(record: RunRecord) -> None:
    """Prints the model beside the reference of its task and the last blessed model.

    It does so overall and by slice. Why it was not blessed is said by who ends the command.
    """
    verdict = record.verdict
    if not verdict:
        return
    measured = record.measured
    shown = dict(list(measured.shown.items())[:_SHOWN])
    besides = dict(list(measured.shown.items())[_SHOWN:])
    decisive = list(shown)[:2]
    rows = []
    for name in sorted(verdict["metrics"], key=lambda name: (name != "overall", name)):
        values, before = verdict["metrics"][name], verdict["baseline"].get(name, {})
        rows.append(
            (
                name,
                verdict["counts"].get(name, ""),
                *(f"{values[metric]:.4f}" for metric in shown),
                " / ".join(f"{values[metric]:.4f}" for metric in measured.shown_reference),
                " / ".join(f"{before[metric]:.4f}" for metric in decisive)
                if before
                else "none yet",
            )
        )
    reference = f"{measured.reference}: {' / '.join(measured.shown_reference.values())}"
    blessed = f"last blessed: {' / '.join(measured.shown[metric] for metric in decisive)}"
    print_table(
        f"{record.pipeline}: test {measured.rows}",
        ("slice", measured.rows, *shown.values(), reference, blessed),
        rows,
    )
    if besides:
        overall = verdict["metrics"]["overall"]
        values = [f"{overall.get(metric, float('nan')):.4f}" for metric in besides]
        print_table("Asked for besides, overall", list(besides.values()), [values])
    if record.blessed:
        console().print("[green]blessed[/green]")


def _blessed(record: RunRecord) -> str:
    """`yes`, `no`, or nothing while the model has not been judged."""
    return "yes" if record.blessed else "no" if record.judged else ""


def _time(seconds: float, state: str, digits: int = 0) -> str:
    """Seconds, with `>` where an end that nobody noted is not among them."""
    if state == "interrupted" and not seconds:
        return "not known"
    return f"{'> ' if state == 'interrupted' else ''}{seconds:.{digits}f} s"


def print_runs(records: list[RunRecord]) -> None:
    """Prints a line a run, newest first."""
    rows = []
    for record in reversed(records):
        overall = record.verdict.get("metrics", {}).get("overall", {})
        rows.append(
            (
                record.run_id,
                record.pipeline,
                "cached" if record.cached and record.state == "complete" else record.state,
                _time(record.seconds, record.state),
                "  ".join(
                    f"{heading} {overall[metric]:.4f}"
                    for metric, heading in list(record.measured.shown.items())[:2]
                )
                if overall
                else "",
                _blessed(record),
                record.pushed_path.rsplit("/", 1)[-1] if record.pushed_path else "",
            )
        )
    print_table("Runs", ("run", "pipeline", "state", "time", "test", "blessed", "version"), rows)


def print_run(record: RunRecord) -> None:
    """Prints everything that ML Metadata and the artifacts say of one run."""
    parameters, training = record.training_parameters, record.training
    facts = [("run", record.run_id), ("pipeline", record.pipeline), ("state", record.state)]
    facts += [("time", _time(record.seconds, record.state))]
    reader = record.data_run.steps.get("TableReader")
    if reader:
        facts += [
            ("data", reader.properties.get("source")),
            ("data fingerprint", reader.properties.get("fingerprint")),
        ]
    for table, report in record.reading.items():
        if report:
            facts.append(
                (
                    table,
                    f"{report['read']} rows read, {report['kept']} kept, "
                    f"{report['read'] - report['kept']} rejected",
                )
            )
    if name := record.data_run.building.get("split", {}).get("name"):
        leaks = SPLITS[name].leaks if record.timed else SPLITS[name].untimed
        facts.append(("split", f"{name} ({leaks})" if leaks else name))
    facts.append(("code hash", parameters.get("code_hash")))
    if not record.is_bundle:
        facts += [("seed", parameters.get("seed"))]
        facts += [
            (
                "hyper-parameters",
                ", ".join(f"{k}={v}" for k, v in parameters.get("hyper_parameters", {}).items()),
            )
        ]
    if record.bundling:
        stages = {
            key: record.bundling[key]
            for key in ("recall", "recall_run", "rank", "rank_run", "candidates", "weight")
        }
        facts.append(("stages", ", ".join(f"{key}={value}" for key, value in stages.items())))
    if training:
        facts.append(
            (
                "training",
                f"{training['seconds']:.0f} s, best epoch {training['best_epoch']}, "
                f"{training['parameters']:,} parameters, {training['strategy']}",
            )
        )
        if rare := training.get("unknown_rows"):
            rows = ", ".join(f"{name} {rows:,}" for name, rows in rare.items())
            facts.append(("train rows with a value that is not admitted", rows))
        if export := training.get("export"):
            facts.append(("export", described(export)))
    if again := local.fitted_again(record):
        facts.append(("refit", again))
    facts += [
        ("blessed", _blessed(record) or "not judged"),
        ("canary", "answered" if record.canary else "no" if record.canary_outcome else "not asked"),
        ("pushed", record.pushed_path or "nothing"),
    ]
    print_table("Run", ("what", "value"), facts)
    steps = [
        (
            step.node,
            step.state,
            _time(step.seconds, step.state, 1),
            *list(step.outputs.values())[:1],
        )
        for step in record.steps.values()
    ]
    print_table(
        "Components",
        ("component", "state", "time", "first artifact"),
        [step if len(step) == 4 else (*step, "") for step in steps],
    )
    print_evaluation(record)
    for failure in record.verdict.get("failures", []):
        console().print(Text(f"not blessed: {failure['text']}", style="red"))
