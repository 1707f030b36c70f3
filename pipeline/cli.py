"""The command line.

Everything heavy is imported in the command that needs it: `recsys --help` answers at once.
"""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

import atexit
import functools
import gc
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import click

from models.names.errors import RecsysError

# Importing TensorFlow and tracing graphs make millions of objects that live: looking through them
# as often as Python does by default takes a fifth of a run's own work.
gc.set_threshold(100_000, 20, 20)

# Libraries below warn of what their users can do nothing about; TensorFlow's destructors complain
# while Python shuts down.
if not sys.warnoptions:
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
atexit.register(setattr, sys, "unraisablehook", lambda _: None)

_EXAMPLES = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _mended(command: Callable) -> Callable:
    """Ends the command on an error that the user can mend.

    It ends with the error's message and exit code 1, not with a traceback.
    """

    @functools.wraps(command)
    def wrapped(*arguments, **options):
        try:
            return command(*arguments, **options)
        except RecsysError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; the next run goes on from here", err=True)
            sys.exit(130)

    return wrapped


@click.group(context_settings=_EXAMPLES)
@click.version_option(package_name="recsys-tfx")
def main() -> None:
    """Train, gate, push and serve published recommender models.

    \b
    Example: recsys run two_tower --data movielens-100k --set epochs=20
    """


_SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyper-parameter, or a dotted key of the run.",
)


@main.command()
@click.argument("run_file", metavar="[RUN.yaml]", required=False, type=click.Path())
@_SETTINGS
@click.option(
    "--deep", is_flag=True, help="Import TFX and run a Beam pipeline as well; takes a minute."
)
@_mended
def doctor(run_file: str | None, settings: tuple[str, ...], deep: bool) -> None:
    """Check this machine: lane, versions, Keras, GPU, Beam; say what is wrong and the mend.

    With RUN.yaml, or a setting of a run, say instead what that run will want: rows, vocabularies,
    parameters, bytes of memory and of disk. Exits with 1 when it does not fit; `recsys run` refuses
    such a run, unless room.refuse is false.

    \b
    Example: recsys doctor --deep
             recsys doctor my_run.yaml
             recsys doctor --set model=ease --set data.source=/data/shop
    """
    from pipeline import doctor as doctors

    if not run_file and not settings:
        sys.exit(doctors.run_doctor(deep))
    from pipeline import config as run_config

    config = run_config.load(run_file, run_config.parse_settings(settings))
    sys.exit(doctors.run_estimate(config, click.echo))


@main.command("models")
@_mended
def list_models() -> None:
    """List the models: task, example kind, what a request may hold, what carries an answer.

    And the family and the paper.

    \b
    Example: recsys models
    """
    from models.names.registry import EXPLANATIONS, MODELS
    from pipeline.show import print_table

    def told(entry) -> str:
        return ", ".join(("features" if entry.task == "score" else "ids", *entry.reads))

    rows = [
        (
            entry.name,
            entry.title,
            entry.task,
            entry.kind,
            told(entry),
            entry.explains,
            entry.family,
            entry.paper,
        )
        for entry in MODELS.values()
    ]
    headings = ("name", "model", "task", "examples", "a request holds", "explains by")
    print_table("Models", (*headings, "family", "paper"), rows)
    print_table("What models explain answers by", ("explains by", "weights"), EXPLANATIONS.items())


@main.command("datasets")
@click.option("--layouts", is_flag=True, help="List the layouts of data folders instead.")
@_mended
def list_datasets(layouts: bool) -> None:
    """List the public data sets: what they are, where they come from, under what terms.

    With --layouts, what a folder of data may look like, by the name that data.reader takes.

    \b
    Example: recsys datasets
             recsys datasets --layouts
    """
    if layouts:
        from pipeline import manual, show

        show.print_table("Layouts", ("reader", "what it reads"), manual.layouts())
        return
    from components.read.datasets import DATASETS
    from pipeline.show import print_table

    rows = [
        (name, dataset.description, dataset.source, dataset.terms)
        for name, dataset in DATASETS.items()
    ]
    print_table("Data sets", ("name", "what", "source", "terms"), rows)


class _Manual(click.Command):
    """A command whose help ends with the manual."""

    def format_epilog(self, ctx, formatter) -> None:
        from pipeline import manual

        formatter.write("\nKeys of a run file:\n\n" + manual.text())


@main.command("config", cls=_Manual)
@click.argument("model", required=False)
@click.option("--page", is_flag=True, help="Write the whole manual as Markdown.")
@_mended
def config_manual(model: str | None, page: bool) -> None:
    """Print every key of a run file: what it takes, its default, what it means, an example.

    With MODEL, print the hyper-parameters of that model.

    \b
    Example: recsys config --help
             recsys config two_tower
             recsys config --page > MANUAL.md
    """
    from pipeline import manual

    if page:
        click.echo(manual.page(), nl=False)
    else:
        click.echo(manual.text(manual.of_model(model) if model else None))


@main.group()
def data() -> None:
    """Fetch public data sets.

    \b
    Example: recsys data get movielens-100k
    """


@data.command("get")
@click.argument("name")
@_mended
def data_get(name: str) -> None:
    """Fetch data set NAME into the cache: checksummed, kept, taken up again after an interruption.

    \b
    Example: recsys data get movielens-1m
    """
    from components.read import datasets

    click.echo(datasets.get(name, progress=click.echo))


_BEAM = click.option(
    "--beam",
    help="The engine of Beam's part of the work: a runner, such as processes or flink, or a "
    "mapping as `beam` of a run file is.",
)


def _run_options(command: Callable) -> Callable:
    options = [
        click.argument("model", required=False),
        click.option(
            "--config", type=click.Path(), help="A run as a YAML file; flags override it."
        ),
        click.option("--data", "source", help="A public data set by name, or a folder; s3:// too."),
        click.option("--reader", help="Layout of the folder; told by its files when left out."),
        click.option(
            "--split",
            help="How the log is split, such as leave_one_out, temporal or ratio; a name that is "
            "none is answered with those there are.",
        ),
        _SETTINGS,
        _BEAM,
        click.option("--seed", type=int, help="Of initial weights, batches and negatives."),
        click.option(
            "--output",
            type=click.Path(),
            help="Folder of runs, metadata and pushed models (default runs).",
        ),
        click.option(
            "--warm-start/--cold-start", default=None, help="Start from the last blessed model."
        ),
        click.option(
            "--refit/--no-refit",
            default=None,
            help="Train the blessed model again on everything, test too, and push that.",
        ),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def _config(model, config, source, reader, split, settings, beam, seed, output, warm_start, refit):
    from pipeline import config as run_config

    flags = {
        "model": model,
        "data.source": source,
        "data.reader": reader,
        "split.name": split,
        "seed": seed,
        "output": output,
    }
    flags |= {"warm_start": warm_start, "refit": refit}
    return run_config.load(
        config,
        {
            **run_config.parse_beam(beam),
            **run_config.parse_settings(settings),
            **{k: v for k, v in flags.items() if v is not None},
        },
    )


@main.command()
@_run_options
@_mended
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
    _execute(_config(**options))


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


@main.command()
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
@_BEAM
@_mended
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


@main.command()
@_run_options
@click.option("--user", help="Whose recommendations to show (default: one of the data's).")
@_mended
def demo(user: str | None, **options) -> None:
    """The main job, whole: run the pipeline, serve the pushed model and ask it.

    It is asked over REST and gRPC; then the server is stopped.

    \b
    Example: recsys demo
    """
    from pipeline import demo as demonstration

    config = _config(**options)
    demonstration.show_off(_execute(config), config, user)


@main.command()
@click.option(
    "--model-dir",
    type=click.Path(),
    help="Folder of versions (default: of the last run that pushed).",
)
@click.option(
    "--output",
    type=click.Path(),
    default="runs",
    show_default=True,
    help="Where to look for that run.",
)
@click.option(
    "--name", default="recsys", show_default=True, help="Name under which the model is served."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--rest-port", default=8501, show_default=True, help="REST port.")
@click.option("--grpc-port", default=8500, show_default=True, help="gRPC port.")
@click.option(
    "--log-requests",
    metavar="PREFIX",
    help="Log sampled requests to PREFIX-*.tfrecord, for recsys drift.",
)
@click.option(
    "--log-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of requests to log.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the ports, each with the model: one a core for many clients.",
)
@click.option(
    "--state",
    metavar="FILE|URL",
    help="Keep what users do in a file or a Redis (redis://), and answer by it: POST /v1/events.",
)
@_mended
def serve(
    model_dir, output, name, host, rest_port, grpc_port, log_requests, log_share, processes, state
) -> None:
    """Serve a pushed model over TensorFlow Serving's REST and gRPC.

    New versions are picked up while it runs. With --state, so is what users do: see recsys ingest.

    \b
    Example: recsys serve --model-dir runs/serving/two_tower-movielens-100k-leave_one_out
             recsys serve --state runs/state.db
    """
    from pipeline import demo as demonstration

    folder = model_dir or demonstration.last_pushed(output)
    demonstration.serve(
        folder, name, host, rest_port, grpc_port, log_requests, log_share, processes, state
    )


@main.command()
@click.argument("source", metavar="FOLDER|FILE|-")
@click.option(
    "--address",
    default="127.0.0.1:8501",
    show_default=True,
    help="HOST:PORT of a server that keeps a state.",
)
@click.option("--grpc", "use_grpc", is_flag=True, help="The address is of its gRPC port.")
@click.option(
    "--state",
    metavar="FILE|URL",
    help="Write to this state instead, as recsys serve --state names it; no server need run.",
)
@click.option(
    "--events-per-user",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="With --state: how many events of a user it keeps, the newest.",
)
@click.option(
    "--ttl-days",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    help="With --state: how old an event may be, by its timestamp; 0: any age.",
)
@click.option("--reader", help="The folder's layout (see recsys datasets --layouts).")
@_mended
def ingest(source, address, use_grpc, state, events_per_user, ttl_days, reader) -> None:
    """Write events and changes of the catalogue to a server's live state; answers change at once.

    FOLDER is data as a run reads it: its events, and its items with their columns as features.
    FILE, or - for standard input, is of JSON lines: {"user_id": "42", "item_id": "50",
    "event_type": "buy", "dwell": 3.5, "timestamp": 1767225600} (the first two are required),
    {"item_id": "51", "features": {"genres": ["Drama"]}} of an item that enters, {"item_id": "52",
    "left": true} of one that leaves. Lines that are wrong are named and left out, and the exit
    status is then 1. What was written already may be written again: it counts once.

    \b
    Example: recsys ingest yesterday.jsonl
             tail -f events.jsonl | recsys ingest -
             recsys ingest data/shop --state runs/state.db --ttl-days 0
    """
    from pipeline import ingest as ingesting

    ingesting.run(source, reader, address, use_grpc, state, events_per_user, ttl_days)


def _asking_options(command: Callable) -> Callable:
    """The options of commands that ask a running server."""
    options = [
        click.option("--grpc", "use_grpc", is_flag=True, help="Ask over gRPC."),
        click.option(
            "--address", help="HOST:PORT (default 127.0.0.1 and TensorFlow Serving's port)."
        ),
        click.option(
            "--name",
            default="recsys",
            show_default=True,
            help="Name under which the model is served.",
        ),
        click.option(
            "--output",
            type=click.Path(),
            default="runs",
            show_default=True,
            help="Where to look for item titles.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.option("--user", required=True, help="User id.")
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many."
)
@click.option("--history", multiple=True, help="An item the user had, oldest first; repeat.")
@click.option("--exclude", multiple=True, help="An item not to recommend; repeat.")
@click.option("--explain", is_flag=True, help="Say what carried each recommendation.")
@_asking_options
@_mended
def recommend(user, count, history, exclude, explain, use_grpc, address, name, output) -> None:
    """Ask a running server for a user's recommendations.

    \b
    Example: recsys recommend --user 42 -k 10 --exclude 50 --exclude 181 --explain
    """
    from pipeline import demo as demonstration

    demonstration.recommend(user, count, history, exclude, explain, use_grpc, address, name, output)


@main.command()
@click.option("--item", required=True, help="Item id.")
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many."
)
@click.option("--where", multiple=True, help='A condition, "genres in Drama | War"; repeat.')
@click.option("--allow", multiple=True, help="An item that may be answered; repeat.")
@_asking_options
@_mended
def similar(item, count, where, allow, use_grpc, address, name, output) -> None:
    """Ask a running server for items like an item.

    \b
    Example: recsys similar --item 50 -k 10 --where "not genres = War"
    """
    from pipeline import demo as demonstration

    demonstration.similar(item, count, where, allow, use_grpc, address, name, output)


@main.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(),
    required=True,
    help="A new folder for the Parquet files; s3:// too.",
)
@click.option(
    "--users",
    type=click.Path(),
    help="Parquet, or text with a header, with user_id (and lists history, exclude); or text with "
    "an id a line; read as the events are; "
    "left out, every user of the run's data.",
)
@click.option(
    "-k",
    "count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Items a user at most.",
)
@click.option(
    "--run",
    "run_id",
    default="latest",
    show_default=True,
    help="The run whose pushed model answers, as of `recsys show`.",
)
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@click.option("--config", type=click.Path(), help="A run file, whose `beam` is used.")
@_BEAM
@_mended
def batch(
    folder: str,
    users: str | None,
    count: int,
    run_id: str,
    output: str,
    config: str | None,
    beam: str | None,
) -> None:
    """Recommendations for many users, with the pushed SavedModel itself.

    They are written as Parquet of user_id, rank, item_id, score.

    \b
    Example: recsys batch --to recommendations -k 20
    """
    from pipeline import batch as batches
    from pipeline import config as run_config

    engine = run_config.load(config, run_config.parse_beam(beam)).beam
    batches.run(folder, users, count, run_id, output, click.echo, engine)


@main.group()
def export() -> None:
    """Take parts of a pushed model out of it.

    \b
    Example: recsys export vectors --to vectors
    """


@export.command("vectors")
@click.option(
    "--to",
    "folder",
    type=click.Path(),
    required=True,
    help="A new folder for the files; s3:// too.",
)
@click.option(
    "--run",
    "run_id",
    default="latest",
    show_default=True,
    help="The run whose pushed model is taken apart, as of `recsys show`.",
)
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@_mended
def export_vectors(folder: str, run_id: str, output: str) -> None:
    """Vectors of users and items, as Parquet and .npy with ids, and the two towers apart.

    They are for a vector database or a feature store: a score is the dot product of the two. What
    computes a user's vector, and an item's, are SavedModels of their own.

    \b
    Example: recsys export vectors --run latest --to vectors
    """
    from pipeline import vectors

    vectors.run(folder, run_id, output, click.echo)


@main.command()
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@_mended
def runs(output: str) -> None:
    """List the runs in an output folder.

    \b
    Example: recsys runs
    """
    from pipeline import lineage, show

    show.print_runs(lineage.load_runs(output))


@main.command("show")
@click.argument("run_id", metavar="RUN", default="latest")
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@_mended
def show_run(run_id: str, output: str) -> None:
    """Show RUN (`latest`, or the beginning of its id).

    Shown are data, code, hyper-parameters, metrics, blessed or why not.

    \b
    Example: recsys show latest
    """
    from pipeline import lineage, show

    show.print_run(lineage.load_run(output, run_id))


@main.command()
@click.argument("run_id", metavar="RUN", default="latest")
@click.option("--where", multiple=True, help='A condition, "genres in Drama | War"; repeat.')
@click.option("--boost", multiple=True, help='A change of scores, "year > 1990 => * 1.2"; repeat.')
@click.option("--allow", multiple=True, help="An item that may be answered; repeat.")
@click.option("--pin", multiple=True, help='An item for the next place, "" for none; repeat.')
@click.option("--exclude-recent", type=int, help="Leave out so many of the newest a user had.")
@click.option("--diversity", help='"genres <= 2", or "mmr 0.7".')
@click.option("--min-score", type=float, help="The least score.")
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@_mended
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


@main.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
@_mended
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


@main.command()
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
@click.option(
    "--output", type=click.Path(), default="runs", show_default=True, help="Folder of runs."
)
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
@_mended
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


@main.command("compile")
@click.argument("config", type=click.Path())
@click.option(
    "--to",
    "target",
    type=click.Path(),
    default="pipeline.yaml",
    show_default=True,
    help="File to write; .json leaves out what only Kubernetes reads, for Vertex AI.",
)
@click.option("--image", help="Container image that holds this project; else cluster.image.")
@_mended
def compile_run(config: str, target: str, image: str | None) -> None:
    """Compile the run in CONFIG, a YAML file, for Kubeflow Pipelines v2.

    \b
    Example: recsys compile my_run.yaml --to pipeline.yaml --image registry.example/recsys:1
    """
    from pipeline import config as run_config
    from pipeline import kubeflow

    click.echo(kubeflow.compile_pipeline(run_config.load(config), target, image))


@main.command()
@click.argument("file", type=click.Path())
@click.option(
    "--endpoint",
    metavar="URL",
    help="Where Kubeflow Pipelines answers, such as http://localhost:8888 "
    "(default: KF_PIPELINES_ENDPOINT).",
)
@click.option(
    "--data", help="Folder of the data: s3:// or gs://, or on a volume that the steps mount."
)
@click.option("--seed", type=int, help="Of initial weights, batches and negatives.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A hyper-parameter.")
@click.option("--warm-start/--cold-start", default=None, help="Start from the last blessed model.")
@click.option("--experiment", help="Group of runs; made where it is missing.")
@click.option("--namespace", help="Of the user, in an installation for several.")
@_mended
def submit(file, endpoint, settings, experiment, namespace, **parameters) -> None:
    """Run the compiled FILE on a cluster, with other settings than the compiled ones if wanted.

    The token of an installation that asks for one is read from the file that
    KF_PIPELINES_SA_TOKEN_PATH names.

    \b
    Example: recsys submit pipeline.yaml --endpoint http://localhost:8888 --seed 3 --set epochs=30
    """
    from pipeline import config as run_config
    from pipeline import submit as submission

    given = {name: value for name, value in parameters.items() if value is not None}
    for key, value in run_config.parse_settings(settings).items():
        group, _, name = key.rpartition(".")
        if group == "hyper_parameters":
            given.setdefault(group, {})[name] = value
        else:
            given[key] = value
    click.echo(submission.submit(file, endpoint, given, experiment=experiment, namespace=namespace))


if __name__ == "__main__":
    main()
