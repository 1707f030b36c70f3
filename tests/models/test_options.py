"""The three options of a training by their effect, not by whether a run with them ends."""

import json

import numpy as np
import pytest
import tensorflow as tf

from models.inputs.sampling import Batches
from models.training import trainer, warm_up
from tests.models.test_neumf import TOY
from tests.models.test_training import arguments

OPTIONS = {**TOY, "epochs": 2, "batch_size": 64, "pretrain": False}


@pytest.fixture(scope="module")
def trained(toy_data, tmp_path_factory):
    """A function: an option or none -> NeuMF trained with it by `run_fn`, as the Trainer does."""
    toy, models, whole = toy_data("event", 0.0), {}, Batches.in_few_shapes

    def train(option):
        with pytest.MonkeyPatch.context() as patch:
            # The last that `run_fn` does with the model; nothing is exported for this.
            patch.setattr(
                trainer.warm_start, "save_weights", lambda model, _: models.update({option: model})
            )
            patch.setattr("models.contract.retriever.Retriever.export", lambda *_: None)
            patch.setattr(warm_up, "save_requests", lambda _: 0)
            filled = []
            patch.setattr(Batches, "in_few_shapes", lambda own: filled.append(own) or whole(own))
            folder = tmp_path_factory.mktemp(str(option))
            settings = {**OPTIONS, "learning_rate": 0.05, **({option: True} if option else {})}
            try:
                trainer.run_fn(arguments(toy, folder, hyper_parameters=settings))
            finally:
                tf.keras.mixed_precision.set_global_policy("float32")
        assert len(filled) == (option == "jit_compile")
        log = json.loads((folder / "run" / "training.json").read_text())
        assert log["epochs"][-1]["loss"] < log["epochs"][0]["loss"]
        return models[option]

    return lambda option: models.get(option) or train(option)


def test_mixed_precision_computes_in_half_and_keeps_variables_whole(trained):
    def dtypes(model):
        layers = [part for part in model.submodules if isinstance(part, tf.keras.layers.Dense)]
        assert layers
        return {layer.compute_dtype for layer in layers}

    half = trained("mixed_precision")
    assert dtypes(half) == {"bfloat16"} and dtypes(trained(None)) == {"float32"}
    assert {variable.dtype for variable in half.trainable_variables} == {tf.float32}


def test_jit_compile_reaches_the_train_step(trained):
    assert trained("jit_compile").jit_compile and not trained(None).jit_compile
    # The same function, to what XLA may reorder: two epochs from one seed.
    for compiled, plain in zip(
        trained("jit_compile").trainable_variables,
        trained(None).trainable_variables,
        strict=True,
    ):
        np.testing.assert_allclose(compiled, plain, atol=2e-2)


def test_lazy_adam_leaves_rows_alone_that_a_step_does_not_read(trained):
    lazy, plain = trained("lazy_adam"), trained(None)
    # Adam moves a row on after the step that read it; the lazy one does not, and so ends elsewhere.
    assert not np.allclose(lazy.gmf_item.embeddings[2:], plain.gmf_item.embeddings[2:], atol=1e-5)
