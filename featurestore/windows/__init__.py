"""The exact fold of sliding windows: one code for training and serving, so that both give the same bits.

The window of length w at the time t holds the events in ``(t - w, t]``. Which events are visible is the caller's: by the time from
which they are known, by their order of acceptance, or both. Versions of one event (equal identity) count once, by the greatest visible
(created, seq). Every result depends on the set of visible events alone:

* a filter leaves out events for which it is not true; of versions, it is the one that counts that has to pass
* sums of doubles are exact and rounded once, like `math.fsum`; sums of integers are exact, and an error where they leave int64
* mean = rounded exact sum / count; stddev (sample) = sqrt(exact sum of the rounded squares (v - mean)^2 / (count - 1))
* first and last go by (event time, created, seq), and a null is a value there; everywhere else nulls are left out
* with n, first lists the first n values, the first of them first, and last the last n values, the last of them first
* -0.0 is 0.0; a NaN makes sum, mean, min, max and stddev NaN; a sum beyond the range of doubles is infinite
* all NaN are one distinct value; texts and binaries are ordered by their bytes

`columns` has the shapes, `filters` says which events pass, `kernels` has the compiled loops, `fold` puts them together. `stored` has
the loops over events as the online store keeps them, which add and round with those of `kernels`, and `packing` those that write them.
"""

from featurestore.windows.columns import Events, WindowColumn, WindowLists
from featurestore.windows.filters import filter_name, filters_of, passing
from featurestore.windows.fold import columns_read, compile_kernels, fold_windows, has_events

__all__ = [
    "Events",
    "WindowColumn",
    "WindowLists",
    "columns_read",
    "compile_kernels",
    "filter_name",
    "filters_of",
    "fold_windows",
    "has_events",
    "passing",
]
