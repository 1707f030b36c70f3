"""TFX's Pusher for object stores that TensorFlow's own file systems do not reach."""

import time
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from components.tables.places import is_remote, place, upload

LAST = "saved_model.pb"


def executor_of(serving_dir: str) -> executor_spec.ExecutorClassSpec | None:
    """What pushes to a folder or a URI; None for TFX's own, which takes folders."""
    return executor_spec.ExecutorClassSpec(RemotePusher) if is_remote(serving_dir) else None


class RemotePusher(executor.Executor):
    """Copies a blessed model to a version under s3://, gs:// or hdfs://.

    TensorFlow Serving sees a version from its first object on, and loads it once `saved_model.pb`
    is there; until then it fails to, and tries again. So that file is the last to be written.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model where it is blessed.

        Raises:
            DataError: the store cannot be written; nothing of the version is left there.
        """
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            pushed.set_int_custom_property("pushed", 0)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        model = Path(self.GetModelPath(input_dict))
        versions = place(destination.filesystem.base_directory)
        version = int(time.time())
        while (versions / str(version)).exists():
            version += 1
        upload(model, versions / str(version), LAST)
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", str(versions / str(version)))
        pushed.set_string_custom_property("pushed_version", str(version))
