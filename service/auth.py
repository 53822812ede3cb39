"""Who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection

from service.apikeys import TenantLimits
from service.contracts.errors import BadField, Forbidden, Unauthenticated
from service.contracts.settings import Settings
from service.keyring import Keyring
from service.limits import Limits
from service.listen import is_loopback
from service.local import is_local

PUBLIC = "public"  # the one tenant where there are no keys


@dataclass(frozen=True)
class Caller:
    """Who calls: a tenant, by one of its keys (by none where there are none)."""

    tenant: str
    key: str | None
    limits: Limits


class Doorkeeper:
    """Lets callers in. Raises BadField where the file of keys cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keyring = Keyring(settings.api_keys_file) if settings.api_keys_file else None

    def let_in(self, request: HTTPConnection, sent: str | None, scopes: Sequence[str]) -> Caller:
        """The caller, if the key that was sent has all of these scopes; a call that names none is for `admin`.

        Raises Unauthenticated, always in the same words, and Forbidden.
        """
        if self._keyring is None:
            if not self._settings.allow_anonymous and not is_local(request):
                raise _nobody()
            return Caller(PUBLIC, None, self._limits(None))
        key = self._keyring.find(sent or "")
        if key is None:
            raise _nobody()
        for scope in scopes or ("admin",):
            if scope not in key.scopes and "admin" not in key.scopes:
                challenge = f'Bearer error="insufficient_scope", scope="{scope}"'  # RFC 6750, 3.1
                raise Forbidden(f"this call needs a key with the scope {scope!r}", challenge=challenge)
        return Caller(key.tenant, key.key, self._limits(self._keyring.limits(key.tenant)))

    def _limits(self, own: TenantLimits | None) -> Limits:
        settings = self._settings
        limits = Limits(settings.tenant_rate, settings.tenant_daily, settings.tenant_waiting)
        return limits if own is None else replace(limits, **own.limits())


def check_exposure(host: str, settings: Settings) -> str | None:
    """What to warn of before listening there. Raises BadField where strangers could come in by an oversight."""
    if settings.api_keys_file is not None:
        return None
    if settings.allow_anonymous:
        return "there are no API keys: whoever reaches it can use it"
    if is_loopback(host):
        return "there are no API keys: only clients on this machine are served"
    raise BadField(
        f"--host: other machines may reach {host}, and there are no API keys; make one with `immunize keys create` and "
        "set IMMUNIZE_API_KEYS_FILE, or set IMMUNIZE_ALLOW_ANONYMOUS=true to serve whoever comes"
    )


def _nobody() -> Unauthenticated:
    return Unauthenticated(
        "this call needs a valid key; send it as `Authorization: Bearer imz_...`", challenge="Bearer"
    )
