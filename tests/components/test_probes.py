"""The canary's probe of a `score` model.

Real rows over both protocols of a real server, and a model that cannot answer.
"""

import numpy as np
import pytest
import tensorflow as tf

from components.canary import probes
from models.contract import tasks
from models.names import registry
from models.names.label import Label

CLICK = Label(column="rating", threshold=4.0)


@pytest.fixture(scope="module")
def untrained(toy_data, tmp_path_factory):
    """Toy rows and an FM on them, exported as it was made."""
    folder = tmp_path_factory.mktemp("probes")
    data = toy_data("event", 0.0, CLICK)
    loaded, module = data.load("fm"), registry.load("fm")
    model = module.Model(module.HyperParameters(), loaded)
    tasks.of("fm", CLICK).exporter(model, loaded).export(str(folder / "model"))
    return data, loaded, str(folder / "model")


def test_real_rows_are_asked_for_and_answered(untrained):
    data, _, model = untrained
    # 20 real rows, one of strangers and one in which everything is missing.
    assert probes.try_model(model, str(data.folder / "examples")) == 22


def test_the_rows_have_the_form_that_the_signature_wants(untrained):
    data, loaded, _ = untrained
    signature = {
        name: {
            "dtype": "DT_STRING" if spec.dtype == tf.string else "DT_FLOAT",
            "tensor_shape": {"dim": [{}] * len(spec.shape)},
        }
        for name, spec in loaded.raw_signature().items()
    }
    rows = probes.sample_rows(str(data.folder / "examples"), signature, 5)
    assert rows["user_id"][5:] == ["nobody ☃", ""] and rows["user_id"][0].startswith(b"user ")
    assert rows["user_age"].dtype == np.float32 and np.isnan(rows["user_age"][5:]).all()
    assert len({len(genres) for genres in rows["item_genres"]}) == 1 and rows["item_genres"][6] == [
        ""
    ] * len(rows["item_genres"][0])
    assert set(rows) == set(signature) and all(len(values) == 7 for values in rows.values())


def test_a_model_that_answers_no_number_is_not_pushed(untrained, tmp_path):
    data, loaded, _ = untrained
    module = registry.load("fm")
    model = module.Model(module.HyperParameters(), loaded)
    exporter = tasks.of("fm", CLICK).exporter(model, loaded)
    exporter.score(
        tf.nest.map_structure(
            lambda spec: tf.fill([1] * len(spec.shape), "" if spec.dtype == tf.string else 0.0),
            loaded.raw_signature(),
        )
    )
    model.bias.assign(float("nan"))
    exporter.export(str(tmp_path / "model"))
    with pytest.raises(
        probes.CanaryFailure, match="row 0: the score is nan over rest; required: a finite number"
    ):
        probes.try_model(str(tmp_path / "model"), str(data.folder / "examples"))
