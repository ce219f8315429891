"""Reading a file of definitions: the user's own Python, run as it is."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from featurestore.definitions.consumer import Consumer
from featurestore.definitions.entity import Entity
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureView
from featurestore.errors import DefinitionError, FeatureStoreError, NotFoundError

_KINDS = (Entity, FeatureView, OnDemandFeatureView, FeatureService, Consumer)


def load_definitions(path: Path) -> list[Any]:
    """Run a file and return the definitions that it leaves in its module, lists included, in order.

    Args:
        path: A Python file; it may import its neighbours.

    Raises:
        NotFoundError: There is no such file.
        DefinitionError: It does not run, with the line; or it defines nothing.
    """
    if not path.is_file():
        raise NotFoundError.of("file", str(path), [str(other) for other in path.parent.glob("*.py")])
    found = list({id(definition): definition for definition in _definitions(_run(path).values())}.values())
    if not found:
        raise DefinitionError("The file defines no entity, view, service or consumer.", place=str(path))
    return found


class _FreshLoader(SourceFileLoader):
    """Compiles the file as it is now: cached bytecode cannot tell two edits of one second and one size apart."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002  # as importlib asks for it
        return self.source_to_code(self.get_data(self.path), self.path)


def _run(path: Path) -> dict[str, Any]:
    name = "featurestore_definitions"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise DefinitionError("This is not a Python file.", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except FeatureStoreError as error:
        raise DefinitionError(error.message, place=_line(error, path), repair=error.repair) from error
    except SystemExit as error:
        raise DefinitionError(
            f"It exits with {error.code!r} instead of defining anything.",
            place=_line(error, path),
            repair='Take the exit out, or put it under `if __name__ == "__main__":`.',
        ) from error
    except (SyntaxError, ImportError, NameError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise DefinitionError(f"{type(error).__name__}: {error}.", place=_line(error, path)) from error
    finally:
        sys.path.remove(str(path.parent))
    return vars(module)


def _definitions(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, _KINDS):
            yield value
        elif isinstance(value, list | tuple):
            yield from _definitions(value)


def _line(error: BaseException, path: Path) -> str:
    """Return file:line of the definition that raised, the innermost frame in the file."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)
