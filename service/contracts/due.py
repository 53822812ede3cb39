"""When each webhook is due, in Redis, so that several gateways share them out. The truth is the outbox in the store.

immunize:webhooks:due:{t}    job id -> when it is due; one that is being sent is due again after a lease
immunize:webhooks:tenants    tenant -> when to look at it next; of those that are due, who was served longest ago
                             comes first
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import redis
from redis import Redis

from service.contracts.errors import NotReady

TENANTS = "immunize:webhooks:tenants"
TURN = "immunize:webhooks:turn"
LOOKED_AT = 1000  # tenants that are due, at most, in one look

ADD = """
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
local known = redis.call('ZSCORE', KEYS[2], ARGV[3])
if not known or tonumber(known) > tonumber(ARGV[1]) then redis.call('ZADD', KEYS[2], ARGV[1], ARGV[3]) end
"""

TAKE = """
local prefix, now, till, most, share = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local busy, taken, more = {}, {}, true
for index = 7, #ARGV, 2 do busy[ARGV[index]] = tonumber(ARGV[index + 1]) end
while more and #taken < 2 * most do
  more = false
  local waiting = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now + 1), 'LIMIT', 0, ARGV[6])
  for _, tenant in ipairs(waiting) do
    if #taken == 2 * most then break end
    if (busy[tenant] or 0) < share then
      local first = redis.call('ZRANGE', prefix .. tenant, 0, 0, 'WITHSCORES')
      if not first[1] then
        redis.call('ZREM', KEYS[1], tenant)
      elseif tonumber(first[2]) > now then
        redis.call('ZADD', KEYS[1], first[2], tenant)
      else
        redis.call('ZADD', prefix .. tenant, till, first[1])
        taken[#taken + 1] = tenant
        taken[#taken + 1] = first[1]
        busy[tenant] = (busy[tenant] or 0) + 1
        redis.call('ZADD', KEYS[1], string.format('%.6f', now + #taken / 1e6), tenant)
        more = true
      end
    end
  end
end
return taken
"""


class DueTimes:
    """(tenant, job id) and the second of the epoch at which its webhook is due. Raises NotReady where Redis is away."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._add, self._take = connection.register_script(ADD), connection.register_script(TAKE)

    def set(self, tenant: str, job_id: str, when: float) -> None:
        """It is due then, whatever was known of it."""
        with _unavailable():
            self._add(keys=(_due(tenant), TENANTS), args=(f"{when:.6f}", job_id, tenant))

    def take(self, now: float, lease: float, most: int, share: int, busy: Mapping[str, int]) -> list[tuple[str, str]]:
        """Up to `most` of those that are due, tenants in turn, none more than `share` together with what it has `busy`.

        They are the caller's until it says `set` or `forget`, or the lease (in seconds) is over.
        """
        counts = tuple(part for each in busy.items() for part in each)
        with _unavailable():
            found = self._take(
                keys=(TENANTS,), args=(_due(""), f"{now:.6f}", f"{now + lease:.6f}", most, share, LOOKED_AT, *counts)
            )
        texts = [each.decode() if isinstance(each, bytes) else str(each) for each in found]
        return list(zip(texts[::2], texts[1::2], strict=True))

    def unknown(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of them that Redis has forgotten, or never heard of."""
        with _unavailable(), self._connection.pipeline(transaction=False) as pipeline:
            for tenant, job_id in pairs:
                pipeline.zscore(_due(tenant), job_id)
            return [pair for pair, score in zip(pairs, pipeline.execute(), strict=True) if score is None]

    def forget(self, tenant: str, job_id: str) -> None:
        """Nothing is to be sent any more."""
        with _unavailable():
            self._connection.zrem(_due(tenant), job_id)

    def take_turn(self, seconds: float) -> bool:
        """Whether the caller is the first to ask in this many seconds, among all gateways."""
        with _unavailable():
            return bool(self._connection.set(TURN, "1", nx=True, px=max(1, int(seconds * 900))))


def _due(tenant: str) -> str:
    return f"immunize:webhooks:due:{tenant}"


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise NotReady("the queue cannot be used just now; try again", retry_after=5) from error
