"""Fields are taken out of a serialized message as protobuf takes them out of a read one."""

from __future__ import annotations

import pytest

from serving.wire import protos
from serving.wire.fields import take_out


def test_what_is_taken_out_is_gone_and_the_rest_stays():
    """Examples of two lists, of which each has a name, a number and a text."""
    request = protos.classification.ClassificationRequest()
    request.model_spec.version.value = 300
    listed = request.input.example_list
    for value in (1.0, 2.0):
        feature = listed.examples.add().features.feature
        feature["x"].float_list.value.extend([value] * 100)
        feature["name"].bytes_list.value.append(b"\xff" * 200)
    # ClassificationRequest.input, Input.example_list, ExampleList.examples
    rest, taken = take_out(request.SerializeToString(), (2, 1, 1))
    assert [protos.Example.FromString(each) for each in taken] == list(listed.examples)
    del listed.examples[:]
    assert type(request).FromString(rest) == request
    assert take_out(rest, (2, 1, 1)) == (rest, [])


def test_numbers_of_any_kind_are_passed_over():
    """By hand: field 1 is 300, 2 eight bytes, 3 four bytes, 4 the text `ab`, twice."""
    before = b"\x08\xac\x02" + b"\x11" + b"\x04" * 8 + b"\x1d" + b"\x07" * 4
    assert take_out(before + b"\x22\x02ab\x22\x02cd", (4,)) == (before, [b"ab", b"cd"])
    assert take_out(before, (1,)) == (before, [])  # a number is no message


@pytest.mark.parametrize("damaged", [b"\x0a\xffcut", b"\x0a", b"\x08\x80", b"\x0b", b"\x11\x00"])
def test_what_is_no_message_is_refused(damaged):
    with pytest.raises(ValueError, match="ends within|wire type"):
        take_out(damaged, (1,))
