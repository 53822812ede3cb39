"""When a webhook is sent again: at growing intervals, for about a day, as Standard Webhooks recommends."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Literal, get_args

from service.contracts.outbox import Delivery
from service.webhooks.post import Answer

MINUTE, HOUR = 60.0, 3600.0
PAUSES = (5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)  # seconds, 27.6 hours in all
JITTER = 0.2  # of the pause, more or less: what failed together is not sent again together
LONGEST_WISH = 10 * HOUR  # of a receiver's Retry-After

Outcome = Literal["delivered", "retried", "failed", "disabled", "refused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def judge(before: Delivery, answer: Answer, now: datetime) -> tuple[Delivery, Outcome]:
    """How the delivery stands after an attempt, and what is counted. Success is 2xx; 410 means never again."""
    tried = before.model_copy(
        update={
            "attempts": before.attempts + 1,
            "last_status": answer.status,
            "last_error": answer.error,
            "next_at": None,
        }
    )
    if answer.status is not None and 200 <= answer.status < 300:
        return tried.model_copy(update={"state": "delivered"}), "delivered"
    if answer.status == 410:
        return tried.model_copy(update={"state": "disabled"}), "disabled"
    if before.attempts >= len(PAUSES):
        return tried.model_copy(update={"state": "failed"}), "failed"
    wait = PAUSES[before.attempts] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nobody gains by guessing it
    wait = max(wait, min(answer.retry_after or 0.0, LONGEST_WISH))
    return tried.model_copy(
        update={"next_at": now + timedelta(seconds=wait)}
    ), "refused" if answer.refused else "retried"
