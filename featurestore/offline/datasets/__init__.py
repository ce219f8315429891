"""Datasets: training sets that are saved with all it takes to make them again, and to prove that they are the same."""

from featurestore.offline.datasets.diff import DatasetDiff, diff_datasets
from featurestore.offline.datasets.digest import table_digest
from featurestore.offline.datasets.manifest import Manifest
from featurestore.offline.datasets.rebuild import ColumnDifference, Rebuild
from featurestore.offline.datasets.saved import Dataset, delete_dataset, load_dataset, save_dataset

__all__ = [
    "ColumnDifference",
    "Dataset",
    "DatasetDiff",
    "Manifest",
    "Rebuild",
    "delete_dataset",
    "diff_datasets",
    "load_dataset",
    "save_dataset",
    "table_digest",
]
