"""What routes ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.contracts.catalog import Model
from service.contracts.queue import JobQueue
from service.contracts.records import Records
from service.contracts.settings import Settings
from service.metrics import GatewayMetrics


@dataclass(frozen=True)
class House:
    """Everything the gateway is made of, put together once in `create_app`."""

    settings: Settings
    models: Mapping[str, Model]
    records: Records
    queue: JobQueue
    metrics: GatewayMetrics


def house(request: Request) -> House:
    return cast(House, request.app.state.house)


def tenant() -> str:
    """Whose jobs these are. Without keys there is one tenant."""
    return "public"


TheHouse = Annotated[House, Depends(house)]
Tenant = Annotated[str, Depends(tenant)]
