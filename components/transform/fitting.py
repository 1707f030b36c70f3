"""The preprocessing, fitted on the train rows, which are read by columns.

TFX's Transform parses tf.Examples and traces the preprocessing five times, which is three times
here; what it writes is the same.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata
from tfx_bsl.public import tfxio

from components.tables import artifacts, records
from components.tables.shards import ReadBatches
from components.transform.vocabularies import fit
from models.inputs.preprocessing import preprocessing_fn
from models.inputs.schema import read_schema

_TRAIN = "train"
_ROWS_AT_ONCE = 16_384
_VALUES_AT_ONCE = 1 << 20
"""About so many of a column at most: a row may be all that a user has had."""


def fit_preprocessing(
    make_pipeline: Callable[[], beam.Pipeline],
    examples_uri: str,
    schema_path: str,
    output: str,
    settings: Mapping[str, Any],
) -> None:
    """Fits `models.inputs.preprocessing` on the train rows and writes the transform graph.

    Args:
        make_pipeline: makes the Beam pipeline.
        examples_uri: of the Examples artifact of `ExampleBuilder`.
        schema_path: `schema.pbtxt` of the train rows.
        output: folder that `tft.TFTransformOutput` will read.
        settings: see there.
    """

    def preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
        return preprocessing_fn(inputs, settings, fit)

    schema = read_schema(schema_path)
    # Of the rows as tf.Examples: what tensors their columns are.
    rows = tfxio.TFExampleBeamRecord("parquet", ["recsys", "Transform"], schema)
    specs = rows.TensorAdapter().TypeSpecs()
    analyzed = sorted(tft.get_analyze_input_columns(preprocess, specs))
    tensors = rows.Project(analyzed).TensorAdapterConfig()
    tensors = tfxio.TensorAdapterConfig(
        tensors.arrow_schema, tensors.tensor_representations, original_type_specs=specs
    )
    kinds = records.read_json(posixpath.join(examples_uri, records.REPORT))["columns"][_TRAIN]
    files = records.shards(artifacts.split_folder(examples_uri, _TRAIN))
    temporary = records.staging_path(output, "analysis")
    with make_pipeline() as pipeline, tft_beam.Context(temp_dir=temporary):
        columns = {name: kinds[name] for name in analyzed if name in kinds}
        arrange = beam.FlatMap(_arranged, tensors.arrow_schema).with_output_types(pa.RecordBatch)
        batches = pipeline | "Read" >> ReadBatches(files, columns) | "Arrange" >> arrange
        fitted = (batches, tensors) | "Analyze" >> tft_beam.AnalyzeDataset(preprocess)
        _ = fitted | "Write" >> tft_beam.WriteTransformFn(output)
        raw = posixpath.join(output, tft.TFTransformOutput.RAW_METADATA_DIR)
        _ = DatasetMetadata(schema) | "WriteSchema" >> tft_beam.WriteMetadata(raw, pipeline)
    records.remove_staging(output)


def _arranged(table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows as they would be parsed from tf.Examples: a column is of lists, and none missing."""
    table = table.combine_chunks()
    lists = (column for column in table.columns if pa.types.is_large_list(column.type))
    values = max((len(pc.list_flatten(column)) for column in lists), default=0)
    rows = min(_ROWS_AT_ONCE, _VALUES_AT_ONCE * len(table) // max(values, 1))
    for batch in table.to_batches(max_chunksize=max(rows, 1)):
        arrays = []
        for field in schema:
            place = batch.schema.get_field_index(field.name)
            column = batch.column(place) if place >= 0 else pa.nulls(len(batch), field.type)
            arrays.append(records.as_list(column))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
