"""A key file for tests, and gateways that use it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service import keyfile
from service.apikeys import DEFAULT_SCOPES, Scope, TenantLimits, new_key

SOMEWHERE = ("203.0.113.5", 50_000)  # a client that is not on this machine


class KeyFile:
    """Makes keys and limits, as `immunize keys` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with keyfile.changed(path):
            pass

    def key(
        self,
        tenant: str = "acme",
        scopes: tuple[Scope, ...] = DEFAULT_SCOPES,
        *,
        expired: bool = False,
        revoked: bool = False,
    ) -> str:
        now = datetime.now(UTC)
        kept, key = new_key(tenant, scopes, now, now - timedelta(seconds=1) if expired else now + timedelta(days=1))
        with keyfile.changed(self.path) as found:
            found.keys[kept.key] = kept.model_copy(update={"revoked": now if revoked else None})
        return key

    def revoke(self, key: str) -> None:
        name = key.split("_")[1]
        with keyfile.changed(self.path) as found:
            found.keys[name] = found.keys[name].model_copy(update={"revoked": datetime.now(UTC)})

    def limit(self, tenant: str, **limits: Any) -> None:
        with keyfile.changed(self.path) as found:
            found.limits[tenant] = TenantLimits(tenant=tenant, **limits)


def sent(key: str | None) -> dict[str, str]:
    """The headers of a call with that key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
