"""The names of TFX's v1 that the pipelines use, by the places they come from.

`tfx.v1` itself imports the clients of Google's AI Platform: seconds of every start, for nothing
that is used here.
"""

from tfx.components import ExampleValidator, Trainer
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.proto.trainer_pb2 import EvalArgs, TrainArgs
from tfx.types import standard_artifacts

__all__ = [
    "EvalArgs",
    "ExampleValidator",
    "Importer",
    "LocalDagRunner",
    "Pipeline",
    "TrainArgs",
    "Trainer",
    "sqlite_metadata_connection_config",
    "standard_artifacts",
]
