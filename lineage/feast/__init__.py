"""Lineage for Feast: an untouched installation becomes a project that every `lineage` command answers about.

Feast itself is never imported here: its registry comes as JSON, written by the Python that Feast is installed in.
"""

from lineage.feast.document import FeastRegistry, read_feast
from lineage.feast.project import Imported, import_feast
from lineage.feast.reading import read_repository

__all__ = ["FeastRegistry", "Imported", "import_feast", "read_feast", "read_repository"]
