"""`Canary`: a server process loads the blessed model and answers real requests before anything is pushed."""

import math
import os
import posixpath
import tempfile
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components import records, tables
from serving.client import Client, Query, Recommendations
from serving.errors import ServingError, StartError
from serving.process import ServerProcess

REASON = "reason"
_NAME = "canary"
_USERS = 20
_K = 10


class CanaryFailure(Exception):
    """The model does not answer as a server must; the message says which request and what came."""


class CanarySpec(component_spec.ComponentSpec):
    """What `Canary` takes and gives."""

    PARAMETERS = {"code_hash": component_spec.ExecutionParameter(type=str, optional=True)}
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class CanaryExecutor(base_executor.BaseExecutor):
    """Runs `try_model` on a blessed model and records the outcome as the Pusher reads it."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Tries the model; a failure is an outcome, not an error."""
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        gate = artifact_utils.get_single_instance(input_dict["model_blessing"])
        reason = "the gate did not bless the model"
        if gate.get_int_custom_property("blessed") == 1:
            examples = artifact_utils.get_single_instance(input_dict["examples"])
            try:
                answered = try_model(path_utils.serving_model_path(model.uri), sample_queries(examples.uri))
                reason = ""
                blessing.set_int_custom_property("answered", answered)
            except CanaryFailure as failure:
                reason = str(failure)
        # The Pusher reads the property; the file is what TFX's own validator leaves as well.
        name = "INFRA_NOT_BLESSED" if reason else "INFRA_BLESSED"
        blessing.set_string_custom_property("blessing_status", name)
        blessing.set_int_custom_property("blessed", 0 if reason else 1)
        blessing.set_string_custom_property(REASON, reason)
        records.write_text(posixpath.join(blessing.uri, name), reason)
        logging.info("Canary: %s", reason or "the server answered")


class Canary(base_component.BaseComponent):
    """Loads the SavedModel in a server process of its own and asks it over REST and gRPC.

    TFX's InfraValidator does this with Docker or Kubernetes only, and is marked as successful where there is neither.

    Args:
        model: the trained model.
        model_blessing: of the Evaluator; a model that is not blessed is not tried.
        examples: of the ExampleBuilder; the users of the test queries are asked about.
        code_hash: hash of the server's code, so that a change of it is not served from the cache.
    """

    SPEC_CLASS = CanarySpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(CanaryExecutor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        examples: types.BaseChannel,
        code_hash: str = "",
    ):
        super().__init__(
            CanarySpec(
                model=model,
                model_blessing=model_blessing,
                examples=examples,
                code_hash=code_hash,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )


def sample_queries(examples_uri: str, count: int = _USERS) -> list[Query]:
    """Returns real users with a part of their history to exclude, and three whom no model can know.

    Args:
        examples_uri: folder of the built examples.
        count: how many real users.
    """
    columns = records.read_json(posixpath.join(examples_uri, records.REPORT))["columns"]["test"]
    wanted = {name: kind for name, kind in columns.items() if name in ("user_id", "history")}
    queries = []
    for path in records.shards(tables.split_folder(examples_uri, "test")):
        for table in records.read_table(path, wanted):
            for row in table.slice(0, count - len(queries)).to_pylist():
                queries.append(Query(row["user_id"], (), (row.get("history") or [])[:3]))
        if len(queries) >= count:
            break
    history = next((query.exclude for query in queries if query.exclude), [])
    strangers = [Query("no such user \u2603"), Query("", history), Query("no such user", ["no such item"], ["no such item"])]
    return queries + strangers


def try_model(model_path: str, queries: list[Query], k: int = _K) -> int:
    """Starts a server on a SavedModel and asks it over both protocols.

    Returns:
        How many queries were answered, each over both.

    Raises:
        CanaryFailure: the server does not come up, or an answer is an error, empty, not finite, longer than asked for,
            holds an excluded item or is another one over the other protocol.
    """
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        os.symlink(os.path.abspath(model_path), os.path.join(folder, "1"))
        try:
            with ServerProcess(_NAME, folder, options=("--max-num-load-retries", "0")) as ready:
                answers = {protocol: _ask(ready, protocol, queries, k) for protocol in ("rest", "grpc")}
        except StartError as error:
            raise CanaryFailure(str(error)) from error
    for query, rest, grpc in zip(queries, answers["rest"], answers["grpc"]):
        _check(query, rest, k)
        if [item for item, _ in rest.items] != [item for item, _ in grpc.items]:
            raise CanaryFailure(f"user {query.user_id!r}: REST answers {rest.items}, gRPC {grpc.items}")
    return len(queries)


def _ask(ready: dict[str, Any], protocol: str, queries: list[Query], k: int) -> list[Recommendations]:
    try:
        with Client(f"127.0.0.1:{ready[protocol]}", _NAME, protocol, timeout=60) as client:
            return client.recommend_many(queries, k)
    except ServingError as error:
        raise CanaryFailure(f"asked for {len(queries)} users over {protocol}, the server answered {error}") from error


def _check(query: Query, answer: Recommendations, k: int) -> None:
    who = f"user {query.user_id!r}"
    if not 1 <= len(answer.items) <= k:
        raise CanaryFailure(f"{who}: required: 1 to {k} items, received {len(answer.items)}")
    excluded = {item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in query.exclude}
    for item, score in answer.items:
        if not math.isfinite(score):
            raise CanaryFailure(f"{who}: the score of {item!r} is {score}; required: a finite number")
        if item in excluded:
            raise CanaryFailure(f"{who}: {item!r} was excluded and is in the answer")
