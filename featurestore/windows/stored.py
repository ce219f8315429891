"""The compiled loops over stored events: which parts of them a read needs, and the fold of those.

Sums are those of `kernels`, and the columns of events those of `packing`, whose files Numba's cache does not watch for us.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.compiling import compiled, forget_older
from featurestore.types import INT64_MAX, INT64_MIN
from featurestore.windows import kernels, packing
from featurestore.windows.kernels import (
    DIGITS,
    HIGHEST,
    INFINITY_IMAGE,
    LOWEST,
    MAGNITUDE,
    NAN_IMAGE,
    NANS,
    NEGATIVE,
    POSITIVE,
    Int64Array,
    add_value,
    clear_sum,
    image_of,
    inlined,
    ordered_image,
    rounded_sum,
    whole_sum,
)
from featurestore.windows.packing import EVENT

UInt64Array = npt.NDArray[np.uint64]
UInt8Array = npt.NDArray[np.uint8]

forget_older(__file__, kernels.__file__, packing.__file__)

# --- blocks of stored events: what an entity's root and pages hold ---------------------------------------------------------------------
#
# A block is a head of HEAD words, a table of tiles, a table of events. A table is its number of rows, its size in words, a bit for each
# column that is not all zeros, for each of those two words (its smallest value; where its data begin, and how many bits each value has
# above that), and the data. So every value is found at once, and a column of one value costs nothing for each row.

SIZE, FORM, BELOW, OLDEST_PAGE, NEWEST_EVENT, HEAD = range(6)
BLOCK_FORM = 0x1057_4E44_0001

PAGE, FIRST_EVENT, LAST_EVENT, TILE_HEAD = range(4)
PASSED, COUNTED, SMALLEST, GREATEST, NEWEST, NEWEST_NULL, OLDEST, OLDEST_NULL, FIELDS = range(9)
TILE_FIELDS = FIELDS + 3 + DIGITS  # the last ones are how many NaN and infinities there are, and the digits of the sum
_SPECIALS = (NANS, POSITIVE, NEGATIVE)

EVENTS, TILES, PAGES = range(3)
OWNER, LEVEL, KIND, AT, START, STOP, PIECE = range(7)

INTEGERS, FLOATS, TEXTS = range(3)
COUNT, SUM, MEAN, MIN, MAX, FIRST, LAST = range(7)

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_BASE, _WIDTH, _DATA = range(3)


class Folded(NamedTuple):
    """What is asked of stored events.

    Attributes:
        windows: The distinct windows, the narrowest first; microseconds.
        groups: int64[groups, 5]; a group is a column and a filter: its number in tiles, the columns of images, of nulls and of the
            filter among those of events (-1 for none), and INTEGERS, FLOATS or TEXTS.
        asked: int64[aggregates, 6]: number of the window, by which they are sorted, of the group, function, and where in a row the
            value, the byte and the bit that say that it is null lie.
        event_columns: How many columns events have.
        tile_columns: How many columns tiles have.
    """

    windows: Int64Array
    groups: Int64Array
    asked: Int64Array
    event_columns: int
    tile_columns: int


class _State(NamedTuple):
    """What is known of each group, from the newest event on.

    Attributes:
        fields: int64[groups, FIELDS].
        digits: Sums.
        span: What is known of them.
        rounding: Room for one sum.
    """

    fields: Int64Array
    digits: Int64Array
    span: Int64Array
    rounding: Int64Array


@compiled
def _word(words: UInt64Array, at: int) -> Any:
    return np.int64(words[at])


@inlined
def _bits(words: UInt64Array, bit: int, width: int) -> Any:
    word, shift = bit >> 6, np.uint64(bit & 63)
    value = words[word] >> shift
    if (bit & 63) + width > 64:
        value |= words[word + 1] << (np.uint64(64) - shift)
    return np.int64(value & (_ALL >> np.uint64(64 - width)))


@compiled
def _value(words: UInt64Array, where: Int64Array, column: int, row: int) -> Any:
    width = where[column, _WIDTH]
    if width == 0:
        return where[column, _BASE]
    return where[column, _BASE] + _bits(words, where[column, _DATA] + row * width, width)


@compiled
def _locate(words: UInt64Array, at: int, columns: int, first: int, where: Int64Array) -> Any:
    """Look up where the first so many of a table's columns lie; return how many rows it has."""
    for column in range(first):
        where[column, _BASE] = where[column, _WIDTH] = 0
    rows = _word(words, at)
    if rows == 0:
        return rows
    entry = at + 2 + ((columns + 63) >> 6)
    for block in range((first + 63) >> 6):
        present, column = words[at + 2 + block], block << 6
        while present and column < first:
            if present & np.uint64(1):
                place = _word(words, entry + 1)
                where[column, _BASE], where[column, _WIDTH] = _word(words, entry), place & 0xFF
                where[column, _DATA] = (at + (place >> 8)) << 6
                entry += 2
            present >>= np.uint64(1)
            column += 1
    return rows


@compiled
def _lower_edge(t: int, window: int) -> Any:
    """Return the last instant before a window; no event is as early as the first instant of all."""
    return t - window if t >= INT64_MIN + window else INT64_MIN


@compiled
def _check_block(words: UInt64Array, at: int) -> None:
    """Raise ValueError where no block begins, or its tables do not lie in it: nothing is read beyond its end."""
    if at + HEAD + 4 > len(words) or words[at + FORM] != np.uint64(BLOCK_FORM):
        raise ValueError
    size, events = _word(words, at), HEAD + _word(words, at + HEAD + 1)
    if size > len(words) - at or events < HEAD + 2 or events > size - 2:
        raise ValueError
    if _word(words, at + events + 1) < 2 or _word(words, at + events + 1) > size - events:
        raise ValueError


@compiled
def block_starts(words: UInt64Array, blocks: int) -> Int64Array:
    """Return where each of some blocks begins that lie one after the other; raises ValueError where one is none."""
    starts, at = np.empty(blocks, np.int64), 0
    for block in range(blocks):
        _check_block(words, at)
        starts[block] = at
        at += _word(words, at)
    if at != len(words):
        raise ValueError
    return starts


# --- which parts of them a read needs


@compiled
def open_roots(
    words: UInt64Array, roots: int, t: int, windows: Int64Array, every: bool, columns: int
) -> tuple[Int64Array, int]:
    """Return the pieces of some roots, and how many of them stand for a page; see `_open`."""
    room, at = 0, 0
    for _ in range(roots):
        room += _room(words, at, windows, every)
        at += _word(words, at)
    if at != len(words):
        raise ValueError
    pieces, where = np.empty((room, PIECE), np.int64), np.empty((TILE_HEAD, 3), np.int64)
    at = count = 0
    for owner in range(roots):
        count = _open(words, at, owner, 0, t, windows, every, columns, where, pieces, count)
        at += _word(words, at)
    return pieces[:count], _pages_wanted(pieces, count)


@compiled
def open_pages(
    pieces: Int64Array, words: UInt64Array, first: int, t: int, windows: Int64Array, every: bool, columns: int
) -> tuple[Int64Array, int]:
    """Return the pieces with what pages hold in the places where these were asked for, and how many stand for a page now.

    Args:
        pieces: From `open_roots`, or from here.
        words: All pages so far, those that were asked for last at the end.
        first: Where these begin.
        t: As in `open_roots`.
        windows: Likewise.
        every: Likewise.
        columns: Likewise.
    """
    room, at = len(pieces), first
    while at < len(words):
        room += _room(words, at, windows, every)
        at += _word(words, at)
    opened, where = np.empty((room, PIECE), np.int64), np.empty((TILE_HEAD, 3), np.int64)
    at, count = first, 0
    for piece in range(len(pieces)):
        if pieces[piece, KIND] == PAGES:
            level = pieces[piece, LEVEL]
            count = _open(words, at, pieces[piece, OWNER], level, t, windows, every, columns, where, opened, count)
            at += _word(words, at)
        else:
            opened[count] = pieces[piece]
            count += 1
    return opened[:count], _pages_wanted(opened, count)


@compiled
def _pages_wanted(pieces: Int64Array, count: int) -> int:
    wanted = 0
    for piece in range(count):
        wanted += pieces[piece, KIND] == PAGES
    return wanted


@compiled
def _room(words: UInt64Array, at: int, windows: Int64Array, every: bool) -> Any:
    """Return how many pieces a block can have at most: an edge of a window cuts one tile; raises ValueError for what is no block."""
    _check_block(words, at)
    tiles = _word(words, at + HEAD)
    return 2 + (tiles if every else 2 * min(tiles, len(windows) + 1))


@compiled
def _open(
    words: UInt64Array,
    at: int,
    owner: int,
    level: int,
    t: int,
    windows: Int64Array,
    every: bool,
    columns: int,
    where: Int64Array,
    pieces: Int64Array,
    count: int,
) -> int:
    """Write the pieces of a block that windows reach, the newest first; return how many pieces there are then.

    Its events are one, as are tiles next to each other of which each lies inside a window or outside. A tile that is cut by an edge is
    one by itself, which stands for the page below it. With `every`, each tile is.
    """
    tiles = at + HEAD
    events = tiles + _word(words, tiles + 1)
    if words[events]:
        _put_piece(pieces, count, owner, level, EVENTS, events, 0, _word(words, events))
        count += 1
    if not words[tiles]:
        return count
    rows = _locate(words, tiles, columns, TILE_HEAD, where)
    window, stop, start = 0, rows, rows
    while start > 0:
        row = start - 1
        first, last = _value(words, where, FIRST_EVENT, row), _value(words, where, LAST_EVENT, row)
        if first > t:  # so is every tile before it in this loop
            start = stop = row
            continue
        while window < len(windows) and last <= _lower_edge(t, windows[window]):
            window += 1
        if window == len(windows):
            break
        if every or last > t or first <= _lower_edge(t, windows[window]):
            if stop > start:
                _put_piece(pieces, count, owner, level, TILES, tiles, start, stop)
                count += 1
            _put_piece(pieces, count, owner, level + 1, PAGES, _value(words, where, PAGE, row), 0, 0)
            count += 1
            stop = row
        start = row
    if stop > start:
        _put_piece(pieces, count, owner, level, TILES, tiles, start, stop)
        count += 1
    return count


@compiled
def _put_piece(pieces: Int64Array, n: int, owner: int, level: int, kind: int, at: int, start: int, stop: int) -> None:
    pieces[n, OWNER], pieces[n, LEVEL], pieces[n, KIND] = owner, level, kind
    pieces[n, AT], pieces[n, START], pieces[n, STOP] = at, start, stop


# --- the fold of stored events


@compiled
def fold_pieces(  # noqa: C901 - one loop over what is sorted by read, time and window
    pieces: Int64Array, roots: UInt64Array, pages: UInt64Array, reads: int, t: int, folded: Folded, rows: UInt8Array
) -> bool:
    """Write the answers of each read into its row; say whether each sum fits its type.

    The pieces of an entity come from the newest to the oldest. So do its events, and at the lower edge of a window they are what it holds.
    """
    stride = len(rows) // max(reads, 1)
    state = _new_state(len(folded.groups))
    where = np.empty((max(folded.event_columns, folded.tile_columns), 3), np.int64)
    piece, fits = 0, True
    for read in range(reads):
        if read:
            _clear_state(state)
        window = asked = 0
        while piece < len(pieces) and pieces[piece, OWNER] == read:
            if window < len(folded.windows):
                words = pages if pieces[piece, LEVEL] else roots
                is_events = pieces[piece, KIND] == EVENTS
                columns = folded.event_columns if is_events else folded.tile_columns
                _locate(words, pieces[piece, AT], columns, columns, where)
                time = EVENT if is_events else LAST_EVENT
                start, stop = pieces[piece, START], pieces[piece, STOP]
                if is_events:
                    stop = _first_row_after(words, where, EVENT, start, stop, t)
                while window < len(folded.windows):
                    edge = _lower_edge(t, folded.windows[window])
                    begin = _first_row_after(words, where, time, start, stop, edge)
                    if begin < stop:
                        for group in range(len(folded.groups)):
                            if is_events:
                                _add_events(words, where, begin, stop, folded.groups, state, group)
                            else:
                                _add_tiles(words, where, begin, stop, folded.groups[group, 0], state, group)
                    if begin == start:
                        break
                    asked, fits = _answer(folded, asked, window, state, rows, read * stride, fits)
                    window, stop = window + 1, begin
            piece += 1
        while window < len(folded.windows):
            asked, fits = _answer(folded, asked, window, state, rows, read * stride, fits)
            window += 1
    return fits


@compiled
def _first_row_after(words: UInt64Array, where: Int64Array, column: int, start: int, stop: int, time: int) -> int:
    """Return the first row in [start, stop) with a time after the given one, or stop."""
    base, width, data = where[column, _BASE], where[column, _WIDTH], where[column, _DATA]
    if width == 0:
        return start if base > time else stop
    while start < stop:
        middle = (start + stop) >> 1
        if base + _bits(words, data + middle * width, width) <= time:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def _new_state(groups: int) -> _State:
    span = np.zeros((groups, 5), np.int64)
    span[:, LOWEST], span[:, HIGHEST] = DIGITS, -1
    fields = np.zeros((groups, FIELDS), np.int64)
    fields[:, SMALLEST], fields[:, GREATEST] = INT64_MAX, INT64_MIN
    return _State(fields, np.zeros((groups, DIGITS), np.int64), span, np.zeros(DIGITS, np.int64))


@compiled
def _clear_state(state: _State) -> None:
    for group in range(len(state.span)):
        for field in range(FIELDS):
            state.fields[group, field] = 0
        state.fields[group, SMALLEST], state.fields[group, GREATEST] = INT64_MAX, INT64_MIN
        clear_sum(state.digits[group], state.span[group])


@compiled
def _add_events(
    words: UInt64Array, where: Int64Array, start: int, stop: int, groups: Int64Array, state: _State, group: int
) -> None:
    """Add the events from `start` to `stop`, the last one first; what is touched for each of them are plain numbers."""
    column, nulls, passes, kind = groups[group, 1], groups[group, 2], groups[group, 3], groups[group, 4]
    fields, digits, span, floats = state.fields[group], state.digits[group], state.span[group], kind == FLOATS
    base, width, data = where[column, _BASE], where[column, _WIDTH], where[column, _DATA]
    has_nulls = where[nulls, _WIDTH] != 0 or where[nulls, _BASE] != 0
    passed, counted, smallest, greatest = fields[PASSED], fields[COUNTED], fields[SMALLEST], fields[GREATEST]
    oldest = -1
    for row in range(stop - 1, start - 1, -1):
        if passes >= 0 and _value(words, where, passes, row) == 0:
            continue
        image = base
        if width:
            image += _bits(words, data + row * width, width)
        oldest = row
        if passed == 0:
            fields[NEWEST], fields[NEWEST_NULL] = image, _value(words, where, nulls, row)
        passed += 1
        if has_nulls and _value(words, where, nulls, row):
            continue
        counted += 1
        if kind == TEXTS:
            continue
        add_value(digits, span, image, 1, floats)
        if not floats or image & MAGNITUDE <= INFINITY_IMAGE:
            ordered = ordered_image(image, floats)
            smallest, greatest = min(smallest, ordered), max(greatest, ordered)
    fields[PASSED], fields[COUNTED], fields[SMALLEST], fields[GREATEST] = passed, counted, smallest, greatest
    if oldest >= 0:
        fields[OLDEST], fields[OLDEST_NULL] = _value(words, where, column, oldest), _value(words, where, nulls, oldest)


@compiled
def _add_tiles(
    words: UInt64Array, where: Int64Array, start: int, stop: int, group: int, state: _State, number: int
) -> None:
    """Add the tiles from `start` to `stop`, a column after the other; one without values has the extremes of none."""
    first = TILE_HEAD + group * TILE_FIELDS
    fields, digits, span = state.fields[number], state.digits[number], state.span[number]
    oldest, newest = start, stop - 1
    while newest >= start and _value(words, where, first + PASSED, newest) == 0:
        newest -= 1
    if newest < start:
        return
    while _value(words, where, first + PASSED, oldest) == 0:
        oldest += 1
    if fields[PASSED] == 0:
        fields[NEWEST] = _value(words, where, first + NEWEST, newest)
        fields[NEWEST_NULL] = _value(words, where, first + NEWEST_NULL, newest)
    fields[OLDEST] = _value(words, where, first + OLDEST, oldest)
    fields[OLDEST_NULL] = _value(words, where, first + OLDEST_NULL, oldest)
    fields[PASSED] += _total(words, where, first + PASSED, start, stop)
    fields[COUNTED] += _total(words, where, first + COUNTED, start, stop)
    fields[SMALLEST] = min(fields[SMALLEST], _least(words, where, first + SMALLEST, start, stop))
    fields[GREATEST] = max(fields[GREATEST], _most(words, where, first + GREATEST, start, stop))
    for special in range(3):
        span[_SPECIALS[special]] += _total(words, where, first + FIELDS + special, start, stop)
    for digit in range(DIGITS):
        column = first + FIELDS + 3 + digit
        if where[column, _WIDTH] or where[column, _BASE]:
            digits[digit] += _total(words, where, column, start, stop)
            span[LOWEST], span[HIGHEST] = min(span[LOWEST], digit), max(span[HIGHEST], digit + 1)


@compiled
def _total(words: UInt64Array, where: Int64Array, column: int, start: int, stop: int) -> Any:
    """Return the sum of a column over some rows."""
    width, total = where[column, _WIDTH], where[column, _BASE] * (stop - start)
    if width:
        for row in range(start, stop):
            total += _bits(words, where[column, _DATA] + row * width, width)
    return total


@compiled
def _least(words: UInt64Array, where: Int64Array, column: int, start: int, stop: int) -> Any:
    least = np.int64(INT64_MAX)
    for row in range(start, stop):
        least = min(least, _value(words, where, column, row))
    return least


@compiled
def _most(words: UInt64Array, where: Int64Array, column: int, start: int, stop: int) -> Any:
    most = np.int64(INT64_MIN)
    for row in range(start, stop):
        most = max(most, _value(words, where, column, row))
    return most


@compiled
def _answer(
    folded: Folded, asked: int, window: int, state: _State, rows: UInt8Array, row: int, fits: bool
) -> tuple[int, bool]:
    """Write what is asked of a window; return the number of what is asked next, and whether every sum fits."""
    plan, fields, total_of, total = folded.asked, state.fields, -1, 0.0
    while asked < len(plan) and plan[asked, 0] == window:
        group, function = plan[asked, 1], plan[asked, 2]
        floats, counted = folded.groups[group, 4] == FLOATS, fields[group, COUNTED]
        value, valid = counted, counted > 0
        if function == COUNT:
            valid = True
        elif function == SUM and not floats:
            value, beyond = whole_sum(state.digits[group])
            fits = fits and not beyond
        elif function in (SUM, MEAN):
            if total_of != group:
                total_of, total = group, rounded_sum(state.digits[group], state.span[group], state.rounding)
            value = image_of(total if function == SUM else total / max(counted, 1) + 0.0)
        elif function in (MIN, MAX):
            value = ordered_image(fields[group, SMALLEST if function == MIN else GREATEST], floats)
            if state.span[group, NANS]:
                value = np.int64(NAN_IMAGE)
        else:
            value = fields[group, OLDEST if function == FIRST else NEWEST]
            is_null = fields[group, OLDEST_NULL if function == FIRST else NEWEST_NULL]
            valid = fields[group, PASSED] > 0 and is_null == 0
        if valid:
            _store(rows, row + plan[asked, 3], value)
        else:
            rows[row + plan[asked, 4]] |= np.uint8(plan[asked, 5])
        asked += 1
    return asked, fits


@inlined
def _store(rows: UInt8Array, at: int, value: int) -> None:
    """Write 8 bytes, little-endian."""
    bits, place = np.uint64(value), np.uint64(at)
    for byte in range(8):
        rows[place + np.uint64(byte)] = np.uint8((bits >> np.uint64(8 * byte)) & np.uint64(0xFF))


# --- tables as arrays: int64[columns, rows], with the rows of table n from starts[n] to starts[n + 1]


@compiled
def unpack_tables(words: UInt64Array, blocks: int, events: bool, columns: int) -> tuple[Int64Array, Int64Array]:
    """Return the columns of the tiles or of the events of some blocks that lie one after the other."""
    starts, tables = np.zeros(blocks + 1, np.int64), np.empty(blocks, np.int64)
    at = 0
    for block in range(blocks):
        tables[block] = at + HEAD + (_word(words, at + HEAD + 1) if events else 0)
        starts[block + 1] = starts[block] + np.int64(words[tables[block]])
        at += _word(words, at)
    found, where = np.empty((columns, starts[blocks]), np.int64), np.empty((columns, 3), np.int64)
    for block in range(blocks):
        rows = _locate(words, tables[block], columns, columns, where)
        _unpack(words, where, 0, rows, found, starts[block])
    return found, starts


@compiled
def unpack_pieces(
    pieces: Int64Array,
    roots: UInt64Array,
    pages: UInt64Array,
    reads: int,
    columns: int,
) -> tuple[Int64Array, Int64Array]:
    """Return the columns of the events of some pieces, those of a read from the oldest to the newest."""
    starts = np.zeros(reads + 1, np.int64)
    for piece in range(len(pieces)):
        starts[pieces[piece, OWNER] + 1] += pieces[piece, STOP]
    for read in range(reads):
        starts[read + 1] += starts[read]
    found, where = np.empty((columns, starts[reads]), np.int64), np.empty((columns, 3), np.int64)
    ends = starts[1:].copy()
    for piece in range(len(pieces)):
        owner, words = pieces[piece, OWNER], pages if pieces[piece, LEVEL] else roots
        rows = _locate(words, pieces[piece, AT], columns, columns, where)
        ends[owner] -= rows
        _unpack(words, where, 0, rows, found, ends[owner])
    return found, starts


@compiled
def _unpack(words: UInt64Array, where: Int64Array, start: int, stop: int, found: Int64Array, at: int) -> None:
    for column in range(len(found)):
        if where[column, _WIDTH] == 0:
            found[column, at : at + stop - start] = where[column, _BASE]
        else:
            for row in range(start, stop):
                found[column, at + row - start] = _value(words, where, column, row)


@compiled
def tiles_of(
    words: UInt64Array, numbers: Int64Array, groups: Int64Array, event_columns: int, tile_columns: int
) -> Int64Array:
    """Return the tile of each of some pages that lie one after the other, each of which has events or tiles: int64[columns, pages]."""
    found = np.zeros((tile_columns, len(numbers)), np.int64)
    state, where = _new_state(len(groups)), np.empty((max(event_columns, tile_columns), 3), np.int64)
    at = 0
    for page in range(len(numbers)):
        _clear_state(state)
        tiles = at + HEAD
        rows = _locate(words, tiles, tile_columns, tile_columns, where)
        is_leaf = rows == 0
        if is_leaf:
            rows = _locate(words, tiles + _word(words, tiles + 1), event_columns, event_columns, where)
        found[PAGE, page] = numbers[page]
        found[FIRST_EVENT, page] = _value(words, where, EVENT if is_leaf else FIRST_EVENT, 0)
        found[LAST_EVENT, page] = _value(words, where, EVENT if is_leaf else LAST_EVENT, rows - 1)
        for group in range(len(groups)):
            if is_leaf:
                _add_events(words, where, 0, rows, groups, state, group)
            else:
                _add_tiles(words, where, 0, rows, groups[group, 0], state, group)
            _put_tile(found[:, page], TILE_HEAD + groups[group, 0] * TILE_FIELDS, state, group)
        at += _word(words, at)
    return found


@compiled
def _put_tile(tile: Int64Array, first: int, state: _State, group: int) -> None:
    tile[first : first + FIELDS] = state.fields[group]
    for special in range(3):
        tile[first + FIELDS + special] = state.span[group, _SPECIALS[special]]
    tile[first + FIELDS + 3 : first + TILE_FIELDS] = state.digits[group]
