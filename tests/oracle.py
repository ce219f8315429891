"""The right answers, in plain Python: double loops over lists, no array, no SQL, no code of the package.

A row is a dict with the key columns, ``event`` and ``created`` (int microseconds, created may be None), ``seq``, and its values. A spine
row is a pair of the key (a tuple) and the time (int, or None).
"""

import math
from fractions import Fraction


def known_from(row, backfilled_until):
    if row["created"] is None or (backfilled_until is not None and row["event"] <= backfilled_until):
        return row["event"]
    return max(row["event"], row["created"])


def is_visible(row, t, knowledge, position, backfilled_until):
    if row["event"] > t:
        return False
    if knowledge == "as_known":
        return known_from(row, backfilled_until) <= t
    return knowledge == "latest" or row["seq"] <= position


def order(row):
    """Of two rows the one with the greater (event, created, seq) counts; a null created is the lowest."""
    return (row["event"], row["created"] is not None, row["created"] or 0, row["seq"])


def of_entity(rows, names, key, t):
    """The rows of a key, none for a null in the key or a null time."""
    if t is None or None in key:
        return []
    return [row for row in rows if tuple(row[name] for name in names) == key]


def join(spine, rows, names, *, ttl, knowledge, position, backfilled_until):
    """Return for each spine row (the row it gets or None, its status)."""
    answers = []
    for key, t in spine:
        up_to = [row for row in of_entity(rows, names, key, t) if row["event"] <= t]
        young = [row for row in up_to if ttl is None or t - row["event"] <= ttl]
        seen = [row for row in young if is_visible(row, t, knowledge, position, backfilled_until)]
        if seen:
            answers.append((max(seen, key=order), "matched"))
        elif young:
            answers.append((None, "not_yet_known"))
        else:
            answers.append((None, "expired" if up_to else "missing"))
    return answers


def fold(
    spine,
    rows,
    names,
    event_key,
    column,
    function,
    window,
    *,
    knowledge,
    position,
    backfilled_until,
    n=None,
    where=lambda row: True,
):
    """Return for each spine row the aggregate of its window; `where` says of a row True, False or None."""
    answers = []
    for key, t in spine:
        events = {}
        for row in of_entity(rows, names, key, t):
            if is_inside(row, t, window) and is_visible(row, t, knowledge, position, backfilled_until):
                identity = (row["event"], *(row[name] for name in event_key)) if event_key else row["seq"]
                if identity not in events or order(row) > order(events[identity]):
                    events[identity] = row
        counting = [row for row in sorted(events.values(), key=order) if where(row)]
        answers.append(aggregate([row[column] for row in counting], function, n))
    return answers


def is_inside(row, t, window):
    return t - window < row["event"] <= t


def aggregate(values, function, n=None):
    """Aggregate the values of the events in order; None where there is nothing to say."""
    if function in ("first", "last"):
        ends = [positive_zero(value) for value in (values if function == "first" else reversed(values))]
        return ends[:n] if n else next(iter(ends), None)
    values = [positive_zero(value) for value in values if value is not None]
    if function == "count":
        return len(values)
    if function == "count_distinct":
        return len({"nan" if value != value else value for value in values})
    if not values or (function == "stddev" and len(values) < 2):
        return None
    if function in ("min", "max"):
        return math.nan if any(value != value for value in values) else {"min": min, "max": max}[function](values)
    total = exact_sum(values)
    if function == "sum":
        return total
    mean = positive_zero(float(total) / len(values))
    if function == "mean":
        return mean
    squares = [(value - mean) * (value - mean) for value in map(float, values)]
    return math.sqrt(exact_sum(squares) / (len(values) - 1))


def exact_sum(values):
    """Whole numbers stay whole; doubles are summed exactly and rounded once."""
    if all(isinstance(value, int) for value in values):
        return sum(values)
    special = [value for value in values if not math.isfinite(value)]
    if special:
        return sum(special)
    try:
        return positive_zero(math.fsum(values))
    except OverflowError:  # math.fsum gives up where a partial sum leaves the range
        exact = sum(map(Fraction, values))
        try:
            return positive_zero(float(exact))
        except OverflowError:
            return math.inf if exact > 0 else -math.inf


def positive_zero(value):
    return 0.0 if isinstance(value, float) and value == 0 else value
