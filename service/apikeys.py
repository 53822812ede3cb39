"""An API key: how it is written, and what is kept of it.

A key reads `imz_{id}_{secret}`, hexadecimal both; `imz_[0-9a-f]{12}_[0-9a-f]{64}` finds those that leaked. What is kept
is the id and the secret's SHA-256: nobody guesses 256 random bits, so a slow hash would only slow the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Scope = Literal["submit", "read", "cancel", "delete", "metrics", "admin"]
State = Literal["valid", "expired", "revoked"]
SCOPES: dict[Scope, str] = {
    "submit": "send pictures, and webhooks once more",
    "read": "see jobs, results and the catalog",
    "cancel": "cancel jobs",
    "delete": "delete jobs",
    "metrics": "read /metrics, which are of the whole deployment",
    "admin": "all of these",
}
DEFAULT_SCOPES: tuple[Scope, ...] = ("submit", "read", "cancel", "delete")
TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
KEY = re.compile(r"imz_([0-9a-f]{12})_([0-9a-f]{64})")
NOBODY = hashlib.sha256(b"").hexdigest()  # of no secret: ours are never empty
assert set(SCOPES) == set(get_args(Scope))

TenantName = Annotated[str, Field(pattern=f"^{TENANT.pattern}$")]


class ApiKey(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    tenant: TenantName
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    scopes: tuple[Scope, ...]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, at: datetime) -> State:
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires is None or at < self.expires else "expired"


class TenantLimits(BaseModel):
    """A tenant's own limits. None: as the settings say; 0: any number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName
    rate: Annotated[float | None, Field(ge=0, le=100_000)] = None
    daily: Annotated[int | None, Field(ge=0, le=10**12)] = None
    waiting: Annotated[int | None, Field(ge=0, le=10**12)] = None

    def limits(self) -> dict[str, Any]:
        """Those that are its own."""
        return self.model_dump(exclude={"tenant"}, exclude_none=True)


def new_key(tenant: str, scopes: tuple[Scope, ...], created: datetime, expires: datetime | None) -> tuple[ApiKey, str]:
    """What to keep of a new key, and the key, which is nowhere else."""
    name, secret = secrets.token_hex(6), secrets.token_hex(32)
    kept = ApiKey(key=name, tenant=tenant, sha256=_digest(secret), scopes=scopes, created=created, expires=expires)
    return kept, f"imz_{name}_{secret}"


def key_id(text: str) -> str | None:
    """The id within something that is written like a key."""
    found = KEY.fullmatch(text)
    return found[1] if found else None


def matches(text: str, kept: ApiKey | None) -> bool:
    """Whether that is the key of which this is kept. Takes as long where nothing is kept."""
    digest = _digest(text[-64:])
    return hmac.compare_digest(digest, NOBODY if kept is None else kept.sha256) and kept is not None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
