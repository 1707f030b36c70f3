"""What looks back at runs and at requests: runs, show, evaluate, compare, drift."""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

import click

from pipeline.commands.options import OUTPUT, mended


@click.command()
@OUTPUT
@mended
def runs(output: str) -> None:
    """List the runs in an output folder.

    \b
    Example: recsys runs
    """
    from pipeline import lineage, show

    show.print_runs(lineage.load_runs(output))


@click.command("show")
@click.argument("run_id", metavar="RUN", default="latest")
@OUTPUT
@mended
def show_run(run_id: str, output: str) -> None:
    """Show RUN (`latest`, or the beginning of its id).

    Shown are data, code, hyper-parameters, metrics, blessed or why not.

    \b
    Example: recsys show latest
    """
    from pipeline import lineage, show

    show.print_run(lineage.load_run(output, run_id))


@click.command()
@click.argument("run_id", metavar="RUN", default="latest")
@click.option("--where", multiple=True, help='A condition, "genres in Drama | War"; repeat.')
@click.option("--boost", multiple=True, help='A change of scores, "year > 1990 => * 1.2"; repeat.')
@click.option("--allow", multiple=True, help="An item that may be answered; repeat.")
@click.option("--pin", multiple=True, help='An item for the next place, "" for none; repeat.')
@click.option("--exclude-recent", type=int, help="Leave out so many of the newest a user had.")
@click.option("--diversity", help='"genres <= 2", or "mmr 0.7".')
@click.option("--min-score", type=float, help="The least score.")
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True)
@OUTPUT
@mended
def evaluate(run_id: str, count: int, output: str, **rules) -> None:
    """What rules of a request cost on the test queries of RUN, by its measured model.

    RUN is `latest`, or the beginning of an id or of a pipeline's name. The rules are those that the
    server takes (serving/README.md); the intervals are those of `recsys compare`.

    \b
    Example: recsys evaluate --where "genres in Drama | War" --diversity "genres <= 3"
    """
    from pipeline import compare as comparing
    from pipeline import evaluate as evaluating
    from pipeline import lineage, show

    record = lineage.load_run(output, run_id)
    found = evaluating.cost_of(record, rules, count, click.echo)
    show.print_table(
        f"{record.run_id[:19]} {record.pipeline}: with the rules less without",
        ("metric", "without", "with", "difference", "95 % interval", "verdict"),
        comparing.rows(found),
    )


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@OUTPUT
@mended
def compare(first: str, second: str, output: str) -> None:
    """Compare two runs on their test users: the second RUN less the first, with intervals.

    A RUN is `latest`, or the beginning of an id or of a pipeline's name. The intervals hold 95 % of
    2,000 draws of users with replacement, each user with her queries in both runs; what they leave
    out 0 of is more than chance. Of many metrics or runs, one in twenty does by chance.

    \b
    Example: recsys compare 2026-11-27T10 latest
             recsys compare neumf two_tower
    """
    from pipeline import compare as comparing
    from pipeline import lineage, show

    runs = [lineage.load_run(output, name) for name in (first, second)]
    found = comparing.differences(*runs)
    names = [f"{record.run_id[:19]} {record.pipeline}" for record in runs]
    show.print_table(
        f"{names[1]} less {names[0]}",
        ("metric", "first", "second", "difference", "95 % interval", "verdict"),
        comparing.rows(found),
    )
    if caveat := comparing.caveat(*runs):
        click.echo(caveat)


@click.command()
@click.option(
    "--logs",
    required=True,
    help="Request logs: a folder, a file, or what the files' names begin with.",
)
@click.option(
    "--run",
    "run_id",
    default="latest",
    show_default=True,
    help="The run to compare with: the newest that pushed, or an id.",
)
@OUTPUT
@click.option("--baseline-logs", help="Request logs of an earlier period, to find drift.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
    help="UTC; judge requests from then on. "
    "Earlier ones are the baseline, unless --baseline-logs is given.",
)
@click.option(
    "--model", help="Name under which the model is served, where the logs are of several."
)
@click.option("--schema", help="Curated schemas, by name or folder (default: those of the run).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A bound, such as max_unknown_user_share=0.3.",
)
@click.option(
    "--report",
    type=click.Path(),
    help="Folder to write to (default: a new one under OUTPUT/drift).",
)
@mended
def drift(settings, **options) -> None:
    """Compare request logs with what the served model was trained on, and with an earlier period.

    Exits with 1 when a bound is broken, and says which and by how much.

    \b
    Example: recsys drift --logs runs/logs/recsys --run latest
             recsys drift --logs runs/logs --since 2026-11-01 --set max_fallback_share=0.05
    """
    from pipeline import config as run_config
    from pipeline import drift as job

    limits = {
        name.removeprefix("hyper_parameters."): value
        for name, value in run_config.parse_settings(settings).items()
    }
    job.require_met(job.run(**options, limits=limits, say=click.echo))
