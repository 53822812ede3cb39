"""What routes ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.apikeys import SCOPES
from service.auth import Caller, Doorkeeper
from service.contracts.catalog import Model
from service.contracts.queue import JobQueue
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.limits import Admission, Limiter
from service.local import is_local
from service.metrics import GatewayMetrics

_bearer = HTTPBearer(
    scheme_name="key",
    bearerFormat="imz_<id>_<secret>",
    description="An API key of `immunize keys create`, with scopes: "
    + ", ".join(f"`{scope}` ({meaning})" for scope, meaning in SCOPES.items())
    + ". Where the gateway has no keys, clients on its own machine need none.",
    auto_error=False,
)
KeySent = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


@dataclass(frozen=True)
class House:
    """Everything the gateway is made of, put together once in `create_app`."""

    settings: Settings
    models: Mapping[str, Model]
    records: Records
    queue: JobQueue
    metrics: GatewayMetrics
    door: Doorkeeper
    limiter: Limiter


async def house(request: Request) -> House:
    return cast(House, request.app.state.house)


TheHouse = Annotated[House, Depends(house)]


async def caller(request: Request, house: TheHouse, sent: KeySent, scopes: SecurityScopes) -> Caller:
    """Who calls; also in `request.state.caller`, for those who keep books."""
    found = house.door.let_in(request, sent.credentials if sent else None, scopes.scopes)
    request.state.caller = found
    return found


def tenant(request: Request, house: TheHouse, caller: Annotated[Caller, Depends(caller)]) -> str:
    """Whose jobs these are. The call counts among the tenant's requests."""
    verdict = house.limiter.spend(caller.tenant, caller.limits)
    if verdict is not None and verdict.refused is not None:
        request.state.standings = verdict.standings
        raise verdict.refused
    return caller.tenant


def admission(
    request: Request, house: TheHouse, caller: Annotated[Caller, Security(caller, scopes=["submit"])]
) -> Iterator[Admission]:
    """A place for a picture that is about to be sent. It comes free before the answer goes out."""
    found = house.limiter.admit(caller.tenant, caller.limits)
    request.state.standings = found.standings
    if found.refused is not None:
        raise found.refused
    try:
        yield found
    finally:
        house.limiter.settle(found)


async def watcher(request: Request, house: TheHouse, sent: KeySent, scopes: SecurityScopes) -> None:
    """Whoever is on this machine, or has a key for it."""
    if not is_local(request):
        house.door.let_in(request, sent.credentials if sent else None, scopes.scopes)


# A route names what its caller must be allowed; plain `Tenant` is for keys with the scope `admin`.
Tenant = Annotated[str, Depends(tenant)]
Reading = Security(tenant, scopes=["read"])
Reader = Annotated[str, Reading]
Submitter = Annotated[str, Security(tenant, scopes=["submit"])]  # of what is no new picture; else `Admitted`
Canceler = Annotated[str, Security(tenant, scopes=["cancel"])]
Deleter = Annotated[str, Security(tenant, scopes=["delete"])]
Admitted = Annotated[Admission, Depends(admission, scope="function")]
Watching = Security(watcher, scopes=["metrics"])
