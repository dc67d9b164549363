"""Amounts as people write them: ``2ms``, ``4GB``, ``20M``, ``97%``; and how they are shown again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from matryoshka2d.errors import UserError

_AMOUNT = re.compile(r"\s*([0-9][0-9_,']*(?:\.[0-9]+)?|\.[0-9]+)\s*([a-zA-Zµμ%/]*)\s*")

_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_BYTES = {
    "b": 1.0,
    **{f"{prefix}{end}": 1e3 ** (i + 1) for i, prefix in enumerate("kmgt") for end in ("", "b")},
    **{f"{prefix}i{end}": 1024.0 ** (i + 1) for i, prefix in enumerate("kmgt") for end in ("", "b")},
}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "mio": 1e6, "b": 1e9, "g": 1e9}
_RATES = {"": 1.0, "/s": 1.0, "texts/s": 1.0, "k": 1e3, "k/s": 1e3}


def read_seconds(value: str | float, label: str = "a time") -> float:
    """Return seconds: a number is seconds already, a text needs its unit.

    >>> read_seconds("2ms"), read_seconds("1.5 s"), read_seconds(0.002)
    (0.002, 1.5, 0.002)
    """
    return _read(value, label, _SECONDS, "a time with its unit, as 2ms or 0.5s")


def read_bytes(value: str | float, label: str = "an amount of memory") -> float:
    """Return bytes: a number is bytes already, a text needs its unit; ``GB`` is 10^9, ``GiB`` 2^30.

    >>> read_bytes("4GB"), read_bytes("4 GiB"), read_bytes("512m")
    (4000000000.0, 4294967296.0, 512000000.0)
    """
    return _read(value, label, _BYTES, "bytes with their unit, as 4GB, 512MB or 2GiB")


def read_count(value: str | float, label: str = "a number") -> float:
    """Return a number of things: ``20M`` is twenty million, ``1.5B`` one and a half billion.

    >>> read_count("20M"), read_count("1_500"), read_count("20,000")
    (20000000.0, 1500.0, 20000.0)
    """
    return _read(value, label, _COUNTS, "a number, as 20M or 150000")


def read_rate(value: str | float, label: str = "a throughput") -> float:
    """Return texts a second.

    >>> read_rate("500"), read_rate("1.5k/s")
    (500.0, 1500.0)
    """
    return _read(value, label, _RATES, "texts a second, as 500 or 500/s")


def read_share(value: str | float, label: str = "a share") -> float:
    """Return a share between 0 and 1; a text without ``%`` is percent if it is above 1.

    >>> read_share("97%"), read_share("97"), read_share("0.97"), read_share(0.97)
    (0.97, 0.97, 0.97, 0.97)
    """
    expected = "a share of the full size's quality above 0% and up to 100%, as 97%"
    share = _read(value, label, {"": 1.0, "%": 0.01}, expected)
    percent = isinstance(value, str) and "%" not in value and share > 1
    share = round(share / 100 if percent else share, 12)
    if share > 1:
        raise UserError(f"{label} is {value}: expected {expected}")
    return share


def _read(value: str | float, label: str, units: Mapping[str, float], expected: str) -> float:
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        # An upper-case M is a million or mega, never milli; times are written in lower case.
        unit = match[2].lower() if match else ""
        if match is None or unit not in units:
            raise UserError(f"{label} is '{value}': expected {expected}")
        number = float(re.sub(r"[_,']", "", match[1])) * units[unit]
    elif isinstance(value, bool):
        raise UserError(f"{label} is {value}: expected {expected}")
    else:
        number = float(value)
    if not 0 < number < math.inf:
        raise UserError(f"{label} is {value}: expected {expected}, above 0")
    return number


# --- showing ------------------------------------------------------------------------------------------


def show_seconds(seconds: float) -> str:
    """Return a time with three digits.

    >>> show_seconds(0.00203), show_seconds(1.5), show_seconds(4.2e-05)
    ('2.03 ms', '1.5 s', '42 µs')
    """
    if math.isnan(seconds):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{three_digits(seconds / scale)} {unit}"
    return f"{three_digits(seconds / 1e-6)} µs"


def show_bytes(amount: float) -> str:
    """Return bytes with three digits, in powers of a thousand.

    >>> show_bytes(2_560_000_000), show_bytes(128), show_bytes(1_000)
    ('2.56 GB', '128 B', '1 kB')
    """
    if math.isnan(amount):
        return "–"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= scale:
            return f"{three_digits(amount / scale)} {unit}"
    return f"{three_digits(amount)} B"


def show_rate(rate: float) -> str:
    """Return a throughput.

    >>> show_rate(1234.5)
    '1230/s'
    """
    return "–" if math.isnan(rate) else f"{three_digits(rate)}/s"


def show_count(count: float) -> str:
    """Return a number of things.

    >>> show_count(20_000_000), show_count(1500), show_count(12)
    ('20 M', '1500', '12')
    """
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if count >= scale:
            return f"{three_digits(count / scale)} {unit}"
    return three_digits(count) if count < 1000 else str(round(count))


def show_percent(share: float) -> str:
    """Return a share as percent with one decimal.

    >>> show_percent(0.9712)
    '97.1%'
    """
    return "–" if math.isnan(share) else f"{100 * share:.1f}%"


def three_digits(value: float) -> str:
    """Return a number with three digits and no zeros at the end.

    >>> three_digits(2.034), three_digits(1234.5), three_digits(0.5)
    ('2.03', '1230', '0.5')
    """
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
