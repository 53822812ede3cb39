"""Settings: environment variables with the prefix IMMUNIZE_, read once at start, all validated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.contracts.errors import BadField

PREFIX = "IMMUNIZE_"
SHORTEST_SECRET = 32  # letters


class Settings(BaseSettings):
    """Every setting of gateway and worker. `Settings()` reads the environment; see `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    redis_url: Annotated[str, Field(description="Redis: redis://, rediss:// or unix:// address")] = (
        "redis://127.0.0.1:6379/0"
    )
    store_url: Annotated[str, Field(description="store: file:///folder or s3://bucket/prefix")] = (
        "file:///var/lib/immunize"
    )
    s3_endpoint_url: Annotated[str | None, Field(description="address of an S3-compatible store; unset means AWS")] = (
        None
    )
    s3_region: Annotated[str | None, Field(description="region of the bucket")] = None
    s3_checksums: Annotated[
        Literal["when_required", "when_supported"],
        Field(description="when boto3 adds its own checksums; some stores only know when_required"),
    ] = "when_required"
    presign_seconds: Annotated[
        int, Field(ge=0, le=604800, description="life of a result's presigned URL; 0: send bytes")
    ] = 0
    models_file: Annotated[Path | None, Field(description="a models.toml that adds to the shipped one")] = None
    models_memory: Annotated[
        int | None, Field(ge=1, description="bytes that loaded models may fill; unset: half of the device's memory")
    ] = None
    max_upload_bytes: Annotated[int, Field(ge=1024, description="largest request body, in bytes")] = 64 * 2**20
    max_pixels: Annotated[int, Field(ge=1, le=170_000_000, description="largest picture, in pixels")] = 50_000_000
    api_keys_file: Annotated[
        Path | None, Field(description="API keys, by `immunize keys`; unset: only clients on this machine are served")
    ] = None
    allow_anonymous: Annotated[
        bool, Field(description="where there are no API keys: serve whoever comes, from anywhere")
    ] = False
    tenant_rate: Annotated[
        float, Field(ge=0, le=100_000, description="requests a second of one tenant; 0: any number")
    ] = 500.0
    tenant_daily: Annotated[
        int, Field(ge=0, le=10**12, description="pictures a day (UTC) taken of one tenant; 0: any number")
    ] = 1_000_000
    tenant_waiting: Annotated[
        int, Field(ge=0, le=10**12, description="jobs of one tenant that may wait; 0: any number")
    ] = 5000
    max_queue_depth: Annotated[int, Field(ge=1, description="jobs that may wait; more are answered 429")] = 10_000
    result_ttl: Annotated[
        int, Field(ge=60, description="seconds an ended job is kept; nothing is deleted yet, so it does nothing so far")
    ] = 86_400
    job_timeout: Annotated[int, Field(ge=1, description="seconds one job may run")] = 900
    attempts: Annotated[int, Field(ge=1, le=10, description="how often a job is begun before it is failed")] = 3
    batch_max: Annotated[
        int | None, Field(ge=1, le=256, description="pictures optimised together; unset: 8 on a GPU, 1 on a CPU")
    ] = None
    batch_wait_ms: Annotated[
        int, Field(ge=0, le=10_000, description="milliseconds a batch that is not full waits for company")
    ] = 50
    batch_pixels: Annotated[int, Field(ge=1, description="pixels of a batch, if it holds more than one picture")] = (
        8 * 2**20
    )
    bulk_share: Annotated[
        float, Field(ge=0, le=1, description="share of batches that bulk jobs may begin while interactive ones wait")
    ] = 0.2
    lease_seconds: Annotated[
        float, Field(ge=1, le=600, description="seconds after its last sign of life that a worker counts as dead")
    ] = 15.0
    drain_seconds: Annotated[
        float, Field(ge=0, le=86_400, description="seconds a worker that is told to stop has for its batch")
    ] = 30.0
    reconcile_seconds: Annotated[
        float, Field(gt=0, description="pause between two reconciliations of store and queue")
    ] = 15.0
    webhook_secret: Annotated[
        SecretStr | None,
        Field(description="what webhooks are signed with, see `openssl rand -hex 32`; to rotate: new,old; unset: none"),
    ] = None
    webhook_networks: Annotated[
        tuple[IPvAnyNetwork, ...],
        NoDecode,
        Field(description="private networks that webhooks may go to, and by http, like 10.1.0.0/16,fd12::/16"),
    ] = ()
    device: Annotated[str, Field(description="torch device of a worker: auto, cpu, cuda, cuda:1")] = "auto"
    c2pa_certificate: Annotated[
        Path | None, Field(description="PEM chain to sign results with; the gateway only asks whether it is set")
    ] = None
    c2pa_key: Annotated[Path | None, Field(description="its private key, PEM of PKCS#8; workers need it")] = None
    c2pa_algorithm: Annotated[
        Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"],
        Field(description="the key's algorithm"),
    ] = "es256"
    c2pa_timestamp_url: Annotated[str | None, Field(description="time-stamp server of signatures; unset: none")] = None
    metrics_port: Annotated[int, Field(ge=0, le=65535, description="port of a worker's own /metrics; 0: none")] = 9464

    @field_validator("store_url")
    @classmethod
    def _store_url(cls, value: str) -> str:
        if not value.startswith("file:///") and not (value.startswith("s3://") and urlsplit(value).netloc):
            raise ValueError("must be file:///folder or s3://bucket/prefix")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        try:
            urlsplit(value).port  # noqa: B018 - reading it is the check
        except ValueError:
            raise ValueError("its port is not a number from 0 to 65535") from None
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(each) < SHORTEST_SECRET for each in _listed(value.get_secret_value()) or [""]):
            raise ValueError(
                f"each secret must have {SHORTEST_SECRET} letters or more; make one with openssl rand -hex 32"
            )
        return value

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _webhook_networks(cls, value: object) -> object:
        return _listed(value) if isinstance(value, str) else value

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The operator's secrets, the newest first."""
        return () if self.webhook_secret is None else tuple(_listed(self.webhook_secret.get_secret_value()))


def _listed(text: str) -> list[str]:
    return text.replace(",", " ").split()


def load_settings() -> Settings:
    """Settings from the environment. A wrong value, or an IMMUNIZE_ name that does not exist, raises BadField.

    An unknown name is refused rather than ignored: whoever sets one believes that it does something.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise BadField(f"{unknown[0]}: no such setting; there are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise BadField(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


def describe() -> str:
    """The settings as text, a line each, for `--help`."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "none" if field.default in (None, ()) else field.default
        lines.append(f"  {PREFIX}{name.upper():<20} {field.description} (default {default})")
    return "\n".join(lines)
