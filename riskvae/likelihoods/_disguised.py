"""Strings that hide numbers or dates: which they are, and the code that turns them into numbers."""

import math
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["ADVICE_FOR_DATES", "TAKE", "disguise"]

# Strings that are no numbers may be among numbers, if as many different ones are, and most of all; and if they are few
# themselves, or a small share of the different ones.
_ENOUGH, _EXCEPTIONS, _SHARE = 10, 5, 0.1
_SAMPLE = 100  # labels, of all parts of a column, by which a form is tried on all others
_LONGEST = 64  # characters of a number, at most
_TRIED = 10_000  # labels on which code is tried, at most

_ARE_LABELS = "if they are labels, pass categorical=[{!r}]"
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
_LATE_DAY = "(?:0[1-9]|[12][0-9]|3[01])"


class _Reading(NamedTuple):
    """How pandas reads dates: pandas.to_datetime(X[name].str.strip().str[:first], **options)."""

    options: dict[str, Any]
    first: int | None = None  # characters that are read; None for all
    strip: bool = False

    def code(self, name: Any, **further: Any) -> str:
        options = [f", {key}={value!r}" for key, value in {**self.options, **further}.items()]
        cut = f".str[:{self.first}]" if self.first else ""
        return f"pandas.to_datetime(X[{name!r}]{'.str.strip()' * self.strip}{cut}{''.join(options)})"

    def variants(self) -> Iterator["_Reading"]:
        """It as it is, and others for dates that are not all written alike."""
        ways: list[dict[str, Any]] = [{}]
        if "format" not in self.options:
            ways += [{"format": "ISO8601"}] * (not self.options) + [{"format": "mixed"}]
            ways += [{**way, "utc": True} for way in ways]
        for strip in (False, True):
            yield from (self._replace(options=self.options | way, strip=strip) for way in ways)


_PLAIN, _DAY_FIRST = _Reading({}), _Reading({"dayfirst": True})
# Forms of dates, and how they are read. Where two fit, the first one counts.
_DATES = [
    (re.compile(form + _TIME, re.IGNORECASE), reading)
    for form, reading in (
        (rf"{_YEAR}([-/.]){_MONTH}\1{_DAY}", _PLAIN),
        (f"{_YEAR}(?:0[1-9]|1[0-2]){_LATE_DAY}", _PLAIN),
        (f"{_YEAR}[-/]{_MONTH}", _PLAIN),
        (rf"{_DAY}\.{_MONTH}\.{_YEAR}", _DAY_FIRST),
        (rf"{_MONTH}([-/.]){_DAY}\1{_YEAR}", _PLAIN),
        (rf"{_DAY}([-/]){_MONTH}\1{_YEAR}", _DAY_FIRST),
        (rf"{_LATE_DAY}\.(?:0[1-9]|1[0-2])\.[0-9]{{2}}", _Reading({"format": "%d.%m.%y"}, 8)),
        (f"(?:0[1-9]|1[0-2])/{_LATE_DAY}/[0-9]{{2}}", _Reading({"format": "%m/%d/%y"}, 8)),
        (f"{_LATE_DAY}/(?:0[1-9]|1[0-2])/[0-9]{{2}}", _Reading({"format": "%d/%m/%y"}, 8)),
        (f"{_LATE_DAY}-{_SHORT}-[0-9]{{2}}", _Reading({"format": "%d-%b-%y"}, 9)),
        (rf"{_DAY}(?:[-/ ]|\. ?){_NAME}[-/ ]{_YEAR}", _PLAIN),
        (rf"{_NAME} {_DAY},? {_YEAR}", _PLAIN),
    )
]
_MONTHS = _DATES[2][0]
_YEAR_AND_PART = re.compile(f"({_YEAR})[-/]([0-9]{{1,2}})")
_MOST, _SEVERAL = 0.9, 3  # labels that are seasons; parts that are no months
_HOURS = re.compile(_CLOCK, re.IGNORECASE)
# Forms with the month first, those with the day first, and how they are told.
_ORDERS = {
    _DATES[4][0]: (_DATES[5][0], "dayfirst=True"),
    _DATES[7][0]: (_DATES[8][0], "format='%d/%m/%y'"),
}


def _dates(name: Any, labels: Collection[str], values: Sequence[str], sample: list[str]) -> str:
    sample = [label.strip() for label in sample]
    forms = [*_DATES, (_HOURS, _PLAIN)]
    fits = [(sum(map(bool, map(form.fullmatch, sample))), form, reading) for form, reading in forms]
    # The sample may fit two orders of day and month: the second is tried if the first does not fit all values.
    best = [(form, reading) for n, form, reading in fits if 2 * n > len(sample) and n == max(n for n, *_ in fits)]
    for form, reading in best:
        others = _unlike(form, labels)
        if not _few(others, labels) or (form is _MONTHS and _are_no_months(labels)):
            continue
        what, take, part = "dates", TAKE, "month" if form is _MONTHS else "day_of_week"
        if form is _HOURS:
            what, take, part = "times", "take a number from them, such as the hour, as by ", "hour"
        elif not reading.first and all(":" in label for label in sample if form.fullmatch(label)):
            part = "hour"  # the time is read, too
        if form is _HOURS and not any(label[-1] in "mM" for label in sample):
            lenient = ", errors='coerce'" if others else ""
            code = f"pandas.to_numeric(X[{name!r}].str.split(':').str[0]{lenient})"
        else:
            readings = _of_halves(sample) if form is _HOURS else reading.variants()
            reading, unread = _first_that_reads(list(readings), labels, others)
            others |= unread
            code = f"{reading.code(name, **({'errors': 'coerce'} if others else {}))}.dt.{part}"
        day_first, how = _ORDERS.get(form, (None, ""))
        if day_first and _unlike(day_first, labels) <= others:
            code += f" (or by {how}, if the day comes first)"
        return f"holds {what} as strings{_told(others, values)}: {take}{code}; {_ARE_LABELS.format(name)}"
    return ""


def _unlike(form: re.Pattern[str], labels: Collection[str]) -> set[str]:
    """Labels of another form."""
    return {label for label in labels if not form.fullmatch(label.strip())}


def _are_no_months(labels: Collection[str]) -> bool:
    """Whether labels such as 2008-09 are seasons, from a year to the next one, or numbered further than months are."""
    pairs = [(int(match[1]), int(match[2])) for match in map(_YEAR_AND_PART.fullmatch, map(str.strip, labels)) if match]
    beyond = {part for _, part in pairs if not 1 <= part <= 12}
    seasons = sum((year + 1) % 100 == part for year, part in pairs)
    return seasons >= _MOST * len(pairs) or len(beyond) >= _SEVERAL


def _of_halves(sample: list[str]) -> Iterator[_Reading]:
    """How to read times with AM and PM, of which the sample has some."""
    longest = max((label for label in sample if label[-1:] in "mM"), key=len)
    form = f"%I:%M{':%S' * (longest.count(':') > 1)}{' ' * (' ' in longest)}%p"
    for strip in (False, True):
        yield from (_Reading({"format": how}, strip=strip) for how in (form, "mixed"))


def _first_that_reads(readings: list[_Reading], labels: Collection[str], others: set[str]) -> tuple[_Reading, set[str]]:
    """The first of some readings by which pandas reads all labels but others, or most, and which it does not read."""
    try:
        import pandas
    except ImportError:
        return readings[0], set()
    tried = list(labels)
    if len(tried) > _TRIED:  # of each length, and of all parts; the first label counts in pandas
        lengths = {len(label): label for label in tried}
        tried = list(dict.fromkeys([tried[0], *lengths.values(), *tried[:: 1 + len(tried) // _TRIED]]))
    found: list[tuple[_Reading, set[str]]] = []
    for reading in readings:
        column = pandas.Series(tried, dtype=object)
        column = column.str.strip() if reading.strip else column
        column = column.str[: reading.first] if reading.first else column
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", UserWarning)  # pandas guesses
                dates = pandas.to_datetime(column, errors="coerce", **reading.options)
        except (ValueError, TypeError, OverflowError, UserWarning):
            continue
        if dates.dtype.kind != "M":
            continue
        unread = {label for label, missing in zip(tried, dates.isna(), strict=True) if missing} - others
        found.append((reading, unread))
        if not unread:
            break
    return min(found, key=lambda one: len(one[1]), default=(readings[0], set()))


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

_MINUS = "\u2212"  # longer than a hyphen
_IN_PARENTHESES = re.compile(r"\(([^()+-]*)\)")  # as negative amounts in accounts


def _number(label: str) -> re.Match[str] | None:
    """What a string is as a number; None where it is none."""
    label = _IN_PARENTHESES.sub(r"-\1", label.strip().replace(_MINUS, "-"))
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


class _Notation(NamedTuple):
    """How the numbers of a column are written, beside digits."""

    numbers: list[str]  # their shapes
    signs: list[str]
    separators: set[str]  # of thousands
    commas: bool  # decimal ones
    points: bool
    doubtful: bool  # commas that may be decimal ones as well

    @classmethod
    def of(cls, matches: list[tuple[str, re.Match[str]]]) -> "_Notation | None":
        """That of some shapes, which are numbers; None if their notations contradict each other."""
        parts = {part: {match[part] for _, match in matches if match[part]} for part in _NUMBER.groupindex}
        separators = parts["separator"]
        commas = bool(parts["comma"] or "," in parts["point"] or (parts["either"] and "." in separators))
        if parts["either"] and not commas:
            separators = separators | {","}
        if len(separators & {",", "."}) > 1 or ("," in separators and commas):
            return None
        points = "." not in separators and any("." in number for number in parts["plain"] | parts["point"])
        doubtful = bool(parts["either"] and "," in separators and not (parts["separator"] or points))
        signs = sorted(parts["before"] | parts["after"])
        return cls([shape for shape, _ in matches], signs, separators, commas, points, doubtful)

    def has(self, sign: str) -> bool:
        """Whether some number has a sign."""
        return any(sign in number for number in self.numbers)

    def kinds(self, labels: Sequence[str]) -> str:
        """What is unusual about it, with examples out of its labels."""
        kinds = [repr(sign) for sign in self.signs[:3]]
        if self.has(_MINUS):
            kinds.append(f"{_MINUS!r} as minus sign")
        if self.has("("):
            kinds.append(f"negatives such as {min(label for label in labels if '(' in label)!r}")
        if self.separators:
            example = min(label for label in labels if any(one in label.strip() for one in self.separators))
            kinds.append(f"thousands separators such as in {example!r}")
        if self.commas:
            kinds.append("decimal commas in some rows and points in others" if self.points else "decimal commas")
        return " and ".join(kinds)

    def reading(self, others: set[str]) -> str:
        """How a file with such numbers is read; nothing where pandas has no option for it."""
        if self.signs or self.has(_MINUS) or self.has("(") or (self.commas and self.points):
            return ""
        options = [f"thousands={separator!r}" for separator in self.separators]
        options += ["decimal=','"] * self.commas
        options += [f"na_values={sorted(others)[:3]!r}"] * bool(others)
        if not options or len(self.separators) > 1 or not "".join(self.separators).isascii():
            return ""
        alike = " if all columns are written so" if self.commas else ""
        return f"read them by pandas.read_csv(..., {', '.join(options)}){alike}, or "

    def code(self, name: Any, others: set[str]) -> str:
        """Code that makes numbers of strings, without signs and separators."""
        drop = [*self.signs, *sorted(self.separators)]
        rest = self.numbers
        for part in drop:
            rest = [number.replace(part, "") for number in rest]
        if any(re.search(r"\s", number.strip(" ")) for number in rest):  # pandas takes spaces at the ends alone
            drop = [*drop, " "]
        text = f"X[{name!r}]"
        if self.has(_MINUS):
            text += f".str.replace({_MINUS!r}, '-')"
        if self.has("("):
            text += r".str.replace(r'\((.*)\)', r'-\1', regex=True)"
        if len(drop) == 1 and drop != [" "]:
            text += f".str.replace({drop[0]!r}, '')"
        elif drop:
            patterns = [r"\s" if part.isspace() else re.escape(part) for part in drop]
            text += f".str.replace(r{'|'.join(dict.fromkeys(patterns))!r}, '', regex=True)".replace(r"\\", "\\")
        if self.commas:
            text += ".str.replace(',', '.')"
        return f"pandas.to_numeric({text}{', errors=' + repr('coerce') if others else ''})"


def _numbers(name: Any, labels: Collection[str], values: Sequence[str], sample: list[str]) -> str:
    """Remedy for strings that are numbers, all or most of them."""
    if 3 * sum(map(bool, map(_number, sample))) < len(sample):
        return ""
    shapes = dict.fromkeys(labels, "1") if _are_plain(labels) else {label: _shape(label) for label in labels}
    found = {shape: _number(shape) for shape in set(shapes.values())}
    if all("(" in shape for shape, match in found.items() if match):
        return ""  # no negative amounts, but references or the like
    matches = [(shape, match) for shape, match in found.items() if match]
    others = {label for label, shape in shapes.items() if not found[shape]} if len(matches) < len(found) else set()
    unlike = others - {"nan", "NaN"}
    if not matches or not _few(unlike, labels) or len(unlike) > max(_EXCEPTIONS, _SHARE * len(labels)):
        return ""
    notation = _Notation.of(matches)
    if notation is None:
        return ""
    kinds = notation.kinds([label for label, shape in shapes.items() if found[shape]])
    what = f"numbers with {kinds}" if kinds else "numbers" if others else "numbers as strings"
    doubt = "; if its comma is a decimal one, by decimal=','" if notation.doubtful else ""
    return (
        f"holds {what}{_told(others, values)}: {notation.reading(others)}convert them by "
        f"{notation.code(name, others)}{doubt}; {_ARE_LABELS.format(name)}"
    )
