"""Fields of instants, for single integers and for NumPy arrays alike: only floor division, remainder and comparison.

The calendar is the proleptic Gregorian one in UTC. Year, month and day from a day count follow Howard Hinnant, "chrono-compatible
low-level date algorithms" (civil_from_days), which counts years from March so that the leap day comes last.
"""

from __future__ import annotations

from typing import Any

SECOND = 1_000_000
DAY = 86_400 * SECOND


def field(name: str, days: Any, time_of_day: Any) -> Any:
    """Return a field of an instant.

    Args:
        name: One of year, quarter, month, week (ISO), day, doy, dow (Sunday 0), isodow (Monday 1), hour, minute, second.
        days: Whole days since 1970-01-01, as an integer or an int64 array.
        time_of_day: Microseconds since midnight, likewise.

    >>> [field(name, 15_000, 3_600_000_000) for name in ("year", "month", "day", "isodow", "hour")]
    [2011, 1, 26, 3, 1]
    """
    clock = {"hour": 3600 * SECOND, "minute": 60 * SECOND, "second": SECOND}
    if name in clock:
        return time_of_day // clock[name] % (24 if name == "hour" else 60)
    if name == "dow":
        return (days + 4) % 7
    if name == "isodow":
        return (days + 3) % 7 + 1
    if name == "week":
        thursday = days - (days + 3) % 7 + 3
        return (_day_of_year(thursday) - 1) // 7 + 1
    if name == "doy":
        return _day_of_year(days)
    year, month, day = _civil(days)
    return {"year": year, "quarter": (month + 2) // 3, "month": month, "day": day}[name]


def epoch(instant: Any) -> Any:
    """Return seconds since 1970, for microseconds since 1970.

    Milliseconds and the rest are divided apart, as DuckDB does it: one division would differ in the last bit.

    >>> epoch(1_500_000)
    1.5
    """
    return instant // 1000 / 1e3 + instant % 1000 / 1e6


def _civil(days: Any) -> tuple[Any, Any, Any]:
    shifted = days + 719_468  # days since 0000-03-01
    era, day_of_era = shifted // 146_097, shifted % 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    month = (march_month + 2) % 12 + 1
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * march_month + 2) // 5 + 1


def _day_of_year(days: Any) -> Any:
    year, _, _ = _civil(days)
    before = year - 1
    first_of_january = 365 * before + before // 4 - before // 100 + before // 400 - 719_162
    return days - first_of_january + 1
