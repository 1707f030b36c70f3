"""Transform: of rows that are read by columns it fits what TFT's own fits of their tf.Examples."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tfx_bsl.public import tfxio

from components import standalone
from components.in_process import in_process_pipeline
from components.transform import fitting
from components.transform.vocabularies import fit
from models.inputs.preprocessing import preprocessing_fn
from models.inputs.schema import read_schema
from models.names.label import Label

SETTINGS = {"text": ["item_title"], "quantiles": True, "log": [], "min_count": 2}


@pytest.fixture(scope="module")
def rated(toy_data) -> Path:
    return toy_data("event", 0.0, label=Label(column="rating")).folder


@pytest.fixture(scope="module")
def theirs(rated, tmp_path_factory) -> str:
    """What TFX's Transform does."""
    folder, output = rated, str(tmp_path_factory.mktemp("theirs") / "graph")
    schema = read_schema(str(folder / "schema" / "schema.pbtxt"))
    source = tfxio.TFExampleRecord(
        str(folder / "examples" / "Split-train" / "*"),
        schema=schema,
        telemetry_descriptors=["tests"],
    )
    with in_process_pipeline() as pipeline, tft_beam.Context(temp_dir=f"{output}-temporary"):
        data = pipeline | source.BeamSource(batch_size=400)
        _ = (
            (data, source.TensorAdapterConfig())
            | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, SETTINGS, fit))
            | tft_beam.WriteTransformFn(output)
        )
    return output


def made_of(output: str, rows: list[bytes], schema) -> dict[str, np.ndarray]:
    """Raw rows, through a graph."""
    graph = tft.TFTransformOutput(output)
    spec = tft.tf_metadata.schema_utils.schema_as_feature_spec(schema).feature_spec
    made = graph.transform_features_layer()(tf.io.parse_example(rows, spec))
    return {name: tf.sparse.to_dense(column).numpy() for name, column in made.items()}


@pytest.mark.parametrize("twins", [True, False], ids=["columns", "examples alone"])
def test_it_fits_what_the_examples_say(tmp_path, monkeypatch, rated, theirs, twins):
    folder, ours = tmp_path / "data", str(tmp_path / "ours")
    shutil.copytree(rated, folder)
    if not twins:
        shutil.rmtree(folder / "examples" / "Columns-train")
    monkeypatch.setattr(fitting, "_ROWS_AT_ONCE", 400)  # several batches
    path = str(folder / "schema" / "schema.pbtxt")
    standalone.transform(str(folder / "examples"), path, ours, SETTINGS)

    assert sorted(each.name for each in Path(ours).iterdir()) == [
        "metadata",
        "transform_fn",
        "transformed_metadata",
    ]
    found, expected = tft.TFTransformOutput(ours), tft.TFTransformOutput(theirs)
    assert found.transformed_metadata.schema == expected.transformed_metadata.schema
    assert found.raw_metadata.schema == read_schema(path)
    files = [Path(expected.vocabulary_file_by_name(name)) for name in ("user_id", "item_title")]
    assert all(len(file.read_text().splitlines()) > 3 for file in files)
    for file in files[0].parent.iterdir():
        assert Path(found.vocabulary_file_by_name(file.name)).read_bytes() == file.read_bytes()
    rows = []
    for file in (folder / "examples" / "Split-train").iterdir():
        rows += list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator())
    made, asked = (made_of(output, rows, read_schema(path)) for output in (ours, theirs))
    assert made.keys() == asked.keys()
    for name in made:
        # The sketches of quantiles are approximate: a batch more or less moves a boundary.
        near = 0.02 if name.endswith("_quantile") else 0
        np.testing.assert_allclose(made[name], asked[name], atol=near, err_msg=name)


def test_rows_of_long_lists_are_fewer_at_once(monkeypatch):
    monkeypatch.setattr(fitting, "_VALUES_AT_ONCE", 20)
    lists = pa.array([[b"x"] * 10] * 7, pa.large_list(pa.large_binary()))
    table = pa.table({"item_id": lists, "user_id": pa.array([b"u"] * 7, pa.large_binary())})
    schema = pa.schema([(name, lists.type) for name in ("user_id", "item_id", "missing")])
    batches = list(fitting._arranged(table, schema))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert all(batch.schema == schema for batch in batches)
    whole = pa.Table.from_batches(batches)
    assert whole["item_id"].to_pylist() == lists.to_pylist()
    assert whole["user_id"].to_pylist() == [[b"u"]] * 7 and whole["missing"].null_count == 7
