"""Strings that hide numbers or dates: which they are, and the code that turns them into numbers."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["ADVICE_FOR_DATES", "TAKE", "disguise"]

# Strings that are no numbers may be among numbers, if as many different ones are, and most of all.
_ENOUGH = 10
_SAMPLE = 100  # labels, of all parts of a column, by which a form is tried on all others
_LONGEST = 64  # characters of a number, at most

# What is told of each column of dates, and once of all.
TAKE = "take what repeats, such as "
ADVICE_FOR_DATES = (
    "Of dates, take what repeats (the hour or the weekday, and the month if the rows cover whole years), or the time "
    "between two dates of a row, such as an age; what runs on, such as days since a fixed date, makes all later rows "
    "look unusual."
)


def disguise(name: Any, labels: Collection[str], values: Sequence[str]) -> str:
    """What a column of strings hides, and the remedy; nothing where its strings are labels.

    ``labels`` are the different ones of ``values``, in their order.
    """
    sample = list(labels)[:: max(1, len(labels) // _SAMPLE)]
    return _dates(name, labels, values, sample) or _numbers(name, labels, values, sample)


def _told(others: set[str], values: Sequence[str]) -> str:
    """The strings that are not like the rest."""
    if not others:
        return ""
    n, example = sum(value in others for value in values), min(others)
    return f", and {n:,} string{'s' if n > 1 else ''} such as {example!r}"


def _few(others: set[str], labels: Collection[str]) -> bool:
    """Whether strings of another form are the exception."""
    n = len(labels) - len(others)
    return not others or (n >= _ENOUGH and n > len(others))


# ---------------------------------------------------------------------------------------------- dates

_DAY, _MONTH, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:1[5-9]|2[0-9])[0-9]{2}"
_NAME = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
_SHORT = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_CLOCK = r"(?:[01]?[0-9]|2[0-4]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,9})?)?(?:\s?[ap]m)?"
_TIME = rf"(?:(?:t|,?\s){_CLOCK}(?:\s?(?:z|utc|gmt|[+-][0-9]{{2}}(?::?[0-9]{{2}})?))?)?"
_LATE_DAY, _DAY_FIRST = "(?:0[1-9]|[12][0-9]|3[01])", ", dayfirst=True"
# Forms of dates, and how pandas.to_datetime(X[name]...) reads them. Where two fit, the first one counts.
_DATES = [
    (re.compile(form + _TIME, re.IGNORECASE), rest)
    for form, rest in (
        (rf"{_YEAR}([-/.]){_MONTH}\1{_DAY}", ""),
        (f"{_YEAR}(?:0[1-9]|1[0-2]){_LATE_DAY}", ""),
        (f"{_YEAR}[-/]{_MONTH}", ""),
        (rf"{_DAY}\.{_MONTH}\.{_YEAR}", _DAY_FIRST),
        (rf"{_MONTH}([-/.]){_DAY}\1{_YEAR}", ""),
        (rf"{_DAY}([-/]){_MONTH}\1{_YEAR}", _DAY_FIRST),
        (rf"{_LATE_DAY}\.(?:0[1-9]|1[0-2])\.[0-9]{{2}}", ".str[:8], format='%d.%m.%y'"),
        (f"(?:0[1-9]|1[0-2])/{_LATE_DAY}/[0-9]{{2}}", ".str[:8], format='%m/%d/%y'"),
        (f"{_LATE_DAY}/(?:0[1-9]|1[0-2])/[0-9]{{2}}", ".str[:8], format='%d/%m/%y'"),
        (f"{_LATE_DAY}-{_SHORT}-[0-9]{{2}}", ".str[:9], format='%d-%b-%y'"),
        (rf"{_DAY}(?:[-/ ]|\. ?){_NAME}[-/ ]{_YEAR}", ""),
        (rf"{_NAME} {_DAY},? {_YEAR}", ""),
    )
]
_MONTHS = _DATES[2][0]
_HOURS = re.compile(_CLOCK, re.IGNORECASE)


def _dates(name: Any, labels: Collection[str], values: Sequence[str], sample: list[str]) -> str:
    sample = [label.strip() for label in sample]
    fits = [(sum(map(bool, map(form.fullmatch, sample))), form, rest) for form, rest in [*_DATES, (_HOURS, "")]]
    # The sample may fit two orders of day and month: the second is tried if the first does not fit all values.
    best = [(form, rest) for n, form, rest in fits if 2 * n > len(sample) and n == max(n for n, *_ in fits)]
    for form, rest in best:
        others = {label for label in labels if not form.fullmatch(label.strip())}
        if not _few(others, labels):
            continue
        lenient = ", errors='coerce'" if others else ""
        if form is _HOURS:
            code = f", as by pandas.to_numeric(X[{name!r}].str.split(':').str[0]{lenient})"
            return f"holds times as strings{_told(others, values)}: take a number from them, such as the hour{code}"
        whole = ":" in sample[0] and ".str[" not in rest  # the time is read, too
        part = "month" if form is _MONTHS else "hour" if whole else "day_of_week"
        code = f"pandas.to_datetime(X[{name!r}]{rest}{lenient}).dt.{part}"
        return f"holds dates as strings{_told(others, values)}: {TAKE}{code}"
    return ""


# -------------------------------------------------------------------------------------------- numbers

_CURRENCY = (
    "[$€£¥₹₩₽₺₪]|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HUF|ILS|INR|JPY|KRW|MXN|NOK|NZD|PLN|RON|RUB|SEK|SGD|TRY|USD|ZAR"
)
_NUMBER = re.compile(
    # Each part that repeats follows one that is no option, so that what does not match is found out in one pass.
    rf"""(?:[+-]\s*)?(?:(?P<before>{_CURRENCY})\s*)?[+-]?(?:
      (?P<plain>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf)
    | (?P<either>[1-9][0-9]{{0,2}},[0-9]{{3}})          # a thousands separator, or a decimal comma
    | (?P<comma>[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?)
    | (?P<grouped>[0-9]{{1,3}}(?P<separator>[.,'\u2019 \u00a0\u202f])[0-9]{{3}}(?:(?P=separator)[0-9]{{3}})*
        (?:(?!(?P=separator))(?P<point>[.,])[0-9]*)?)
    )(?:\s*(?P<after>[%‰]|{_CURRENCY}))?""",
    re.VERBOSE,
)


def _number(label: str) -> re.Match[str] | None:
    """What a string is as a number; None where it is none."""
    label = label.strip()
    return _NUMBER.fullmatch(label) if len(label) <= _LONGEST else None


_ONES = str.maketrans("023456789", "1" * 9)


def _shape(label: str) -> str:
    """A string with all digits alike, as many numbers have few shapes; a 0 before a comma stays."""
    shape = label.translate(_ONES)
    return shape.replace("1,", "0,", 1) if label.startswith(("0,", "-0,")) else shape


def _are_plain(labels: Collection[str]) -> bool:
    """Whether all strings are numbers as they are: the usual case, found fast."""
    try:
        return set("".join(labels)) <= set("0123456789.+-eE") and all(map(math.isfinite, map(float, labels)))
    except ValueError:
        return False


def _numbers(name: Any, labels: Collection[str], values: Sequence[str], sample: list[str]) -> str:
    """Remedy for strings that are numbers, all or most of them."""
    if 3 * sum(map(bool, map(_number, sample))) < len(sample):
        return ""
    shapes = dict.fromkeys(labels, "1") if _are_plain(labels) else {label: _shape(label) for label in labels}
    found = {shape: _number(shape) for shape in set(shapes.values())}
    matches = [match for match in found.values() if match]
    others = {label for label, shape in shapes.items() if not found[shape]} if len(matches) < len(found) else set()
    if not matches or not _few(others - {"nan", "NaN"}, labels):
        return ""
    parts = {part: {match[part] for match in matches if match[part]} for part in _NUMBER.groupindex}
    signs, separators = sorted(parts["before"] | parts["after"]), parts["separator"]
    commas = bool(parts["comma"] or "," in parts["point"] or (parts["either"] and "." in separators))
    if parts["either"] and not commas:
        separators = separators | {","}
    if len(separators & {",", "."}) > 1 or ("," in separators and commas):
        return ""  # notations that contradict each other
    points = "." not in separators and any("." in number for number in parts["plain"] | parts["point"])

    kinds = [repr(sign) for sign in signs[:3]]
    if separators:
        example = min(x for x, shape in shapes.items() if found[shape] and any(one in x.strip() for one in separators))
        kinds.append(f"thousands separators such as in {example!r}")
    if commas:
        kinds.append("decimal commas in some rows and points in others" if points else "decimal commas")
    what = f"numbers with {' and '.join(kinds)}" if kinds else "numbers" if others else "numbers as strings"
    code = _code(name, [shape for shape, match in found.items() if match], [*signs, *sorted(separators)], commas)
    if others:
        code = f"{code[:-1]}, errors='coerce')"
    file = "" if signs or (commas and points) else _reading(separators, commas, others)
    doubtful = parts["either"] and "," in separators and not (parts["separator"] or points)
    doubt = "; if its comma is a decimal one, by decimal=','" if doubtful else ""
    return (
        f"holds {what}{_told(others, values)}: {file}convert them by {code}{doubt}; if they are labels, pass "
        f"categorical=[{name!r}]"
    )


def _reading(separators: set[str], commas: bool, others: set[str]) -> str:
    """How a file with such numbers is read; nothing where pandas has no option for it."""
    options = [f"thousands={separator!r}" for separator in separators]
    options += ["decimal=','"] * commas
    options += [f"na_values={sorted(others)[:3]!r}"] * bool(others)
    if not options or len(separators) > 1 or not "".join(separators).isascii():
        return ""
    alike = " if all columns are written so" if commas else ""
    return f"read them by pandas.read_csv(..., {', '.join(options)}){alike}, or "


def _code(name: Any, numbers: list[str], drop: list[str], commas: bool) -> str:
    """Code that makes numbers of strings, without the signs and separators to drop."""
    rest = numbers
    for part in drop:
        rest = [number.replace(part, "") for number in rest]
    if any(re.search(r"\s", number.strip(" ")) for number in rest):  # pandas takes spaces at the ends alone
        drop = [*drop, " "]
    text = f"X[{name!r}]"
    if len(drop) == 1 and drop != [" "]:
        text += f".str.replace({drop[0]!r}, '')"
    elif drop:
        patterns = [r"\s" if part.isspace() else re.escape(part) for part in drop]
        text += f".str.replace(r{'|'.join(dict.fromkeys(patterns))!r}, '', regex=True)".replace(r"\\", "\\")
    if commas:
        text += ".str.replace(',', '.')"
    return f"pandas.to_numeric({text})"
