"""Serving from the command line.

The embedded server, one question, and the demonstration that ends `make run`.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.text import Text

from components.tables.places import fetched, is_remote
from models.names.errors import ConfigError, RecsysError
from pipeline import because, examples, lineage, scored, show
from pipeline.config import RunConfig
from pipeline.lineage import RunRecord
from serving.client.client import Client, Recommendations
from serving.server.process import ServerProcess
from serving.wire.errors import Code, ServingError, StartError

T = TypeVar("T")

REST_PORT, GRPC_PORT = 8501, 8500
_NAME = "recsys"
_SHOWN = 10
# What to do about an error of a server.
_ADVICE = {
    Code.UNAVAILABLE: "; is it running? start one: recsys serve",
    Code.DEADLINE_EXCEEDED: "; is it running? start one: recsys serve",
    Code.NOT_FOUND: "; --name says what the model is served as: 'recsys serve' says recsys",
}


def last_pushed(output: str) -> str:
    """The folder of versions that the newest run with a pushed model pushed to.

    Raises:
        RecsysError: no run under `output` has pushed anything.
    """
    record = lineage.last_pushed(output)
    if is_remote(record.pushed_path):
        raise RecsysError(
            f"the last model was pushed to {record.pushed_path}: TensorFlow Serving serves it from "
            "there; here a folder of versions is served, by --model-dir"
        )
    return str(Path(record.pushed_path).parent)


def serve(
    model_dir: str,
    name: str,
    host: str,
    rest_port: int,
    grpc_port: int,
    log_prefix: str | None = None,
    log_share: float = 0.1,
    processes: int = 1,
    state: str | None = None,
) -> None:
    """Serves a folder of versions until Ctrl-C or SIGTERM.

    It ends the process with the server's status.

    Raises:
        ConfigError: there is no such folder, or a port cannot be had.
    """
    if not Path(model_dir).is_dir():
        raise ConfigError(
            f"--model-dir: required: a folder of versions; received {model_dir}, which is none"
        )
    click.echo(
        f"loading {model_dir}: REST http://{host}:{rest_port}/v1/models/{name}, gRPC "
        f"{host}:{grpc_port}; Ctrl-C stops",
        err=True,
    )
    from serving.server.processes import listen_on
    from serving.server.server import main

    for flag, port in (("--rest-port", rest_port), ("--grpc-port", grpc_port)):
        if port > 0:
            try:
                listen_on(host, port).close()
            except StartError as error:
                raise ConfigError(f"{flag}, --host: {error}") from None
    options = {
        "model-name": name,
        "model-base-path": model_dir,
        "host": host,
        "rest-api-port": rest_port,
        "port": grpc_port,
        "processes": processes,
    }
    if state:
        options["state"] = state
    if log_prefix:
        options |= {"request-log-prefix": log_prefix, "request-log-sampling-rate": log_share}
    sys.exit(main([f"--{option}={value}" for option, value in options.items()]))


def recommend(
    user: str,
    count: int,
    history: Sequence[str],
    exclude: Sequence[str],
    explain: bool,
    use_grpc: bool,
    address: str | None,
    name: str,
    output: str,
) -> None:
    """Asks a running server and prints the answer, with what carried it where that is asked.

    Titles are shown where a run under `output` knows them.

    Raises:
        RecsysError: nobody answers, the server refuses, or the model is one that ranks only.
    """
    _ask(
        f"user {user}",
        count,
        lambda client: client.recommend(user, history, exclude, count, explain=explain),
        use_grpc,
        address,
        name,
        output,
    )


def similar(
    item: str,
    count: int,
    where: Sequence[str],
    allow: Sequence[str],
    use_grpc: bool,
    address: str | None,
    name: str,
    output: str,
) -> None:
    """Asks a running server for items like one and prints the answer, as `recommend` does.

    Raises:
        RecsysError: nobody answers, the server refuses, or the model is one that ranks only.
    """
    _ask(
        f"items like {item}",
        count,
        lambda client: client.similar(item, count, allow, where),
        use_grpc,
        address,
        name,
        output,
    )


def _ask(
    title: str,
    count: int,
    question: Callable[[Client], Recommendations],
    use_grpc: bool,
    address: str | None,
    name: str,
    output: str,
) -> None:
    """Puts a question to a running server and prints the answer with the titles of its items."""
    protocol = "grpc" if use_grpc else "rest"
    address = address or f"127.0.0.1:{GRPC_PORT if use_grpc else REST_PORT}"
    try:
        with Client(address, name, protocol, timeout=10, retries=1) as client:
            _require_recommendations(client, name)
            answer = question(client)
    except ServingError as error:
        advice = _ADVICE.get(error.code, "")
        raise RecsysError(f"asking {address} over {protocol}: {error}{advice}") from None
    record = next(
        (
            record
            for record in reversed(lineage.load_runs(output))
            if "TableReader" in record.data_run.steps
        ),
        None,
    )
    known = _titles(record, answer) if record else {}
    print_answer(f"{title}, over {protocol}", answer, known, count)


def _require_recommendations(client: Client, name: str) -> None:
    """Refuses a model that does not recommend, by what it answers instead.

    Raises:
        RecsysError: the model has no signature `recommend`.
        ServingError: nobody answers, or no model is served under the name.
    """
    signatures = set(client.metadata()["metadata"]["signature_def"]["signature_def"])
    if "recommend" in signatures:
        return
    answers = sorted(signatures - {"serving_default", "evaluate", "__saved_model_init_op"})
    raise RecsysError(
        f"{name} does not recommend: it answers {', '.join(answers)}, so it says how good given "
        "items are; 'python -m serving.client.usage HOST:PORT NAME' prints a request of each, and "
        "a bundle (recsys bundle) joins such a model with one that recommends"
    )


def show_off(record: RunRecord, config: RunConfig, user: str | None) -> None:
    """Serves the pushed model, asks it over REST and gRPC for one user, and stops the server.

    Args:
        record: a run that pushed.
        config: what was run.
        user: whose recommendations, or scores; None for the first user of the test queries, or the
            first test rows.

    Raises:
        RecsysError: the server does not start, or the two protocols disagree.
    """
    uri = record.steps["ExampleBuilder"].outputs["examples"]
    if record.data_run.building.get("task") == "score":
        _show_scores(record, uri, user)
    else:
        _show_recommendations(record, uri, user, config)
    click.echo(
        f"      recsys show latest --output {config.output}   recsys models   recsys run --help"
    )


def _show_scores(record: RunRecord, uri: str, user: str | None) -> None:
    """What a model that scores says of test rows, of one user or of any, and why."""
    rows: Iterable[dict[str, list]] = examples.read_rows(Path(uri) / "Split-test")
    if user is not None:
        rows = (row for row in rows if [examples.text(one) for one in row["user_id"]] == [user])
    shown = list(itertools.islice(rows, _SHOWN))
    if not shown:
        raise RecsysError(f"user {user} has no test row to score")

    def question(client: Client) -> tuple[list[dict[str, str]], str]:
        signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
        return scored.ask(
            shown,
            signatures[scored.SIGNATURE]["inputs"],
            lambda inputs: client.predict(inputs, scored.SIGNATURE),
            _items(record),
        )

    answers = _ask_both(record, question)
    answer, meaning = answers["rest"]
    pairs = zip(answer, answers["grpc"][0], strict=True)
    if any(abs(float(rest["score"]) - float(grpc["score"])) > 1e-3 for rest, grpc in pairs):
        raise RecsysError(f"REST and gRPC disagree: {answers}")
    show.print_table(
        "What the server says of test rows, the same over REST and gRPC",
        scored.HEADINGS,
        [list(row.values()) for row in answer],
    )
    show.console().print(Text(f"weights, in log-odds of clicks or in ratings: {meaning}"))


def _ask_both(record: RunRecord, question: Callable[[Client], T]) -> dict[str, T]:
    """Serves the pushed model and puts a question to it over both protocols.

    Raises:
        RecsysError: the server does not start or refuses.
    """
    click.echo(f"\nserving {record.pushed_path} ...")
    try:
        with (
            fetched(record.pushed_path, Path(record.output)) as model,
            ServerProcess(_NAME, str(Path(model).parent)) as ready,
        ):
            answers = {}
            for protocol in ("rest", "grpc"):
                with Client(f"127.0.0.1:{ready[protocol]}", _NAME, protocol, timeout=30) as client:
                    answers[protocol] = question(client)
    except (StartError, ServingError) as error:
        raise RecsysError(f"the pushed model does not answer: {error}") from None
    return answers


def _show_recommendations(record: RunRecord, uri: str, user: str | None, config: RunConfig) -> None:
    """What a model recommends to a user, beside what the user had, and why."""
    history = _history(uri, user)
    if user is None:
        user = examples.text(next(examples.read_rows(Path(uri) / "Split-test"))["user_id"][0])
        history = _history(uri, user)
    asked = user
    answers = _ask_both(record, lambda client: client.recommend(asked, k=_SHOWN, explain=True))
    if [item for item, _ in answers["rest"].items] != [item for item, _ in answers["grpc"].items]:
        raise RecsysError(f"REST and gRPC disagree for user {user}: {answers}")
    last = history[-_SHOWN:]
    known = examples.titles(_items(record), {*last, *_named(answers["rest"])})
    newest = last[::-1]
    columns = {"item": newest or ["none"], "title": [known.get(item, "") for item in newest]}
    _print_columns(
        f"What user {user} had last, newest first ({len(history)} items in all)", columns
    )
    print_answer(
        f"What the server recommends to user {user}, the same over REST and gRPC",
        answers["rest"],
        known,
        _SHOWN,
    )
    click.echo(
        f"next: recsys serve --output {config.output}   then, in another terminal:   recsys "
        f"recommend --user {user} -k {_SHOWN} --explain"
    )


def print_answer(title: str, answer: Recommendations, known: dict[str, str], asked: int) -> None:
    """Prints one user's recommendations, best first, where they come from, and why.

    Args:
        title: what was asked.
        answer: of the server.
        known: item -> its title.
        asked: how many items were asked for; why there are fewer is said.
    """
    items = [item for item, _ in answer.items]
    if not items:
        show.console().print(Text(f"{title}: no items: {_why_fewer(answer)}"))
        return
    columns = {
        "rank": list(range(1, len(items) + 1)),
        "item": items,
        "title": [known.get(item, "") for item in items],
        "score": [f"{score:.4f}" for _, score in answer.items],
        # What recalled each item stands beside what carried it: of a bundle both are told.
        "recalled by": answer.sources,
        "why": [because.line(reasons, known) for reasons in answer.reasons],
    }
    _print_columns(title, columns)
    show.console().print(Text(f"strategy: {answer.strategy}"))
    if len(items) < asked:
        line = f"{len(items)} items in place of {asked}: {_why_fewer(answer)}"
        show.console().print(Text(line))
    if answer.reasons:
        show.console().print(
            Text(f"weights: {because.meaning(each.basis for each in answer.reasons)}")
        )


def _why_fewer(answer: Recommendations) -> str:
    """In words, why there are not as many items as were asked for."""
    if answer.fewer:
        return answer.fewer
    if answer.strategy == "unknown":
        return "the model does not know the item, or nothing like it"
    return "the request excludes, or the user has had, all others that the model can answer with"


def _print_columns(title: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Prints a table of the items, and of the other columns that have something to say."""
    told = {name: column for name, column in columns.items() if name == "item" or any(column)}
    show.print_table(title, tuple(told), list(zip(*told.values(), strict=True)))


def _history(examples_uri: str, user: str | None) -> list[str]:
    """Every item of the user in the whole log, oldest first, as the server knows it.

    It is empty for an unknown user.
    """
    for row in examples.read_rows(Path(examples_uri) / "Split-users") if user is not None else ():
        if examples.text(row["user_id"][0]) == user:
            return [examples.text(item) for item in row.get("history", [])]
    return []


def _items(record: RunRecord) -> str | None:
    return record.data_run.steps["TableReader"].outputs.get("items")


def _titles(record: RunRecord, answer: Recommendations) -> dict[str, str]:
    return examples.titles(_items(record), _named(answer))


def _named(answer: Recommendations) -> set[str]:
    """The items of an answer, and those that carried them."""
    reasons = {item for each in answer.reasons for item, _ in each.parts}
    return {item for item, _ in answer.items} | reasons
