"""What trains, gates and pushes: run, bundle, demo."""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

from collections.abc import Callable
from pathlib import Path

import click

from models.names.errors import RecsysError
from pipeline.commands.options import BEAM, config_of, mended, run_options


@click.command()
@run_options
@mended
def run(**options) -> None:
    """Run the pipeline for MODEL (default two_tower).

    That is: read, check, split, transform, train, gate, canary, push. With --refit the blessed
    model is trained again on everything, for the epochs that were chosen, and that one is pushed.

    Exits with 1 when nothing was pushed, and says which threshold failed by how much.

    \b
    Example: recsys run two_tower --data movielens-100k --split leave_one_out \\
             --set epochs=20 --set embedding_dim=64
             recsys run neumf --config my_run.yaml
    """
    _execute(config_of(**options))


def _execute(config):
    from pipeline import local

    return _finish(config.output, lambda: local.run(config, click.echo))


def _finish(output: str, run: Callable):
    """Runs a pipeline and writes its report however it ends.

    It says what was pushed or why nothing was.
    """
    import datetime

    from pipeline import lineage, local, report, show

    def write_report(record, error=None):
        click.echo("writing the report ...")
        path = Path(output) / "reports" / f"{record.run_id.replace(':', '-')}.html"
        click.echo(f"report: {report.write_report(record, path, error)}")

    started = datetime.datetime.now().isoformat()
    try:
        record = run()
    except RecsysError as error:
        # TFX names runs by the time of their start; ML Metadata knows which component failed, not
        # why.
        for record in lineage.load_runs(output)[-1:]:
            if record.run_id >= started:
                write_report(record, str(error))
        raise
    write_report(record)
    show.print_evaluation(record)
    local.require_push(record)
    click.echo(f"pushed: {record.pushed_path}")
    return record


@click.command()
@click.option(
    "--recall",
    required=True,
    metavar="MODEL",
    help="A retrieve model with a blessed run: its name, or a pipeline or run of it.",
)
@click.option(
    "--rank",
    metavar="MODEL",
    help="A score model, likewise; left out, the order stays the recall's.",
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="How many recalled items are ranked.",
)
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    help="Of the ranking against the recall; left out, chosen on the validation queries.",
)
@click.option(
    "--max-regression",
    type=click.FloatRange(min=0),
    default=0.005,
    show_default=True,
    help="How much NDCG@10 may be below the recall's alone, and below the last bundle's.",
)
@click.option(
    "--z",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Standard errors over the test queries that count as noise.",
)
@click.option(
    "--slice",
    "slices",
    multiple=True,
    help="A slice of the queries where it may not be worse either, such as activity; repeat.",
)
@click.option(
    "--output",
    type=click.Path(),
    default="runs",
    show_default=True,
    help="Folder of the runs; the bundle goes there as well.",
)
@BEAM
@mended
def bundle(beam: str | None, **options) -> None:
    """Put a recall and a ranker into one servable.

    It is evaluated end to end, gated and pushed as one version.

    Both must have a blessed run on the same split of the same data. Exits with 1 when nothing was
    pushed.

    \b
    Example: recsys run two_tower && recsys run deepfm --split leave_one_out
             recsys bundle --recall two_tower --rank deepfm
    """
    from pipeline import bundle as bundling
    from pipeline import config as run_config

    engine = run_config.load(None, run_config.parse_beam(beam)).beam
    config = bundling.BundleConfig.parse({**options, "beam": engine})
    _finish(config.output, lambda: bundling.run(config, click.echo))


@click.command()
@run_options
@click.option("--user", help="Whose recommendations to show (default: one of the data's).")
@mended
def demo(user: str | None, **options) -> None:
    """The main job, whole: run the pipeline, serve the pushed model and ask it.

    It is asked over REST and gRPC; then the server is stopped.

    \b
    Example: recsys demo
    """
    from pipeline import demo as demonstration

    config = config_of(**options)
    demonstration.show_off(_execute(config), config, user)
