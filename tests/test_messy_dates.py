"""Dates and times in columns of CSV files: they are told, and the remedy in the message works."""

import datetime
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import converted, fault_of

from riskvae.likelihoods import Mixed


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%m/%d/%Y",
        "%m/%d/%Y %I:%M %p", "%d/%m/%Y", "%d-%b-%Y", "%d %B %Y", "%B %d, %Y", "%Y%m%d", "%Y/%m/%d", "%d.%m.%y",
        "%m/%d/%y", "%d.%m.%y %H:%M", "%d-%b-%y", "%Y-%m", "%d. %B %Y",
    ],
)  # fmt: skip
@pytest.mark.parametrize("n", [40, 3000])
def test_dates_are_told_in_all_common_forms(form, n):
    dates = pd.Series(pd.date_range("2019-01-01 07:30", periods=n, freq="17h"))
    for values in (dates.dt.strftime(form), dates.dt.strftime(form).where(dates.dt.day != 3)):
        message = fault_of(values)
        assert "'a' holds dates as strings: take what repeats, such as" in message
        assert "the time between two dates of a row" in message
        assert "such as days since a fixed date, makes all later rows look unusual" in message
        code, part = re.search(r"such as (pandas\.to_datetime.*?\.dt\.(\w+))", message).groups()
        assert part == ("month" if form == "%Y-%m" else "hour" if ":" in form and "%y" not in form else "day_of_week")
        found = eval(code, {"pandas": pd, "X": pd.DataFrame({"a": values})})
        assert found.dropna().tolist() == getattr(dates.dt, part)[found.notna()].tolist()
    if form != "%Y-%m":
        some = [*dates.dt.strftime(form)[:30], "unknown", "unknown"]
        assert "'a' holds dates as strings, and 2 strings such as 'unknown'" in fault_of(some)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2020-01-02", "2020-01-03 10:00", "2020-01-04T11:30:00"], [3, 4, 5]),
        (["2020-01-02 10:00:00", "2020-01-03 11:00:00.125"], [10, 11]),
        (["2020-01-02 10:00+01:00", "2020-07-03 11:00+02:00"], [9, 9]),
        (["2020-01-02", "2020/01/03", "2020-1-4"], [3, 4, 5]),
        (["13.01.2020", "14.1.2020"], [0, 1]),
        (["January 02, 2020", "Jan 03 2020"], [3, 4]),
        (["Jan 02 2020", "Sept 02 2020"], [3, 2]),
        (["2020-01-02", "2020-02-30"], [3, None]),
        (["2020-01-02", "2020-01-03 10:00", "2020-02-30"], [3, 4, None]),
        ([" 02.01.20", "03.01.20"], [3, 4]),
        (["01/13/20 ", " 01/14/20 07:30"], [0, 1]),
        ([" 2020-01-02 ", "2020-01-03"], [3, 4]),
        (["01:00 PM", "11:30 AM", "12:10 am"], [13, 11, 0]),
        (["1:00:00PM", "11:30:05AM"], [13, 11]),
        (["01:00 PM", "11:30 AM", "15:10"], [13, 11, 15]),
    ],
    ids=str,
)
def test_dates_and_times_that_are_not_written_alike_have_remedies_that_work(values, expected):
    message = fault_of(values)
    assert "; if they are labels, pass categorical=['a']" in message
    assert fault_of(values, categorical=["a"]) is None
    code = re.search(r"pandas\.to_datetime.*?\.dt\.\w+", message)[0]
    found = eval(code, {"pandas": pd, "X": pd.DataFrame({"a": values})})
    assert [None if np.isnan(part) else part for part in found] == expected
    assert ("errors='coerce'" in code) == (None in expected)


@pytest.mark.parametrize("at", [0, 12])
def test_no_date_is_lost_beside_strings_that_are_none(at):
    values = [f"2020-01-{day:02}{' 10:00' * (day % 2)}" for day in range(1, 20)]
    values.insert(at, "unknown")
    message = fault_of([*values, "2020-02-30"])
    assert ", and 2 strings such as '2020-02-30': take" in message
    code = re.search(r"pandas\.to_datetime.*?\)", message)[0]
    found = eval(code, {"pandas": pd, "X": pd.DataFrame({"a": [*values, "2020-02-30"]})})
    assert found.dropna().dt.day.tolist() == list(range(1, 20))


def test_days_and_months_that_may_be_swapped_are_told():
    for values in (["01/02/2015", "03/04/2015"], ["01-02-2015"], ["01/02/15", "03/04/15"]):
        how = re.search(r"\(or by (.*?), if the day comes first\)", fault_of(values))[1]
        form = "%d/%m/%y" if len(values[0]) == 8 else f"%d{values[0][2]}%m{values[0][2]}%Y"
        found = eval(f"pandas.to_datetime({values}, {how})", {"pandas": pd})
        assert found.tolist() == pd.to_datetime(values, format=form).tolist()
    for values in (["01/13/2015", "03/04/2015"], ["13/01/2015", "03/04/2015"], ["01.02.2015"], ["01/13/15"]):
        assert "if the day comes first" not in fault_of(values)


def test_times_are_told_and_what_only_resembles_dates_is_not():
    times = pd.date_range("2020", periods=50, freq="31min").strftime("%H:%M").tolist()
    message = fault_of(times)
    assert "'a' holds times as strings: take a number from them, such as the hour" in message
    assert converted(message, times).tolist() == [int(time[:2]) for time in times]
    for labels in (["1.2.10", "1.10.3", "2.0.0"], ["12/7", "3/4"], ["2021-W01", "2021-W02"], ["May", "June"]):
        assert fault_of(labels * 20) is None
    assert fault_of(["2008/09", "2009/10", "2010/11"] * 20) is None  # seasons
    assert fault_of([f"{year}-{(year + 1) % 100:02}" for year in range(1995, 2012)]) is None
    assert fault_of([f"2020-{week:02}" for week in range(1, 21)]) is None
    assert "dates" in fault_of([f"{2005 + month // 12}-{1 + month % 12:02}" for month in range(80)])
    assert fault_of(["2020-01", "2020-02"] * 20, categorical=["a"]) is None
    clock = [datetime.time(7, 30), datetime.time(11, 5)]
    for column in (pl.Series("a", clock), pd.Series(clock), pd.Series(clock, dtype=pd.ArrowDtype(pa.time64("us")))):
        with pytest.raises(ValueError, match=r"'a' holds time.*: take a number from them, such as the hour") as error:
            Mixed.from_frame(
                pl.DataFrame({"a": column}) if isinstance(column, pl.Series) else pd.DataFrame({"a": column})
            )
        assert "month" not in str(error.value)
    for kind in (pd.Series(pd.to_datetime(["2020-01-01"] * 3)).dt.date, pd.period_range("2020", periods=3, freq="M")):
        assert fault_of(kind).count("take what repeats") == 2  # of the column, and of all
