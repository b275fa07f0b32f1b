"""A store elsewhere that speaks S3, as a place for backups. What it holds of us is ciphertext, and so is what it sees.

An object is there whole or not at all: its parts become one only in the last call, which a broken upload never makes.
It is made only where there is none of its name. Only the settings and the file that they name are read: no variable of
the environment, no file in a home, no service of a cloud gives credentials or another address.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from orchestrator.config import BackupStore, Settings
from orchestrator.errors import BulleError, ConflictError, InputError, SettingsError, UnavailableError
from orchestrator.keys.file import read_private
from orchestrator.terms import Value

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

SCHEME = "s3://"
#: bytes of the first parts; later ones are larger, so that 10 000 of them, which is all that S3 takes, hold 1.6 TiB
_PART = 16 << 20
_GROWS_EVERY = 500
_TRIES = 4

_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>[A-Za-z0-9!_.*'()/=+@,:-]*))?")


class Found(Value):
    """An object of a listing."""

    address: str
    size: int
    modified: datetime


class Store:
    """The store of the settings."""

    def __init__(self, settings: BackupStore) -> None:
        self._settings = settings
        self.client = _client(settings)

    def told(self, what: str, error: Exception) -> BulleError:
        """An error of the store in our words. Its own text is left out: it may repeat what was signed."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        address = self._settings.endpoint or f"the store in {self._settings.region}"
        if not isinstance(error, ClientError):
            return UnavailableError(f"{what}: {address} does not answer as it should ({type(error).__name__})")
        code = str(error.response.get("Error", {}).get("Code", ""))[:80]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return UnavailableError(f"{what}: there is no such bucket")
        if code in ("NoSuchKey", "404"):
            return InputError(f"{what} is not there")
        if status in (401, 403):
            return UnavailableError(
                f"{what}: {address} refuses the credentials ({code})", hint=f"see {self._settings.credentials_file}"
            )
        return UnavailableError(f"{what}: {address} answers {code or 'nothing'} ({status})")


def _client(settings: BackupStore) -> S3Client:
    import botocore.session  # noqa: PLC0415 - large, and wanted for a store alone
    from botocore.config import Config  # noqa: PLC0415

    # Stops: credentials or an address from somewhere else than the settings. Shown by tests/unit/moving/test_s3.py.
    known: dict[str, Any] = botocore.session.Session.SESSION_VARIABLES
    unread = {name: (None, None, *rest) for name, (_, _, *rest) in known.items()}
    session = botocore.session.Session(unread)
    for name in ("config_file", "credentials_file"):
        session.set_config_variable(name, os.devnull)
    session.set_config_variable("ignore_configured_endpoint_urls", True)
    key, secret, token = _credentials(settings)
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        # A store of one's own has seldom a name for each bucket.
        s3={"addressing_style": "path" if settings.endpoint else "virtual"},
        # Each part bears its MD5, which every store knows; these are newer than many.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=str(settings.ca_file) if settings.ca_file else True,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=config,
    )
    return cast("S3Client", client)


def _credentials(settings: BackupStore) -> tuple[str, str, str | None]:
    path = settings.credentials_file
    # Stops: credentials that other users of the machine read. Shown by tests/unit/moving/test_s3.py.
    text = read_private(path, "the store's credentials").decode(errors="replace")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text if text.lstrip().startswith(("[", "#", ";")) else f"[default]\n{text}")
        section = parser["default"]
        return (
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            section.get("aws_session_token"),
        )
    except (configparser.Error, KeyError) as error:
        # Without the error's text, which repeats lines of the file.
        raise SettingsError(
            f"{path} does not hold the store's credentials",
            hint="two lines: aws_access_key_id = …, aws_secret_access_key = …",
        ) from (None if isinstance(error, configparser.Error) else error)


def is_address(text: str) -> bool:
    """Whether ``text`` names a place in a store, not a file."""
    return text.startswith(SCHEME)


def _parsed(address: str) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(address)
    key = (match["key"] or "") if match else ""
    if match is None or key.startswith("/") or "//" in key or ".." in key.split("/"):
        raise InputError(f"'{address[:200]}' is not s3://bucket/prefix of plain letters")
    return match["bucket"], key


def open_store(settings: Settings) -> Store:
    """The store that the settings name. Raises SettingsError, CustodyError."""
    if settings.backup is None:
        raise SettingsError("the settings name no store", hint="give backup.credentials_file, and backup.endpoint")
    return Store(settings.backup)


class Folder:
    """A bucket, or what in it begins with a prefix."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._bucket, key = _parsed(address)
        self._prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        self._store = open_store(settings)

    def place(self, name: str) -> Object:
        """The object of that name in it."""
        return Object(self._store, self._bucket, self._prefix + name)

    def listed(self) -> list[Found]:
        """What is in it, oldest first. Raises UnavailableError."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        at = f"{SCHEME}{self._bucket}/"
        found: list[Found] = []
        try:
            for page in self._store.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                found += [
                    Found(address=at + one["Key"], size=one["Size"], modified=one["LastModified"])
                    for one in page.get("Contents", [])
                ]
        except (ClientError, BotoCoreError) as error:
            raise self._store.told(at + self._prefix, error) from error
        return sorted(found, key=lambda each: (each.modified, each.address))


def object_at(settings: Settings, address: str) -> Object:
    """The object at an address. Raises InputError, SettingsError, CustodyError."""
    bucket, key = _parsed(address)
    if not key or key.endswith("/"):
        raise InputError(f"{address} names no backup in it", hint=f"bulle backup list {address}")
    return Object(open_store(settings), bucket, key)


class Object:
    """One object: a :class:`orchestrator.moving.places.Place`."""

    def __init__(self, store: Store, bucket: str, key: str) -> None:
        self._store = store
        self._client = store.client
        self._at: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._address = f"{SCHEME}{bucket}/{key}"
        self._digest = ""

    def __str__(self) -> str:
        return self._address

    @property
    def name(self) -> str:
        """See :class:`orchestrator.moving.places.Place`."""
        return self._address.rpartition("/")[2]

    def sha256(self) -> str:
        """See :class:`orchestrator.moving.places.Place`."""
        return self._digest

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """See :class:`orchestrator.moving.places.Place`."""
        with self._told():
            upload = self._client.create_multipart_upload(**self._at, ContentType="application/octet-stream")
        out = _Upload(self, upload["UploadId"])
        try:
            yield cast(BinaryIO, out)
            out.finish()
        except BaseException:
            # Stops: half a backup that looks like one. Also where this call does not arrive, it is none: its parts
            # stay apart until the bucket's rule for unfinished uploads removes them.
            with suppress(Exception):
                self._client.abort_multipart_upload(**self._at, UploadId=out.id)
            if out.error is not None:
                raise out.error from None
            raise
        self._digest = out.digest.hexdigest()

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """See :class:`orchestrator.moving.places.Place`."""
        source = _Download(self)
        try:
            source.open()
            yield cast(BinaryIO, source)
        except BaseException:
            if source.error is not None:
                raise source.error from None
            raise
        finally:
            source.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except (ClientError, BotoCoreError, HTTPError, OSError) as error:
            raise self._store.told(self._address, error) from error

    def send(self, upload: str, number: int, data: bytes, md5: bytes) -> CompletedPartTypeDef:
        """Send one part of an upload."""
        with self._told():
            answer = self._client.upload_part(
                **self._at,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ContentMD5=base64.b64encode(md5).decode(),
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def complete(self, upload: str, parts: Sequence[CompletedPartTypeDef], size: int) -> None:
        """Make an object of the parts, unless there is one."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        told: dict[str, Any] = {**self._at, "UploadId": upload, "MultipartUpload": {"Parts": list(parts)}}
        try:
            try:
                # Stops: a backup over another. A store that does not know the condition has the random id in our
                # names.
                self._client.complete_multipart_upload(**told, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NotImplemented":
                    raise
                self._client.complete_multipart_upload(**told)
        except (ClientError, BotoCoreError) as error:
            response = error.response if isinstance(error, ClientError) else {}
            meta = response.get("ResponseMetadata", {})
            if meta.get("HTTPStatusCode") in (409, 412) and not meta.get("RetryAttempts"):
                raise ConflictError(f"{self._address} exists already") from error
            # Its answer may be what was lost, and the next try then finds that it is done.
            with suppress(Exception):
                if self._client.head_object(**self._at)["ContentLength"] == size:
                    return
            raise self._store.told(self._address, error) from error

    def get(self, start: int, etag: str | None) -> Any:
        """The object from a byte on, if it is still the one that was begun with."""
        more: dict[str, Any] = {} if etag is None else {"Range": f"bytes={start}-", "IfMatch": etag}
        return self._client.get_object(**self._at, **more)

    def told(self, error: Exception) -> BulleError:
        """An error of the store, said of this object."""
        return self._store.told(self._address, error)


class _Upload(io.RawIOBase):
    """Gathers what is written into parts and sends them. After an error each write fails."""

    def __init__(self, target: Object, upload: str) -> None:
        self.id = upload
        self.digest = hashlib.sha256()
        #: what went wrong: whoever encrypts into this tells only that something did
        self.error: BulleError | None = None
        self._target = target
        self._waiting = bytearray()
        self._parts: list[CompletedPartTypeDef] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is not None:
            raise self.error
        self._waiting += data
        if len(self._waiting) >= _PART * (1 + len(self._parts) // _GROWS_EVERY):
            self._send()
        return len(data)

    def finish(self) -> None:
        """Send the rest and make the object."""
        if self.error is not None:
            raise self.error
        if self._waiting or not self._parts:
            self._send()
        self._target.complete(self.id, self._parts, self._size)

    def _send(self) -> None:
        data = bytes(self._waiting)
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        try:
            self._parts.append(self._target.send(self.id, len(self._parts) + 1, data, md5))
        except BulleError as error:
            self.error = error
            raise
        self.digest.update(data)
        self._size += len(data)
        self._waiting.clear()


class _Download(io.RawIOBase):
    """Reads an object, and goes on where the connection broke. After an error each read fails."""

    def __init__(self, source: Object) -> None:
        self.error: BulleError | None = None
        self._source = source
        self._body: Any = None
        self._etag: str | None = None
        self._position = self._size = 0

    def readable(self) -> bool:
        return True

    def open(self) -> None:
        """Begin; an object that is not there is told here."""
        self._tried(self._open)

    def read(self, size: int = -1) -> bytes:
        def some() -> bytes:
            if self._position == self._size:
                return b""
            if self._body is None:
                self._open()
            data: bytes = self._body.read(None if size < 0 else size)
            return data

        data = self._tried(some)
        self._position += len(data)
        if not data and self._position < self._size:  # a store that ends without saying why
            self.error = UnavailableError(f"{self._source} is cut: {self._position} of {self._size} bytes came")
            raise self.error
        return data

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        super().close()

    def _open(self) -> bytes:
        answer = self._source.get(self._position, self._etag)
        if self._etag is None:
            self._etag, self._size = answer["ETag"], answer["ContentLength"]
        self._body = answer["Body"]
        return b""

    def _tried(self, step: Callable[[], bytes]) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        if self.error is not None:
            raise self.error
        for attempt in range(_TRIES):
            try:
                return step()
            except ClientError as error:
                # Stops: a backup that begins as one and ends as another, because it was replaced meanwhile.
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                    self.error = InputError(f"{self._source} was replaced while it was read")
                else:
                    self.error = self._source.told(error)
                raise self.error from error
            except (BotoCoreError, HTTPError, OSError) as error:
                self._body = None
                if attempt == _TRIES - 1:
                    self.error = self._source.told(error)
                    raise self.error from error
                time.sleep(2**attempt / 2)
        raise AssertionError("unreachable")
