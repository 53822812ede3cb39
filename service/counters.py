"""What tenants have used, counted in Redis and by its clock, in scripts that it runs whole.

Requests are held to their rate by the generic cell rate algorithm: one time a tenant, at which its next request would
be due if it had kept the pace. A picture is counted once it was taken; until then its upload holds a place that nobody
else can have, and that comes free by itself if this process dies.

    immunize:rate:{tenant}           when its next request would be due, in microseconds
    immunize:daily:{tenant}:{day}    pictures taken on that day (UTC, counted from 1970)
    immunize:places:{tenant}         uploads under way -> when their place comes free, in seconds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import redis
from redis import Redis
from redis.commands.core import Script

from service.contracts.catalog import PRIORITIES
from service.contracts.errors import NotReady
from service.contracts.fair import COMMON, SORTED

Refusal = Literal["", "rate", "daily", "waiting"]
PLACE_SECONDS = 900  # an upload that takes longer is still counted, but holds no place

RATE = """
local time = redis.call('TIME')
local seconds, now = tonumber(time[1]), time[1] * 1000000 + time[2]
local function spend(tenant, rate, burst)
  if rate == 0 then return true, 0, 0 end
  local name, period = 'immunize:rate:' .. tenant, 1000000 / rate
  local latest = now + burst * period
  local due = math.min(math.max(tonumber(redis.call('GET', name) or now), now), latest) + period
  local slack = latest - due
  if slack < -100 then return false, 0, math.ceil(-slack) end
  redis.call('SET', name, string.format('%.2f', due), 'PX', math.ceil((due - now) / 1000) + 1)
  local left = math.max(0, math.floor(slack / period))
  return true, left, math.ceil((left + 1) * period - slack)
end
"""

SPEND = """
local fine, left, wait = spend(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return {fine and '' or 'rate', left, wait}
"""

ADMIT = """
local tenant, token, hold, most_sorted = ARGV[1], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local daily, most = tonumber(ARGV[7]), tonumber(ARGV[8])
local fine, left, wait = spend(tenant, tonumber(ARGV[2]), tonumber(ARGV[3]))
if not fine then return {'rate', left, wait, 0, 0, 0, seconds} end
local places, refused, lines = 'immunize:places:' .. tenant, '', {}
redis.call('ZREMRANGEBYSCORE', places, '-inf', seconds)
local open = redis.call('ZCARD', places)
local used = open + (redis.call('GET', 'immunize:daily:' .. tenant .. ':' .. math.floor(seconds / 86400)) or 0)
local waiting = open
for index = 9, most > 0 and #ARGV or 0 do
  sort(ARGV[index], most_sorted)
  local length = redis.call('LLEN', line(ARGV[index], tenant))
  waiting = waiting + length
  if length > 0 then
    local first = string.match(redis.call('LINDEX', line(ARGV[index], tenant), 0), '^%S+')
    lines[#lines + 1] = length
    lines[#lines + 1] = redis.call('HGET', 'rq:job:' .. first, 'enqueued_at') or ''
  end
end
if daily > 0 and used >= daily then refused = 'daily'
elseif most > 0 and waiting >= most then refused = 'waiting'
else
  redis.call('ZADD', places, seconds + hold, token)
  redis.call('EXPIRE', places, hold)
  used, waiting = used + 1, waiting + 1
end
local rest = 86400 - seconds % 86400
return {refused, left, wait, math.max(0, daily - used), rest, math.max(0, most - waiting), seconds, unpack(lines)}
"""

SETTLE = """
redis.call('ZREM', 'immunize:places:' .. ARGV[1], ARGV[2])
if ARGV[3] == 'taken' then
  local name = 'immunize:daily:' .. ARGV[1] .. ':' .. math.floor(seconds / 86400)
  redis.call('INCR', name)
  redis.call('EXPIRE', name, 172800)
end
"""


@dataclass(frozen=True)
class Pace:
    """After one more request: how many may follow at once, and in how many seconds one more may."""

    refused: Refusal
    left: int
    seconds: float


@dataclass(frozen=True)
class Counted(Pace):
    """After one more upload, if nothing refused it."""

    today: int  # pictures that may still be taken today
    day_ends: int  # in so many seconds
    free: int  # jobs that may still wait
    now: int  # by the clock of Redis, in seconds since 1970
    lines: tuple[tuple[int, str], ...]  # where jobs wait: how many, and since when the first does, as RQ writes it


class Counters:
    """The scripts, as functions. A limit of 0 is none. They raise NotReady when Redis is away."""

    def __init__(self, connection: Redis) -> None:
        self._spend = connection.register_script(RATE + SPEND)
        self._admit = connection.register_script(COMMON + RATE + ADMIT)
        self._settle = connection.register_script(RATE + SETTLE)

    def spend(self, tenant: str, rate: float, burst: int) -> Pace:
        """Count a request, unless it comes too soon."""
        refused, left, wait = _run(self._spend, tenant, rate, burst)
        return Pace(_text(refused), int(left), int(wait) / 1e6)  # type: ignore[arg-type]

    def admit(self, tenant: str, rate: float, burst: int, daily: int, most: int, token: str) -> Counted:
        """Count a request, and give the upload a place under that token, unless a limit refuses it."""
        arguments: tuple[str | float, ...] = (
            tenant,
            rate,
            burst,
            token,
            PLACE_SECONDS,
            SORTED,
            daily,
            most,
            *PRIORITIES,
        )
        refused, left, wait, today, day_ends, free, now, *lines = _run(self._admit, *arguments)
        waiting = tuple(zip(map(int, lines[::2]), map(_text, lines[1::2]), strict=True))
        reason: Refusal = _text(refused)  # type: ignore[assignment]
        return Counted(reason, int(left), int(wait) / 1e6, int(today), int(day_ends), int(free), int(now), waiting)

    def settle(self, tenant: str, token: str, *, taken: bool) -> None:
        """The upload is over; its place is free, and if its picture was taken, that counts."""
        _run(self._settle, tenant, token, "taken" if taken else "")


def _run(script: Script, *arguments: str | float) -> Sequence[bytes]:
    try:
        return script(args=arguments)  # type: ignore[no-any-return]
    except redis.RedisError as error:
        raise NotReady("the queue cannot be used just now; try again", retry_after=5) from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
