"""Admission by frequency: what train has less often than `features.min_count` is unknown."""

import collections
import dataclasses
import shutil

import pytest
import tensorflow as tf

from components import standalone
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.names.features import CATEGORICAL, ID, MULTIVALUED
from tests.models.score_contract import CLICK, RATING

LEAST = 20


@pytest.mark.thorough
def test_a_value_below_the_count_is_unknown_in_every_column(toy_data, tmp_path):
    toy = toy_data("event", 0.0, CLICK)
    folder = tmp_path / "data"
    shutil.copytree(toy.folder, folder)
    shutil.rmtree(folder / "graph")
    rare = dataclasses.replace(toy, folder=folder)
    custom = {"text": ["item_title"], "min_count": LEAST}
    standalone.transform(str(folder / "examples"), rare.schema, rare.graph, custom)
    data = rare.load("fm")
    fields = [field for field in data.fields if field.kind in (ID, CATEGORICAL, MULTIVALUED)]
    assert {field.kind for field in fields} == {ID, CATEGORICAL, MULTIVALUED}

    rows = tf.io.parse_example(
        tf.constant(data.queries("train"), tf.string),
        {field.name: tf.io.RaggedFeature(tf.string) for field in fields},
    )
    left_out = {}
    for field in fields:
        values = rows[field.name].to_list()
        times = collections.Counter(value for row in values for value in row)
        admitted = {value for value, count in times.items() if count >= LEAST}
        assert set(field.tokens) == admitted, field.name
        # Index by index, as the model gets it.
        index = {token: FIRST_TOKEN + place for place, token in enumerate(field.tokens)}
        wanted = [[index.get(value, UNKNOWN) for value in row] for row in values]
        column = data.train[field.name]
        if field.single:
            assert column.tolist() == [(row or [0])[0] for row in wanted], field.name
        else:
            assert column.to_list() == wanted, field.name
        count = sum(UNKNOWN in row for row in wanted)
        left_out |= {field.name: count} if count else {}
    assert left_out and data.unknown_rows == left_out


def test_rows_that_are_lists_have_no_fields(toy_data):
    assert toy_data("profile", 0.0, RATING).load_once("autorec").unknown_rows == {}
