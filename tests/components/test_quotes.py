"""Quotes in CSV: whatever they are, a row is lost alone, with its true line."""

import csv
import io
import random

import pytest

from components.read import quotes, raw
from tests.components.test_readers import read, write

HEADER = "item_id,title,color\n"


def titles(folder, **arguments):
    (folder / "events.csv").write_text("user_id,item_id\nu,a\n")
    found, rejects = read(folder, **arguments)
    return {row["item_id"].decode(): row["title"] for row in found["items"]}, {
        reason: given for (_, reason), given in rejects.items()
    }


@pytest.mark.parametrize(
    "field, title",
    [
        ('tv 24"', b'tv 24"'),
        ('24" by 30" frame', b'24" by 30" frame'),
        ('a "b" c', b'a "b" c'),
        ('"tv 24"""', b'tv 24"'),
        ('"""x"""', b'"x"'),
        ('"""24"" tv"', b'"24" tv'),
        ('""', None),
        ('""""', b'"'),
        ('"a, b"', b"a, b"),
        ('"a\r\nb"', b"a\r\nb"),
        ('"a\n""b"",\n\nc"', b'a\n"b",\n\nc'),
        (r"a\"b", rb"a\"b"),
        (r'"say \"', b"say \\"),
    ],
)
def test_what_quotes_say_is_read(tmp_path, field, title):
    write(tmp_path, items__csv=f"{HEADER}a,one,red\nb,{field},green\nc,three,blue\n")
    found, rejects = titles(tmp_path)
    assert not rejects and found == {"a": b"one", "b": title, "c": b"three"}


@pytest.mark.parametrize(
    "field, reason",
    [
        ('"24 tv', quotes.NEVER_CLOSED),
        ('"', quotes.NEVER_CLOSED),
        ('"""', quotes.NEVER_CLOSED),
        ('"a "b" c"', quotes.NOT_DOUBLED),
        ('"a" b', quotes.NOT_DOUBLED),
        (r'"say \"hi\" to"', quotes.NOT_DOUBLED),
        (r'"say \""', quotes.NEVER_CLOSED),
        ("a\rb", quotes.RETURN),
        ('"a"\rb', quotes.NOT_DOUBLED),
        ("a, b", "wrong number of fields"),
    ],
)
def test_what_they_do_not_say_costs_one_row(tmp_path, field, reason):
    before = 'a,"one\nand two",red\n'  # lines 2 and 3
    after = "".join(f'c{n},"t ""{n}""",blue\n' for n in range(5))
    write(tmp_path, items__csv=f"{HEADER}{before}b,{field},green\n{after}")
    found, rejects = titles(tmp_path)
    assert set(found) == {"a", *(f"c{n}" for n in range(5))} and found["c4"] == b't "4"'
    (count, line, received) = rejects.pop(reason)
    assert (count, line) == (1, 4) and not rejects and "b," in received
    for size in (20, 50):  # however the file is cut
        assert titles(tmp_path, block_bytes=size)[0] == found


def test_a_quote_that_later_rows_seem_to_close(tmp_path):
    # Read by the letter, the title of `a` goes on to the mark in the row of `f`, and five rows are
    # one.
    rows = ['a,"24 tv,red', "b,x,red", "c,x,red", "d,x,red", "e,x,red", 'f,24",red', "g,x,red"]
    write(tmp_path, items__csv=HEADER + "\n".join(rows) + "\n")
    found, rejects = titles(tmp_path)
    assert set(found) == set("bcdefg") and found["f"] == b'24"'
    assert rejects == {quotes.NEVER_CLOSED: (1, 2, repr(rows[0]))}


def test_a_file_that_ends_within_quotes(tmp_path):
    write(tmp_path, items__csv=f'{HEADER}a,one,red\nb,"two,green\nc,three,blue\n')
    found, rejects = titles(tmp_path)
    assert set(found) == {"a", "c"} and rejects[quotes.NEVER_CLOSED][:2] == (1, 3)


def test_a_quote_is_closed_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(quotes, "LONGEST", 1000)
    long = "x,y\n" * 200
    write(tmp_path, items__csv=f'{HEADER}a,"{long}",red\n' + 'c,"three",blue\n' * 3)
    found, rejects = titles(tmp_path, block_bytes=300)
    assert set(found) == {"a", "c"} and not rejects
    write(tmp_path, items__csv=f'{HEADER}a,"{long * 2}",red\n' + 'c,"three",blue\n' * 3)
    found, rejects = titles(tmp_path, block_bytes=300)
    # Its other lines are rows of two fields.
    assert set(found) == {"c"}
    assert rejects[quotes.NEVER_CLOSED][:2] == (1, 2)
    assert rejects["wrong number of fields"][1] == 3


def test_any_text_that_python_writes_is_read_as_python_reads_it(tmp_path):
    choose = random.Random(0)
    pieces = ["a", '"', ",", "\n", "\r\n", '""', " ", "é", "\\"]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        stream = io.StringIO()
        writer = csv.writer(stream, quoting=quoting, lineterminator="\n")
        rows = [
            [str(n), "".join(choose.choices(pieces, k=choose.randrange(9))), "c"]
            for n in range(300)
        ]
        writer.writerows(rows)
        write(tmp_path, items__csv=HEADER + stream.getvalue())
        wanted = {one: text.encode() or None for one, text, _ in rows}
        for size in (200, raw.BLOCK_BYTES):
            found, rejects = titles(tmp_path, block_bytes=size)
            assert not rejects and found == wanted


def test_both_ways_to_cut_agree(monkeypatch):
    """Without Python per record, and line by line."""
    choose = random.Random(1)
    pieces = ["a", "b", '"', '"', ",", ",", "\n", "\n", "\r\n", "\r"]
    texts = ["".join(choose.choices(pieces, k=choose.randrange(30))).encode() for _ in range(3000)]
    fast = [[quotes.cut(text, last, ",", 3) for last in (True, False)] for text in texts]
    monkeypatch.setattr(quotes, "_clean", lambda *arguments: None)
    for text, found in zip(texts, fast):
        for last, one in zip((True, False), found):
            other = quotes.cut(text, last, ",", 3)
            assert one.bounds.tolist() == other.bounds.tolist(), text
            assert one.broken == other.broken, text


@pytest.mark.parametrize("folder, rows", [("09-inch", 30), ("09f-inch-big", 3000)])
def test_the_inch_marks_of_the_faults(shared_dir, tmp_path, folder, rows):
    from components import standalone
    from components.tables import artifacts

    reports = standalone.read_tables(
        str(shared_dir / "faults" / folder / "data"), output=str(tmp_path / "tables")
    )
    table = "items" if folder == "09-inch" else "events"
    assert reports[table]["read"] == reports[table]["kept"] == rows
    if table == "items":
        found = artifacts.read_table(str(tmp_path / "tables" / "items")).to_pylist()
        assert found[3]["title"] == b'24" monitor'
