"""What a tenant may use, and what it is told of that."""

from __future__ import annotations

import logging
import math
import time
import uuid
from dataclasses import dataclass

from redis import Redis
from rq.utils import utcparse

from service.contracts.errors import ImmunizeError, NotReady, OverQuota, ShareFull, TooFast
from service.counters import Counted, Counters, Pace
from service.ratelimit import Policy, Standing, Standings

log = logging.getLogger(__name__)
BURST_SECONDS = 10  # so many seconds' requests may come at once
PAUSE_SECONDS = 5.0  # in which a Redis that was away is not asked again who reads too often
LONGEST_WAIT = 3600
DAY = 86_400


@dataclass(frozen=True)
class Limits:
    """Of one tenant, all of its keys together; 0: any number."""

    rate: float  # requests a second
    daily: int  # pictures a day
    waiting: int  # jobs that wait

    @property
    def burst(self) -> int:
        return max(1, math.floor(self.rate * BURST_SECONDS))


@dataclass
class Admission:
    """An upload's leave to go on, or the error that refuses it."""

    tenant: str
    token: str
    standings: Standings
    refused: ImmunizeError | None = None
    taken: bool = False

    def count(self) -> None:
        """Its picture was stored and queued: it counts. An admission of which this is not said costs a request, and no
        picture."""
        self.taken = True


class Limiter:
    """Holds tenants to their limits."""

    def __init__(self, connection: Redis) -> None:
        self._counters = Counters(connection)
        self._away_until = 0.0

    def spend(self, tenant: str, limits: Limits) -> Admission | None:
        """Count a call that sends no picture. Without Redis nobody counts, and what is stored can be had."""
        if not limits.rate or time.monotonic() < self._away_until:
            return None
        try:
            pace = self._counters.spend(tenant, limits.rate, limits.burst)
        except NotReady:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            return None
        return _judged(tenant, "", limits, pace)

    def admit(self, tenant: str, limits: Limits) -> Admission:
        """Count a call that sends a picture, before the picture is read; `settle` what this gives. Raises NotReady."""
        token = uuid.uuid4().hex
        counted = self._counters.admit(tenant, limits.rate, limits.burst, limits.daily, limits.waiting, token)
        return _judged(tenant, token, limits, counted)

    def settle(self, admission: Admission) -> None:
        """The upload is over."""
        try:
            self._counters.settle(admission.tenant, admission.token, taken=admission.taken)
        except NotReady:  # its place comes free by itself, and what was taken is not refused for a count
            log.warning("an upload of %s could not be counted: the queue is away", admission.tenant)


def policies(limits: Limits) -> tuple[Policy, ...]:
    """What the tenant is told that it may use."""
    found = []
    if limits.rate:
        found.append(Policy("rate", limits.burst, window=math.ceil(limits.burst / limits.rate)))
    if limits.daily:
        found.append(Policy("daily", limits.daily, window=DAY))
    if limits.waiting:
        found.append(Policy("waiting", limits.waiting))
    return tuple(found)


def _judged(tenant: str, token: str, limits: Limits, pace: Pace) -> Admission:
    counted = pace if isinstance(pace, Counted) else None
    told = [Standing("rate", pace.left, math.ceil(pace.seconds))] if limits.rate else []
    if counted is not None and limits.daily:
        told.append(Standing("daily", counted.today, counted.day_ends))
    if counted is not None and limits.waiting:
        seconds = _turn(counted) if counted.refused == "waiting" else None
        told.append(Standing("waiting", counted.free, seconds))
    if not pace.refused:
        return Admission(tenant, token, Standings(policies(limits), tuple(told)))
    at_fault = next(each for each in told if each.name == pace.refused)
    error = _error(at_fault, limits)
    return Admission(tenant, token, Standings(policies(limits), (at_fault,)), error)


def _error(at_fault: Standing, limits: Limits) -> ImmunizeError:
    seconds = max(1, at_fault.seconds or 0)
    again = f"try again in {seconds} s"
    match at_fault.name:
        case "rate":
            return TooFast(f"you may send {limits.rate:g} requests a second; {again}", retry_after=seconds)
        case "daily":
            return OverQuota(
                f"you may send {limits.daily} pictures a day (UTC), and have; {again}", retry_after=seconds
            )
        case _:
            return ShareFull(f"{limits.waiting} of your jobs may wait, and do; {again}", retry_after=seconds)


def _turn(counted: Counted) -> int:
    """Estimated seconds until one of the tenant's jobs no longer waits.

    By Little's law: in the time that the first of a line has waited, about as many left it as wait there now.
    """
    leave = 0.0  # jobs a second
    for length, since in counted.lines:
        if since:
            leave += length / max(1.0, counted.now - utcparse(since).timestamp())
    return min(LONGEST_WAIT, math.ceil(1 / leave)) if leave else 1
