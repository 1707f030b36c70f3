"""Numbers as numbers: a quantile beside the bucket, fitted on train, for models that read it."""

import numpy as np
import pytest
import tensorflow as tf

from components import standalone
from models.contract.score import ScoreModel
from models.contract.score_task import ScoreTask
from models.names.errors import DataError
from models.names.hyper_parameters import Epochs, Gradient
from models.names.label import Label
from models.names.registry import load as load_model


class HyperParameters(Epochs, Gradient):
    """Nothing of its own."""


class Reader(ScoreModel[HyperParameters]):
    """Predicts the quantile of the price."""

    reads_quantiles = True

    def score_rows(self, inputs, training=False):
        return inputs["item_price_quantile"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Item n costs n: 1 to 200, one event each but for item 201, which train does not have."""
    folder = tmp_path_factory.mktemp("quantiles")
    source = folder / "source"
    source.mkdir()
    rows = [f"u{n % 7},i{n},{n % 5 + 1},{n},{n / 10}" for n in range(1, 201)]
    (source / "events.csv").write_text(
        "\n".join(["user_id,item_id,rating,timestamp,hour", *rows]) + "\n"
    )
    items = [f"i{n},{n}" for n in range(1, 200)] + ["i200,", "i201,50.5"]
    (source / "items.csv").write_text("\n".join(["item_id,price", *items]) + "\n")
    types = {"types": {"price": "float", "hour": "float"}}
    standalone.read_tables(str(source), columns=types, output=str(folder / "t"))
    label = {"column": "rating"}
    standalone.build_examples(
        str(folder / "t"), str(folder), "score", label=label, schema="generic", split=_TEMPORAL
    )
    return folder


# The last twenty events, the dearest items, are test; the twenty before validation.
_TEMPORAL = {"name": "temporal"}


def load(folder, quantiles, model):
    schema, graph = str(folder / "schema" / "schema.pbtxt"), folder / f"graph-{quantiles}"
    if not graph.exists():
        custom = {"text": [], "quantiles": quantiles}
        standalone.transform(str(folder / "examples"), schema, str(graph), custom)
    names = ("train", "valid", "test", "items", "users")
    splits = {name: str(folder / "examples" / f"Split-{name}" / "*") for name in names}
    return ScoreTask(Label(column="rating")).load(model, str(graph), schema, splits)


def test_a_number_is_its_share_of_train_in_every_way_that_it_comes(folder):
    """Train has the prices 1 to 160: x lies at x / 160, and at 1 from 160 on."""
    data = load(folder, True, Reader)
    shares = data.train["item_price_quantile"]
    assert shares.dtype == np.float32 and shares.min() >= 0 and shares.max() < 1
    number = data.items.ids[data.train["item_id"] - 2]
    wanted = np.array([int(one[1:]) / 160 for one in number])
    np.testing.assert_allclose(shares, wanted, atol=0.02)
    # By the table, where an item that train has not seen costs 50.5, and one has no price.
    item = data.item_table.lookup(tf.constant(["i201", "i200", "nothing"]))
    looked_up = data.lookup(tf.ones(3, tf.int64), item)["item_price_quantile"]
    np.testing.assert_allclose(looked_up, [50.5 / 160, 0, 0], atol=0.02)
    # As a request tells it, within what train had and beyond.
    raw = {
        field.name: tf.constant(["", "", ""])
        if field.dtype == tf.string
        else tf.constant([80.0, 1e9, float("nan")])
        for field in data.fields
    }
    told = data.transform_raw(raw)
    np.testing.assert_allclose(told["item_price_quantile"], [0.5, 1, 0], atol=0.02)
    assert float(told["item_price_quantile"][1]) < 1
    assert set(data.quantiles) == {"item_price", "hour"}
    model = Reader(HyperParameters(), data)
    batch = next(iter(model.batches(data, 0, 0).dataset))
    assert batch["item_price_quantile"].dtype == tf.float32
    assert np.isfinite(float(model.compute_loss(batch)))


def test_who_does_not_read_them_has_none(folder):
    data = load(folder, False, load_model("lr").Model)
    assert not data.quantiles and not data.items.quantiles
    assert not any(name.endswith("_quantile") for name in data.train)


def test_a_column_of_that_name_is_refused(folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    rows = [f"u{n % 7},i{n % 9},{n % 5 + 1},{n},{n},{n}" for n in range(1, 101)]
    header = "user_id,item_id,rating,timestamp,hour,hour_quantile"
    (source / "events.csv").write_text("\n".join([header, *rows]) + "\n")
    types = {"types": {"hour": "float", "hour_quantile": "float"}}
    standalone.read_tables(str(source), columns=types, output=str(tmp_path / "t"))
    standalone.build_examples(
        str(tmp_path / "t"), str(tmp_path), "score", label={"column": "rating"}, schema="generic"
    )
    with pytest.raises(DataError, match="'hour_quantile' is called what a number's quantile is"):
        load(tmp_path, False, Reader)
