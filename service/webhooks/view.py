"""What a tenant sees of a job's webhook."""

from __future__ import annotations

import httpx2

from service.contracts.outbox import Delivery
from service.contracts.records import Record, Records
from service.contracts.schemas import Webhook


def webhook_view(records: Records, record: Record) -> Webhook | None:
    """None where none was asked for."""
    if record.webhook_url is None:
        return None
    stands = (records.outbox.last(record.tenant, record.id) if record.ended else None) or Delivery()
    return Webhook(
        host=httpx2.URL(record.webhook_url).netloc.decode("ascii"),
        state=stands.state,
        attempts=stands.attempts,
        last_status=stands.last_status,
        last_error=stands.last_error,
        next_attempt_at=stands.next_at,
    )
