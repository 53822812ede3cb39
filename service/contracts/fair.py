"""Who is served next, and who holds what: the worker's side of the queues, as scripts that Redis runs whole.

RQ pushes job ids into its list of each queue. From there they are sorted into one line a tenant, and tenants are served
in turn: one that sends a million pictures delays another's by one batch. A tenant whose first in line was passed over,
while a later one kept another's batch company, has not had its turn. Whatever leaves a line is in some worker's hands
from the same instant on (`held`), so that nothing is lost between the two; and a worker that has not said for a lease
that it lives (`alive`, which Redis forgets by its own clock) has what it held put back.

    rq:queue:{queue}             arrivals, by RQ
    immunize:ring:{queue}        tenants that have somebody waiting, the next one first
    immunize:line:{queue}:{t}    "{id} {key}" of each job that waits
    immunize:held                id -> worker
    immunize:alive:{worker}      there for a lease after its last sign of life
    immunize:looked              there for half a lease after somebody looked for dead workers
    immunize:patience            there as long as nobody is taken for dead
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from service.contracts.catalog import PRIORITIES, Priority

WINDOW = 256  # how far down a tenant's line one looks for company; of 64 tenants, as Redis does nothing else meanwhile
SORTED = 5000  # arrivals sorted at a time: some milliseconds

COMMON = """
local function line(queue, tenant) return 'immunize:line:' .. queue .. ':' .. tenant end
local function put(queue, tenant, entry, front)
  local length = redis.call(front and 'LPUSH' or 'RPUSH', line(queue, tenant), entry)
  if length == 1 then redis.call(front and 'LPUSH' or 'RPUSH', 'immunize:ring:' .. queue, tenant) end
end
local function out(queue, tenant, entry)
  local gone = redis.call('LREM', line(queue, tenant), 1, entry)
  if gone == 1 and redis.call('EXISTS', line(queue, tenant)) == 0 then
    redis.call('LREM', 'immunize:ring:' .. queue, 1, tenant)
  end
  return gone
end
local function word(value, otherwise)
  return type(value) == 'string' and string.match(value, '^%S+$') or otherwise
end
local function about(id)
  local found = redis.call('HMGET', 'rq:job:' .. id, 'meta', 'origin')
  if not found[2] then return nil end
  local fine, meta = pcall(cjson.decode, found[1] or '')
  if not fine or type(meta) ~= 'table' then meta = {} end
  return found[2], word(meta.tenant, '-'), id .. ' ' .. word(meta.key, id)
end
local function forget(id)
  redis.call('DEL', 'rq:job:' .. id, 'immunize:progress:' .. id, 'immunize:end:' .. id)
end
local function sort(queue, most)
  for _ = 1, most do
    local id = redis.call('LPOP', 'rq:queue:' .. queue)
    if not id then break end
    local _, tenant, entry = about(id)
    if tenant then put(queue, tenant, entry, false) end
  end
end
local function again(id)
  local queue, tenant, entry = about(id)
  if not queue then return 0 end
  redis.call('HSET', 'rq:job:' .. id, 'status', 'queued')
  put(queue, tenant, entry, true)
  return 1
end
"""

TAKE = """
local worker, lease, most, wanted, window, started = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local taken, from = {}, ''
local function fitting(queue, tenant)
  if wanted == '' then return redis.call('LINDEX', line(queue, tenant), 0) end
  for _, entry in ipairs(redis.call('LRANGE', line(queue, tenant), 0, window - 1)) do
    if string.sub(entry, -#wanted) == wanted then return entry end
  end
  return false
end
for index = 8, #ARGV do
  local queue = ARGV[index]
  sort(queue, tonumber(ARGV[7]))
  local more = true
  while more and #taken < most do
    more = false
    for _, tenant in ipairs(redis.call('LRANGE', 'immunize:ring:' .. queue, 0, 63)) do
      if #taken == most then break end
      local entry = fitting(queue, tenant)
      if entry then
        local first = redis.call('LINDEX', line(queue, tenant), 0) == entry
        out(queue, tenant, entry)
        local id, key = string.match(entry, '^(%S+) (%S+)$')
        more = true
        if redis.call('EXISTS', 'rq:job:' .. id) == 1 and redis.call('HEXISTS', 'immunize:held', id) == 0 then
          if first and redis.call('LREM', 'immunize:ring:' .. queue, 1, tenant) == 1 then
            redis.call('RPUSH', 'immunize:ring:' .. queue, tenant)
          end
          wanted, from = key, queue
          redis.call('HSET', 'immunize:held', id, worker)
          redis.call('HSET', 'rq:job:' .. id, 'status', 'started', 'worker_name', worker, 'started_at', started)
          taken[#taken + 1] = id
        end
      end
    end
  end
  if #taken > 0 then break end
end
if #taken > 0 then redis.call('SET', 'immunize:alive:' .. worker, '1', 'PX', lease) end
local tenants = {}
for index, id in ipairs(taken) do local _, tenant = about(id); tenants[index] = tenant or '' end
return {from, wanted, taken, tenants}
"""

KEEP = """
local worker, lost = ARGV[1], {}
redis.call('SET', 'immunize:alive:' .. worker, '1', 'PX', ARGV[2])
for index = 3, #ARGV do
  local id = ARGV[index]
  local holder = redis.call('HGET', 'immunize:held', id)
  if not holder then
    local queue, tenant, entry = about(id)
    if queue and out(queue, tenant, entry) == 1 then redis.call('HSET', 'rq:job:' .. id, 'status', 'started') end
    redis.call('HSET', 'immunize:held', id, worker)
  elseif holder ~= worker then
    lost[#lost + 1] = id
  end
end
return lost
"""

RELEASE = """
for index = #ARGV, 3, -1 do
  local id = ARGV[index]
  if redis.call('HGET', 'immunize:held', id) == ARGV[1] then
    redis.call('HDEL', 'immunize:held', id)
    if ARGV[2] == 'back' then again(id) else forget(id) end
  end
end
"""

STRAYS = """
local known = {}
for index = 2, #ARGV do known[ARGV[index]] = true end
local found, back = redis.call('HGETALL', 'immunize:held'), {}
for index = 1, #found, 2 do
  if found[index + 1] == ARGV[1] and not known[found[index]] then
    redis.call('HDEL', 'immunize:held', found[index])
    if again(found[index]) == 1 then back[#back + 1] = found[index] end
  end
end
return back
"""

REAP = """
local lease, looked = tonumber(ARGV[1]), redis.call('EXISTS', 'immunize:looked')
redis.call('SET', 'immunize:looked', '1', 'PX', math.max(1, math.floor(lease / 2)))
if ARGV[2] == 'patiently' then
  if looked == 0 then redis.call('SET', 'immunize:patience', '1', 'PX', lease) end
  if redis.call('EXISTS', 'immunize:patience') == 1 then return {} end
end
local found, back = redis.call('HGETALL', 'immunize:held'), {}
for index = 1, #found, 2 do
  if redis.call('EXISTS', 'immunize:alive:' .. found[index + 1]) == 0 then
    redis.call('HDEL', 'immunize:held', found[index])
    if again(found[index]) == 1 then back[#back + 1] = found[index] end
  end
end
return back
"""

REMOVE = """
local id = ARGV[1]
local queue, tenant, entry = about(id)
if not queue then return 0 end
local gone = out(queue, tenant, entry) + redis.call('LREM', 'rq:queue:' .. queue, 1, id)
if gone > 0 then forget(id) end
return gone
"""

COUNT = """
local queue = ARGV[1]
local count = redis.call('LLEN', 'rq:queue:' .. queue)
local heads = { redis.call('LINDEX', 'rq:queue:' .. queue, 0) }
for _, tenant in ipairs(redis.call('LRANGE', 'immunize:ring:' .. queue, 0, -1)) do
  count = count + redis.call('LLEN', line(queue, tenant))
  heads[#heads + 1] = string.match(redis.call('LINDEX', line(queue, tenant), 0), '^%S+')
end
local oldest = ''
for _, id in ipairs(heads) do
  local since = id and redis.call('HGET', 'rq:job:' .. id, 'enqueued_at')
  if since and (oldest == '' or since < oldest) then oldest = since end
end
return {count, oldest}
"""

AHEAD = """
local queue, tenant, entry = about(ARGV[1])
if not queue then return -1 end
local place, ahead = redis.call('LPOS', line(queue, tenant), entry), 0
if not place then
  place = redis.call('LPOS', 'rq:queue:' .. queue, ARGV[1])
  if not place then return -1 end
  ahead, place = place, redis.call('LLEN', line(queue, tenant)) + place
end
for _, other in ipairs(redis.call('LRANGE', 'immunize:ring:' .. queue, 0, -1)) do
  ahead = ahead + math.min(redis.call('LLEN', line(queue, other)), other == tenant and place or place + 1)
end
return ahead
"""


@dataclass(frozen=True)
class Taken:
    """Jobs of one key, (tenant, id) each, now in the hands of whoever asked."""

    queue: Priority
    key: str
    jobs: tuple[tuple[str, str], ...]


class FairQueue:
    """The scripts, as functions. A worker is known by its name."""

    def __init__(self, connection: Redis, lease: float) -> None:
        self._lease = max(1, int(lease * 1000))  # milliseconds
        scripts = (TAKE, KEEP, RELEASE, STRAYS, REAP, REMOVE, COUNT, AHEAD)
        self._take, self._keep, self._release, self._strays, self._reap, self._remove, self._count, self._ahead = (
            connection.register_script(COMMON + script) for script in scripts
        )

    def take(self, worker: str, most: int, started: str, queues: Sequence[str] = PRIORITIES, key: str = "") -> Taken:
        """Up to `most` jobs of one key (of `key`, where it is given) from the first of `queues` that has any."""
        arguments: tuple[str | int, ...] = (worker, self._lease, most, key, WINDOW, started, SORTED, *queues)
        queue, found, ids, tenants = self._take(args=arguments)
        return Taken(_text(queue), _text(found), tuple(zip(map(_text, tenants), map(_text, ids), strict=True)))  # type: ignore[arg-type]

    def keep(self, worker: str, ids: Sequence[str]) -> list[str]:
        """The worker lives and holds these. Returns those that meanwhile went to another worker."""
        return [_text(each) for each in self._keep(args=(worker, self._lease, *ids))]

    def give_back(self, worker: str, ids: Sequence[str]) -> None:
        """These go back to the front of their lines."""
        self._release(args=(worker, "back", *ids))

    def release(self, worker: str, ids: Sequence[str]) -> None:
        """These have ended."""
        self._release(args=(worker, "ended", *ids))

    def strays(self, worker: str, ids: Sequence[str]) -> list[str]:
        """What the worker holds beside these is put back: jobs it took, while the answer was lost on the way."""
        return [_text(each) for each in self._strays(args=(worker, *ids))]

    def reap(self, *, at_once: bool = False) -> list[str]:
        """What dead workers held is put back, to the front. Returns it.

        Where nobody could look for half a lease, everybody first gets a lease's time to say that they live: Redis was
        away, or took no writes, and may have been so for all.
        """
        return [_text(each) for each in self._reap(args=(self._lease, "at once" if at_once else "patiently"))]

    def remove(self, job_id: str) -> bool:
        """Take a job that waits out of its line. False where none waits, a worker may have it."""
        return bool(self._remove(args=(job_id,)))

    def count(self, queue: str) -> tuple[int, str]:
        """How many wait, and since when the longest does, as RQ writes it ("" where none does)."""
        count, oldest = self._count(args=(queue,))
        return int(count), _text(oldest)

    def ahead(self, job_id: str) -> int | None:
        """How many of its queue are served before this one if nobody comes; None where it does not wait."""
        found = int(self._ahead(args=(job_id,)))
        return found if found >= 0 else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
