"""The store in an S3 bucket, through boto3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.contracts.errors import NotReady
from service.contracts.settings import Settings
from service.contracts.store import Missing

ABSENT = {"404", "NoSuchKey", "NotFound"}


class S3Store:
    """Objects `prefix/key` of one bucket. Credentials are found the way boto3 finds them; the bucket must exist."""

    def __init__(self, settings: Settings, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region,
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"mode": "standard", "max_attempts": 4},
                request_checksum_calculation=settings.s3_checksums,
                response_checksum_validation=settings.s3_checksums,
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
                signature_version="s3v4",
            ),
        )

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        with _unavailable():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, ContentType=content_type)

    def get(self, key: str) -> bytes:
        with _unavailable():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    raise Missing(f"nothing is stored under {key}") from None
                raise
            data: bytes = answer["Body"].read()
            return data

    def delete(self, key: str) -> None:
        with _unavailable():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def keys(self, prefix: str) -> Iterator[str]:
        with _unavailable():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix)

    def url(self, key: str, seconds: int) -> str | None:
        with _unavailable():
            address: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self._prefix + key}, ExpiresIn=seconds
            )
            return address


@contextmanager
def _unavailable() -> Iterator[None]:
    """Say of a network failure, or of an answer that is no success, that the store is away."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise NotReady(f"the store refused the request ({code}); try again", retry_after=5) from error
    except BotoCoreError as error:
        raise NotReady("the store cannot be reached; try again", retry_after=5) from error
