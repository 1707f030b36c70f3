"""`Evaluator`: TFX's own, which takes rows by batches, and a baseline without a model for none."""

from typing import Any

from tfx import types
from tfx.components import Evaluator as TfxEvaluator
from tfx.components.evaluator import executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

from components import servers
from components.gate import batches, ledger

_BASELINE = "baseline_model"


class EvaluatorExecutor(executor.Executor):
    """Leaves the baseline out where `LastBlessed` has found none: every output is one artifact.

    The extractors are those of `components.gate.batches`.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates the model, while a server loads it for the Canary where that comes next."""
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        servers.begin(path_utils.serving_model_path(model.uri))
        given = dict(input_dict)
        if given.get(_BASELINE):
            baseline = artifact_utils.get_single_instance(given[_BASELINE])
            if not ledger.holds_model(path_utils.serving_model_dir(baseline.uri)):
                del given[_BASELINE]
        module = {standard_component_specs.MODULE_PATH_KEY: batches.__name__}
        super().Do(given, output_dict, {**exec_properties, **module})


class Evaluator(TfxEvaluator):
    """Measures a model, and the last blessed one where there is one; see TFX's Evaluator."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
