"""Parquet files under modular encryption (AES_GCM_V1, encrypted footer), one data key a column.

Each file has fresh keys of its own, made by Arrow and kept in the file, wrapped under the data keys of the
key ring: one for the footer and one for each column. Without a column's data key its bytes, its statistics
and its dictionary are ciphertext; without the footer's even the names of the columns are.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.errors import CustodyError

_NONCE_BYTES = 12


class _HeldKeys(pe.KmsClient):  # type: ignore[misc]
    """Wraps a file's keys under the data keys that were released, and under no other.

    Control: what is not in ``keys`` cannot be asked for, so a mistake in choosing columns ends in an error
    instead of in data outside the permit. Test:
    ``tests/unit/data/test_view.py::test_no_key_outside_the_permit_is_asked_for``.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        super().__init__()
        self._keys = keys

    def _cipher(self, key_id: str) -> AESGCM:
        try:
            return AESGCM(self._keys[key_id])
        except KeyError:
            raise CustodyError(f"the key '{key_id}' was not released") from None

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher(master_key_identifier).encrypt(nonce, key_bytes, master_key_identifier.encode())
        return base64.b64encode(nonce + sealed).decode()

    def unwrap_key(self, wrapped_key: str | bytes, master_key_identifier: str) -> bytes:
        try:
            sealed = base64.b64decode(wrapped_key, validate=True)
            return self._cipher(master_key_identifier).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], master_key_identifier.encode()
            )
        except (InvalidTag, ValueError) as error:
            raise CustodyError(f"the key '{master_key_identifier}' does not open this file") from error


def _factory(keys: Mapping[str, bytes]) -> pe.CryptoFactory:
    return pe.CryptoFactory(lambda _: _HeldKeys(keys))


class SealedWriter:
    """Writes row groups to a new file, never a clear byte."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        footer_key_id: str,
        column_key_ids: Mapping[str, str],
        keys: Mapping[str, bytes],
        dictionary: list[str],
        _encrypted: bool = True,
    ) -> None:
        """Open ``path``, which must not exist.

        Args:
            path: where to write.
            schema: columns and types.
            footer_key_id: key id of the footer.
            column_key_ids: key id of each column, by name.
            keys: data keys by key id.
            dictionary: columns with few distinct values.
            _encrypted: False only in tests that show that the scan for clear bytes finds them.
        """
        assert set(column_key_ids) == set(schema.names)  # noqa: S101 - a column without a key would be in clear
        self._factory = _factory(keys)
        properties = self._factory.file_encryption_properties(
            pe.KmsConnectionConfig(),
            pe.EncryptionConfiguration(
                footer_key=footer_key_id,
                column_keys={key_id: [name] for name, key_id in column_key_ids.items()},
                encryption_algorithm="AES_GCM_V1",
                plaintext_footer=False,
                double_wrapping=False,
                internal_key_material=True,
                data_key_length_bits=256,
            ),
        )
        self._path = path
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression="lz4",
            use_dictionary=dictionary,
            write_statistics=False,
            encryption_properties=properties if _encrypted else None,
        )

    def write(self, table: pa.Table) -> None:
        """Append one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> None:
        """Write the footer and make the file durable."""
        self._writer.close()
        self._file.close()
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())

    def abort(self) -> None:
        """Let go of the file without finishing it; its owner removes it."""
        self._writer.is_open = False  # or it would write a footer when it is collected
        self._file.close()


class SealedFile:
    """A file opened with the keys that were released for it."""

    def __init__(self, path: Path, keys: Mapping[str, bytes], read_dictionary: list[str]) -> None:
        """Open ``path``.

        Raises:
            CustodyError: a key does not open it, or it was altered.
        """
        self._path = path
        self._factory = _factory(keys)  # must outlive the file: it unwraps keys as columns are read
        properties = self._factory.file_decryption_properties(pe.KmsConnectionConfig(), pe.DecryptionConfiguration())
        try:
            self._file = pq.ParquetFile(
                path, decryption_properties=properties, read_dictionary=read_dictionary, memory_map=True
            )
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CustodyError(f"{path.name} cannot be opened: it was altered, or is not there") from error

    @property
    def schema(self) -> pa.Schema:
        """Columns, types and metadata, as authenticated by the footer's key."""
        return self._file.schema_arrow

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return int(self._file.num_row_groups)

    def group_rows(self, group: int) -> int:
        """Number of rows in a row group."""
        return int(self._file.metadata.row_group(group).num_rows)

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Decrypt some columns of one row group.

        Raises:
            CustodyError: a column's key was not released, or its bytes were altered.
        """
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=True)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CustodyError(f"{self._path.name} cannot be decrypted: it was altered") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
