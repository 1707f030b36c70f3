"""One reader of times for all layouts, the same in both lanes."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from components.read import times

# 2020-09-13T12:26:40Z is 1,600,000,000 seconds; midnight of that day is 46,000 seconds earlier.
MOMENT, DAY = 1_600_000_000, 1_599_955_200


def seconds(*values, unit=None):
    """The seconds of texts; None for what is no time, "beyond" for what is out of range."""
    column = pa.array([value.encode() for value in values], pa.large_binary())
    found, bad, beyond = times.to_seconds(column, unit)
    assert not found[bad | beyond].any()
    return [
        None if bad[n] else "beyond" if beyond[n] else int(found[n]) for n in range(len(values))
    ]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("2020-09-13T12:26:40", MOMENT),
        ("2020-09-13 12:26:40", MOMENT),
        ("2020-09-13T12:26:40Z", MOMENT),
        (" 2020-09-13t12:26:40z ", MOMENT),
        ("2020-09-13 12:26:40 UTC", MOMENT),
        ("2020-09-13T12:26:40.9", MOMENT),
        ("2020-09-13T12:26:40,001007", MOMENT),
        ("2020-09-13T12:26:40.123456789Z", MOMENT),
        ("2020-09-13T14:26:40+02:00", MOMENT),
        ("2020-09-13T14:26:40.5+0200", MOMENT),
        ("2020-09-13 14:26:40+02", MOMENT),
        ("2020-09-13T08:56:40-03:30", MOMENT),
        ("2020-09-13T12:26", MOMENT - 40),
        ("2020-09-13T12", MOMENT - 26 * 60 - 40),
        ("2020-09-13", DAY),
        ("2020-09", DAY - 12 * 86_400),
        ("20200913T122640Z", MOMENT),
        ("20200913T122640.25+0000", MOMENT),
        ("2020-W37-7", DAY),  # the Sunday of the week that began on Monday, 7 September
        ("2020-W37", DAY - 6 * 86_400),
        ("2020-257", DAY),  # 31 + 29 + 31 + 30 + 31 + 30 + 31 + 31 + 13
        ("2020-09-12T24:00:00Z", DAY),
        ("2016-12-31T23:59:60Z", 1_483_228_800),  # leapt, so that it is 2017
        ("1970-01-01", 0),
        ("2262-04-11T23:47:16Z", 9_223_372_036),
        ("1600000000", MOMENT),
        ("1600000000.999", MOMENT),
        ("1.6e9", MOMENT),
        ("1600000000123", MOMENT),
        ("1600000000123456", MOMENT),
        ("1600000000123456789", MOMENT),
        ("100000000000", 100_000_000),  # milliseconds: as seconds it would be 5138
        ("5", 5),
        ("9223372036", 9_223_372_036),
        ("9223372037", "beyond"),
        ("-1", "beyond"),
        ("1969-12-31T23:59:59Z", "beyond"),
        ("2262-04-11T23:47:17Z", "beyond"),
        ("9999-12-31", "beyond"),
        ("0001-01-01T00:00:00Z", "beyond"),
        ("", None),
        ("09/13/2020", None),
        ("9/13/2020 12:26 PM", None),
        ("13.09.2020", None),
        ("2020/09/13", None),
        ("Sep 13 2020", None),
        ("2020-13-01", None),
        ("2020-02-30", None),
        ("2020-00-10", None),
        ("2020-W54-1", None),
        ("2020-000", None),
        ("2020-09-13T25:00:00", None),
        ("2020-09-13T24:00:01", None),
        ("2020-09-13T12:60:00", None),
        ("2020-09-13T12:26:40 CET", None),
        ("2020-09-13T12:26:40Zx", None),
        ("nan", None),
        ("2020-W53-7", DAY + 112 * 86_400),
        ("2021-W53-1", None),  # a year of 52 weeks
        ("2020-366", DAY + 109 * 86_400),
        ("2021-366", None),
        ("inf", None),
        ("1e30", None),
        ("٢٠٢٠-٠٩-١٣", None),
        ("soon", None),
    ],
)
def test_forms_that_are_read_and_not(text, wanted):
    assert seconds(text) == [wanted]


def test_all_forms_in_one_column():
    assert seconds("2020-09-13", "1600000000", "x", "2020-09-13T12:26:40.001007", "2020-09-13") == [
        DAY,
        MOMENT,
        None,
        MOMENT,
        DAY,
    ]


def test_a_unit_that_is_given_counts():
    assert seconds("5000", "1600000000123", unit="ms") == [5, MOMENT]
    assert seconds("1600000000123", unit="s") == ["beyond"]
    assert seconds("20200913", "20201301", "5", unit=times.DAY) == [DAY, "beyond", "beyond"]


def test_every_day_is_that_of_the_calendar():
    first = datetime.date(1970, 1, 1)
    days = [first + datetime.timedelta(n) for n in range(0, 106_000, 17)]
    wanted = [17 * 86_400 * n for n in range(len(days))]
    assert seconds(*(day.isoformat() for day in days)) == wanted
    assert seconds(*(day.strftime("%G-W%V-%u") for day in days)) == wanted
    assert seconds(*(day.strftime("%Y-%j") for day in days)) == wanted
    assert seconds(*(day.strftime("%Y%m%d") for day in days), unit=times.DAY) == wanted


@pytest.mark.parametrize(
    "column, wanted",
    [
        (pa.array([MOMENT, None, -1], pa.timestamp("s")), [MOMENT, None, "beyond"]),
        (pa.array([MOMENT * 10**9 + 1], pa.timestamp("ns", "Europe/Rome")), [MOMENT]),
        # 9999-12-31 in microseconds, which no nanoseconds hold.
        (pa.array([253_402_214_400_000_000], pa.timestamp("us")), ["beyond"]),
        (pa.array([18_518], pa.date32()), [DAY]),
        (pa.array([DAY * 1000], pa.date64()), [DAY]),
        (pa.array([MOMENT, None]), [MOMENT, None]),
        (pa.array([MOMENT * 1000], pa.uint64()), [MOMENT]),
        (pa.array([MOMENT + 0.5, float("nan"), float("inf"), None]), [MOMENT, None, None, None]),
    ],
)
def test_columns_of_arrow(column, wanted):
    found, bad, beyond = times.to_seconds(column)
    assert [
        None if bad[n] else "beyond" if beyond[n] else int(found[n]) for n in range(len(column))
    ] == wanted


def test_days_are_told_by_the_whole_column():
    def are_days(*values):
        return times.are_days(pa.array([value.encode() for value in values], pa.large_binary()))

    assert are_days("20200913", "", "19991231") and times.are_days(pa.array([20200913, None]))
    assert not are_days("20200913", "20200932") and not are_days("1600000000") and not are_days("")
    assert not times.are_days(pa.array([20200913, 5])) and not times.are_days(pa.array([2.0]))


def test_numbers_beyond_64_bits_are_no_times():
    assert seconds(str(np.iinfo(np.uint64).max), "9" * 30) == [None, None]
