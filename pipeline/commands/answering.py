"""What uses a pushed model: serve, ingest, recommend, similar, batch, export."""

# ruff: noqa: D301 (`\b` is click's mark before lines that it must not wrap.)

from collections.abc import Callable

import click

from pipeline.commands.options import BEAM, OUTPUT, mended

_PORT = click.IntRange(-1, 65535)  # 0: a free one; -1: none


@click.command()
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
@click.option("--rest-port", type=_PORT, default=8501, show_default=True, help="REST port.")
@click.option("--grpc-port", type=_PORT, default=8500, show_default=True, help="gRPC port.")
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
@mended
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


@click.command()
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
@mended
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


_COUNT = click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many."
)


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


@click.command()
@click.option("--user", required=True, help="User id.")
@_COUNT
@click.option("--history", multiple=True, help="An item the user had, oldest first; repeat.")
@click.option("--exclude", multiple=True, help="An item not to recommend; repeat.")
@click.option("--explain", is_flag=True, help="Say what carried each recommendation.")
@_asking_options
@mended
def recommend(user, count, history, exclude, explain, use_grpc, address, name, output) -> None:
    """Ask a running server for a user's recommendations.

    \b
    Example: recsys recommend --user 42 -k 10 --exclude 50 --exclude 181 --explain
    """
    from pipeline import demo as demonstration

    demonstration.recommend(user, count, history, exclude, explain, use_grpc, address, name, output)


@click.command()
@click.option("--item", required=True, help="Item id.")
@_COUNT
@click.option("--where", multiple=True, help='A condition, "genres in Drama | War"; repeat.')
@click.option("--allow", multiple=True, help="An item that may be answered; repeat.")
@_asking_options
@mended
def similar(item, count, where, allow, use_grpc, address, name, output) -> None:
    """Ask a running server for items like an item.

    \b
    Example: recsys similar --item 50 -k 10 --where "not genres = War"
    """
    from pipeline import demo as demonstration

    demonstration.similar(item, count, where, allow, use_grpc, address, name, output)


@click.command()
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
@OUTPUT
@click.option("--config", type=click.Path(), help="A run file, whose `beam` is used.")
@BEAM
@mended
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


@click.group()
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
@OUTPUT
@mended
def export_vectors(folder: str, run_id: str, output: str) -> None:
    """Vectors of users and items, as Parquet and .npy with ids, and the two towers apart.

    They are for a vector database or a feature store: a score is the dot product of the two. What
    computes a user's vector, and an item's, are SavedModels of their own.

    \b
    Example: recsys export vectors --run latest --to vectors
    """
    from pipeline import vectors

    vectors.run(folder, run_id, output, click.echo)
