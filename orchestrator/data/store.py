"""The writing side of a folder of datasets: new versions come whole or not at all, and go with their keys.

A version is written in a hidden staging folder beside its place, made durable, renamed into place, and
becomes current when one small file is replaced. A writer that is killed leaves staging, which the next one
removes with the keys it had made. One writer a dataset at a time (a lock that the kernel lets go when the
process dies).
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

from orchestrator.data.manifest import (
    CURRENT,
    KEYS,
    MANIFEST,
    STAGING,
    Current,
    Keys,
    Manifest,
    check_name,
    column_key,
    footer_key,
    identifiers_key,
    read_current,
    read_part,
)
from orchestrator.data.schema import TableSchema
from orchestrator.errors import ConflictError, NotFoundError, UnavailableError
from orchestrator.keys import KeyRing
from orchestrator.keys.durable import publish_new, replace, sync_folder

BeforeKeys = Callable[[tuple[str, ...]], None]
"""Told the ids of keys before they are made, so that the audit log has them first."""


@dataclass(frozen=True)
class Staging:
    """A version in the making."""

    folder: Path
    dataset: str
    table: str
    version: int
    secret: bytes = b""
    keys: dict[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the encrypted file goes."""
        return self.folder / f"{self.table}.parquet"

    @property
    def footer_key(self) -> str:
        """Key id of the footer."""
        return footer_key(self.dataset, self.version, self.table)

    def column_key(self, name: str) -> str:
        """Key id of a column."""
        return column_key(self.dataset, self.version, self.table, name)


class DatasetStore:
    """Publishes and deletes datasets."""

    def __init__(self, folder: Path, ring: KeyRing) -> None:
        self._folder = folder
        self._ring = ring

    @contextmanager
    def staging(
        self, dataset: str, table: str, schema: TableSchema, before_keys: BeforeKeys
    ) -> Iterator[tuple[Staging, Callable[[int], None]]]:
        """A place to write the next version of a table, and the function that publishes it with its number of
        rows.

        Leaving without publishing, by an error or not, leaves nothing behind: no file, no key.

        Raises:
            ConflictError: another ingest of this dataset is running.
            UnavailableError: the disk is full or cannot be written.
        """
        with self._locked(dataset):
            folder = self._folder / dataset
            with _disk_errors(dataset):
                self._sweep(dataset)
                folder.mkdir(mode=0o755, exist_ok=True)
            current = read_current(folder)
            version = max(current.published, default=0) + 1
            staging = folder / f"{STAGING}{version}"
            published = False

            def publish(rows: int) -> None:
                nonlocal published
                manifest = Manifest(dataset=dataset, table=table, version=version, rows=rows, description=schema)
                publish_new(staging / MANIFEST, manifest.model_dump_json(indent=1).encode(), mode=0o644)
                staging.chmod(0o755)
                sync_folder(staging)
                staging.rename(folder / str(version))
                sync_folder(folder)
                following = Current(published=(*current.published, version), tables={**current.tables, table: version})
                replace(folder / CURRENT, following.model_dump_json(indent=1).encode(), mode=0o644)
                published = True

            try:
                with _disk_errors(dataset):
                    names = [column.name for column in schema.columns]
                    empty = Staging(staging, dataset, table, version)
                    yield self._fill(empty, names, before_keys), publish
            finally:
                if not published:
                    self._sweep(dataset)

    def delete(self, dataset: str) -> None:
        """Destroy every key of a dataset, then its files. Done twice, the second finds nothing.

        Raises:
            NotFoundError: there is no such dataset.
            ConflictError: an ingest of it is running.
        """
        check_name("dataset", dataset)
        with self._locked(dataset):
            folder = self._folder / dataset
            if not folder.is_dir():
                raise NotFoundError(f"there is no dataset '{dataset}'", hint="bulle dataset list")
            with _disk_errors(dataset):
                # from here on nothing is current; were we killed now, the next sweep would finish
                (folder / CURRENT).unlink(missing_ok=True)
                sync_folder(folder)
                self._sweep(dataset)

    def _fill(self, staging: Staging, columns: list[str], before_keys: BeforeKeys) -> Staging:
        """Make the folder and the keys of a new version."""
        key_ids = (staging.footer_key, *(staging.column_key(name) for name in columns))
        secret_id = identifiers_key(staging.dataset)
        new = key_ids if self._ring.exists(secret_id) else (secret_id, *key_ids)
        staging.folder.mkdir(mode=0o700)
        # the ids are on disk before the keys exist, so that no key can be left that nobody knows of
        publish_new(staging.folder / KEYS, Keys(key_ids=key_ids).model_dump_json(indent=1).encode())
        sync_folder(staging.folder.parent)
        before_keys(new)
        secret = self._ring.get_or_create(secret_id)
        return changed(staging, secret=secret, keys={key_id: self._ring.create(key_id) for key_id in key_ids})

    def _sweep(self, dataset: str) -> None:
        """Remove what was never published, keys first. The caller holds the lock, so nobody is writing it."""
        folder = self._folder / dataset
        if not folder.is_dir():
            return
        published = read_current(folder).published
        for path in folder.iterdir():
            if path.is_dir() and not (path.name.isdecimal() and int(path.name) in published):
                self._destroy(path)
        if not published:
            self._ring.destroy(identifiers_key(dataset))
            shutil.rmtree(folder)
            sync_folder(self._folder)

    def _destroy(self, folder: Path) -> None:
        if (folder / KEYS).exists():
            for key_id in read_part(Keys, folder / KEYS).key_ids:
                self._ring.destroy(key_id)
        shutil.rmtree(folder)

    @contextmanager
    def _locked(self, dataset: str) -> Iterator[None]:
        with _disk_errors(dataset):
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / f".{dataset}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(f"dataset '{dataset}' is being ingested or deleted by another process") from error
            yield
        finally:
            os.close(descriptor)


@contextmanager
def _disk_errors(dataset: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"dataset '{dataset}' cannot be written: {error.strerror or error}",
            hint="nothing of it was kept; make room or repair the disk, then ingest again",
        ) from error
