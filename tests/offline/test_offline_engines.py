"""Every engine follows the point-in-time rule: a new one is one more line in ENGINES."""

import oracle
import pytest

from featurestore.errors import NotFoundError
from featurestore.offline.engines import ENGINES, engine_of
from featurestore.testing.engines import EngineConformance


@pytest.mark.parametrize("engine", [engine_of(name) for name in ENGINES], ids=list(ENGINES))
class TestEngines(EngineConformance):
    oracle = oracle


def test_an_unknown_engine_is_an_error_that_says_the_nearest():
    with pytest.raises(NotFoundError, match=r"No engine 'duckbd'. Did you mean 'duckdb'\?"):
        engine_of("duckbd")
