"""The benchmark of sizes: a training of some steps, and the memory that it says."""

import numpy as np

from benchmarks import scale
from models.inputs.columns import Column


def test_a_training_of_some_steps_says_what_memory_it_took(toy_data):
    """Tables of 122 users and 62 items, each two more than there are, in 8 factors and a bias.

    Each number thrice, for Adam; besides no more than counters, rates and the mean of the loss.
    """
    setting = {"factors": 8, "batch_size": 64}
    found = scale.train(toy_data("event", 0.0).folder, "bpr_mf", setting, steps=3)
    assert found["steps"] == 3
    tables = 3 * 4 * (122 * 8 + 62 * 9)
    assert 0 <= found["variables"] - tables < 100
    assert found["paged"] == 0
    assert found["anonymous"] > 100e6  # what TensorFlow alone takes


def test_columns_that_lie_in_files_are_seen():
    before, column = scale.nameless(), Column(np.int32)
    column.append(np.zeros(5 << 20, np.int32))
    array = column.array()
    (new,) = scale.nameless().keys() - before.keys()
    assert scale.nameless()[new] == 20 << 20
    del array, column
    assert new not in scale.nameless()
