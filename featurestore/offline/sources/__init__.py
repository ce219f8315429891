"""Reading a view's source: Parquet, CSV, Arrow, Delta, PostgreSQL, or SQL over any of them; streamed, strict, and nothing else in reach."""

from featurestore.offline.sources.query import Limits
from featurestore.offline.sources.reader import SourceReader

__all__ = ["Limits", "SourceReader"]
