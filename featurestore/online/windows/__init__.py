"""The events of a windowed view online: an entity's root, and pages below it; folded at the read into the same bits as in training.

    root    keyspace, 2-byte length and entity key
    page    the same, its level from 1 to 3, and its number: 8 bytes, big-endian with the sign bit flipped

A root or page is a block: events as columns of packed numbers, and a tile for each page below it, which says of a stretch of time what
aggregates need. A read gets the roots of all entities, takes whole the tiles that lie inside a window, and gets the pages of those that
an edge cuts. Of the versions of one event only the greatest (created, seq) is kept, so what is read depends on the set of accepted rows
alone. Filters are evaluated once, when an event is written. What no window can reach any more goes when its entity is written to;
`expired_pages` finds the rest.

`layout` says which columns there are, `blocks` what a block is, `events` goes from Arrow to blocks and on to the fold, `write` and `read`
do so, `expire` finds what is too old, and `compile` compiles all of it beforehand.
"""

from featurestore.online.windows.compile import compile_kernels
from featurestore.online.windows.expire import drop_expired, expired_pages
from featurestore.online.windows.layout import PageLayout, group_of, is_in_tiles
from featurestore.online.windows.read import events_of, gather
from featurestore.online.windows.write import put_events

__all__ = [
    "PageLayout",
    "compile_kernels",
    "drop_expired",
    "events_of",
    "expired_pages",
    "gather",
    "group_of",
    "is_in_tiles",
    "put_events",
]
