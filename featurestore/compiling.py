"""Compiled loops: one way to declare them, and one form of array to call them with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Array = TypeVar("Array", bound=npt.NDArray[Any])
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a plain loop with Numba at its first call; the code is kept on disk, and runs without the interpreter's lock."""
    return cast(Function, njit(cache=True, nogil=True)(function))


def forget_older(source: str, *called: str) -> None:
    """Drop what is kept on disk of a module's loops from before a module changed whose loops they call; Numba watches `source` alone.

    Args:
        source: The file of the module.
        called: The files of those that it calls.
    """
    changed = max(Path(file).stat().st_mtime for file in called)
    for index in (Path(source).parent / "__pycache__").glob(f"{Path(source).stem}.*.nbi"):
        with suppress(OSError):  # another process did the same, or may not be written by us
            if index.stat().st_mtime < changed:
                index.unlink()


def frozen(array: Array) -> Array:
    """Return a contiguous view that cannot be written: one form of array, so that each loop is compiled once.

    >>> frozen(np.arange(4)[::2]).flags.writeable
    False
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return cast(Array, view)
