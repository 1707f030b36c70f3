"""What the tests of BGE, GES and EGES have in common: settings, and a catalogue made by hand."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from models.inputs.data import Entities
from models.names import registry

TOY = {
    "epochs": 6,
    "batch_size": 2048,
    "learning_rate": 0.01,
    "embedding_dim": 16,
    "history_length": 8,
}

# Item -> its vector W^0; and the vectors of the values of its features, all of width 2.
IDS = {"a": [1, 0], "b": [0, 2], "c": [3, 3]}
COLORS = {"red": [4, 0], "blue": [0, 4]}
TAGS = {"x": [2, 2], "y": [0, 6]}
A, B, C, D = range(2, 6)


def catalogue():
    """Four items; train has seen a, b and c.

    a is red with the tags x and y, b blue with y, c is nothing; d is red with y and a tag that
    train has not seen.
    """
    color = tf.constant([0, 0, 2, 3, 0, 2], tf.int64)
    tags = tf.ragged.constant([[], [], [2, 3], [3], [], [3, 1]], dtype=tf.int64)
    items = Entities(
        np.array([b"a", b"b", b"c", b"d"], object),
        3,
        {"item_tags": tags, "item_color": color},
        {"item_tags": 4, "item_color": 4},
        {"item_tags": [b"x", b"y"], "item_color": [b"red", b"blue"]},
    )
    return SimpleNamespace(items=items, has_walks=True)


def by_hand(name, **settings):
    """A model of the catalogue with the vectors above, negatives and window aside."""
    module = registry.load(name)
    parameters = module.HyperParameters(**{**TOY, "embedding_dim": 2, **settings})
    model = module.Model(parameters, catalogue())
    model.items.set_weights([table(IDS)])
    for feature, vectors in (("item_color", COLORS), ("item_tags", TAGS)):
        if name != "bge":
            model.side[feature].set_weights([table(vectors)])
    return model


def table(vectors):
    """The rows of padding and the unknown, and those after them."""
    return np.array([[0, 0], [0, 0], *vectors.values()], np.float32)


def pair_of(centre, context, negatives=(C,), weights=(0.0,)):
    """A batch of one tile: one centre, and one context a step later; blocks of two."""
    return {
        "centre": tf.constant([[centre, 0]], tf.int64),
        "context": tf.constant([[context, 0]], tf.int64),
        "offset": tf.constant([-1], tf.int64),
        "weight": tf.constant([0.1]),
        "negative": tf.constant([list(negatives)], tf.int64),
        "negative_weight": tf.constant([list(weights)], tf.float32),
    }


def assert_a_new_item_is_like_those_of_its_category(trained):
    """The toy log's users stay in a block of 15 items; the titles of block 1 say blue.

    Of the other features one is the same for all items, and the year tells nothing of the block.
    """
    _, inputs = trained.signatures["embed_items"].structured_input_signature
    values = {"item_genres": ["Drama", "Comedy"], "item_title": "A blue day", "item_year": 1984.0}
    asked = {name: tf.constant([values[name]], spec.dtype) for name, spec in inputs.items()}
    assert set(asked) == set(values)
    answer = trained.signatures["embed_items"](**asked)
    assert answer["known"].numpy().tolist() == [True]
    np.testing.assert_allclose(np.linalg.norm(answer["embedding"], axis=1), 1.0, rtol=1e-5)
    found = trained.signatures["retrieve"](embedding=answer["embedding"], k=tf.constant(10))
    block = {f"item {number} é世".encode() for number in range(15, 30)}
    assert set(found["item_id"].numpy()[0]) <= block
