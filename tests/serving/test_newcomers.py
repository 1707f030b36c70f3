"""Items that entered, by themselves: how answers are merged, and features become inputs."""

from __future__ import annotations

import math

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.newcomers import feature_inputs, merged
from serving.server.training_log import Notes, read_notes
from serving.state import Item


def test_answers_are_merged_by_score_and_cut_to_each_rows_k():
    """Columns below 3 are those of the answer, 3 and 4 are x and y."""
    outputs = {
        "item_id": np.array([[b"a", b"b", b"c"], [b"a", b"", b""]], object),
        "score": np.float32([[3, 2, 1], [5, 0, 0]]),
    }
    # x stands behind b, whose score it has; y may not be answered in the first row. In the second
    # one there is room for both.
    scores = np.float32([[2, -math.inf], [7, 6]])
    assert merged(outputs, np.int32([3, 3]), scores).tolist() == [[0, 1, 3], [3, 4, 0]]
    # One k for all, and one a row: what is beyond is padding.
    assert merged(outputs, np.int32(1), scores).tolist() == [[0], [3]]
    assert merged(outputs, np.int32([4, 1]), scores).tolist() == [[0, 1, 3, 2], [3, -1, -1, -1]]
    # What is pinned has its position, though its score has none; below the end it moves up.
    pinned = [{0: 4, 2: 1}, {6: 3}]
    found = merged(outputs, np.int32([4, 9]), scores, pinned)
    assert found.tolist() == [[4, 0, 1, 3], [4, 0, 3, -1]]
    # An order that is not by score stays, where nothing is added.
    outputs["score"] = np.float32([[1, 3, 2], [5, 0, 0]])
    none = np.full([2, 2], -math.inf)
    assert merged(outputs, np.int32(3), none).tolist() == [[0, 1, 2], [0, -1, -1]]


def test_features_become_the_inputs_of_a_signature():
    """By the column's name or with `item_`; what is not told or of another kind is missing."""
    inputs = {}
    for name, dtype, rank in (
        ("item_title", 7, 1),
        ("item_year", 1, 1),
        ("item_genres", 7, 2),
        ("item_sizes", 1, 2),
    ):
        inputs[name] = meta_graph_pb2.TensorInfo(dtype=dtype)
        for _ in range(rank):
            inputs[name].tensor_shape.dim.add().size = -1
    items = [
        Item(b"1", {"title": "red é", "year": "1999", "genres": ["a", "b"], "sizes": [1.5, 2]}),
        Item(b"2", {"title": ["red", "one"], "item_year": 7, "genres": "c", "other": "d"}),
        Item(b"3", {"year": "unknown", "title": 1999.0}),
    ]
    found = feature_inputs(inputs, items)
    assert found["item_title"].tolist() == ["red é".encode(), b"red one", b"1999"]
    np.testing.assert_array_equal(found["item_year"], np.float32([1999, 7, np.nan]))
    assert found["item_genres"].tolist() == [[b"a", b"b"], [b"c", b""], [b"", b""]]
    nan = np.nan
    np.testing.assert_array_equal(
        found["item_sizes"], np.float32([[1.5, 2], [nan, nan], [nan, nan]])
    )


def test_a_training_log_is_read_and_one_that_is_none_says_nothing(tmp_path):
    folder = tmp_path / "assets.extra"
    folder.mkdir()
    assert read_notes(str(tmp_path)) == Notes(0, True)
    for text, notes in (
        ('{"history_until": 5, "hyper_parameters": {"filter_seen": false}}', Notes(5, False)),
        ('{"history": "added"}', Notes(0, True)),
        ("[]", Notes(0, True)),
        ("no JSON", Notes(0, True)),
    ):
        (folder / "training.json").write_text(text)
        assert read_notes(str(tmp_path)) == notes
