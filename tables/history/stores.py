"""The store of a place: of a folder or of a bucket."""

from __future__ import annotations

import duckdb

from tables.history.datasets import DATASETS
from tables.history.duck import open_duck
from tables.history.folder import dataset_folder
from tables.history.objects import DatasetObjects
from tables.history.place import Bucket, Place
from tables.history.store import DatasetStore


def dataset_store(place: Place, namespace: str, dataset: str) -> DatasetStore:
    """Files of a dataset. Namespaces share the place and nothing in it."""
    if isinstance(place, Bucket):
        return DatasetObjects(place, namespace, DATASETS[dataset])
    return dataset_folder(place, namespace, dataset)


def reading_duck(place: Place, threads: int) -> duckdb.DuckDBPyConnection:
    """A database for questions to all datasets of a place."""
    return open_duck(None if isinstance(place, Bucket) else place, threads=threads)
