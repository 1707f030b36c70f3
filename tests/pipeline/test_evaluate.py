"""What rules cost: the arithmetic, by hand."""

import math

from pipeline.evaluate import _differences


def test_the_cost_of_a_rule():
    """Two queries of one user and one of another, over a catalogue of 4.

    Without: the targets at rank 1, rank 2 and nowhere; with the rule: nowhere, rank 1, nowhere, and
    the last list is a item shorter.
    """
    users, targets = [b"a", b"a", b"b"], [{b"1"}, {b"2"}, {b"3"}]
    without = [[b"1", b"2"], [b"1", b"2"], [b"1", b"2"]]
    under = [[b"2", b""], [b"2", b"4"], [b"2", b"4"]]
    found = {one.metric: one for one in _differences(users, targets, [without, under], 2, 4)}
    assert math.isclose(found["hr_2"].first, 2 / 3) and math.isclose(found["hr_2"].second, 1 / 3)
    second = 1 / math.log2(3)
    assert math.isclose(found["ndcg_2"].first, (1 + second) / 3)
    assert math.isclose(found["ndcg_2"].difference, (1 - 1 - second) / 3)
    assert found["ndcg_2"].low <= found["ndcg_2"].difference <= found["ndcg_2"].high
    assert math.isclose(found["items a list"].second, 5 / 3)
    # Items 1 and 2 of four without, 2 and 4 with.
    assert found["coverage_2"].first == found["coverage_2"].second == 0.5
