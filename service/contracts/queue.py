"""The road between gateway and workers: two RQ queues in Redis. It holds ids, progress and leases, never pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import redis
from redis import Redis
from rq import Queue
from rq.utils import utcformat, utcparse

from service.contracts.catalog import PRIORITIES
from service.contracts.errors import NotReady
from service.contracts.fair import FairQueue, Taken
from service.contracts.records import Record, now
from service.contracts.schemas import Progress
from service.contracts.settings import Settings

FUNCTION = "immunize"  # a label: workers know what to do (worker/runner.py)
SERIALIZER = "json"  # RQ's default is pickle, which lets whoever writes to Redis run code in a worker
PROGRESS_TTL = 3600
ANNOUNCE_TTL = 60
CLAIM_TTL = 3600  # seconds that Redis knows how a job's end was decided
BELL = "immunize:bell"
BELLS = 64  # that ring at most; a worker that hears none looks all the same, every second

End = Literal["finished", "failed", "canceled"]


def connect(settings: Settings) -> Redis:
    """A connection pool to Redis; nothing is sent yet."""
    return Redis.from_url(settings.redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30)


class JobQueue:
    """What gateway and workers ask of the queue. Raises NotReady when Redis is away."""

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self.connection = connection
        self._settings = settings
        self._queues = {name: Queue(name, connection=connection, serializer=SERIALIZER) for name in PRIORITIES}
        self._fair = FairQueue(connection, settings.lease_seconds)

    def ping(self) -> None:
        with _unavailable():
            self.connection.ping()

    # the gateway's side

    def enqueue(self, record: Record) -> None:
        with _unavailable(), self.connection.pipeline() as pipeline:
            self._queues[record.priority].enqueue_call(
                FUNCTION,
                args=(record.tenant, record.id),
                job_id=record.id,
                meta={"tenant": record.tenant, "key": record.key or record.id},
                timeout=self._settings.job_timeout,
                pipeline=pipeline,
            )
            pipeline.rpush(BELL, 1)
            pipeline.ltrim(BELL, -BELLS, -1)
            pipeline.execute()

    def depth(self, queue: str | None = None) -> int:
        """How many jobs wait, in one queue or in all."""
        with _unavailable():
            return sum(self._fair.count(name)[0] for name in ([queue] if queue else PRIORITIES))

    def oldest_seconds(self, queue: str) -> float:
        """How long the job that waits longest has waited; 0 when none does."""
        with _unavailable():
            since = self._fair.count(queue)[1]
        return max(0.0, (now() - utcparse(since)).total_seconds()) if since else 0.0

    def position(self, job_id: str) -> int | None:
        """How many jobs are served before this one, or None when it does not wait."""
        with _unavailable():
            return self._fair.ahead(job_id)

    def remove(self, job_id: str) -> bool:
        """Take a job out that waits. False when none does: a worker may have it."""
        with _unavailable():
            return self._fair.remove(job_id)

    # how a job ends is decided once

    def claim(self, job_id: str, end: End) -> End:
        """Decide how the job ends, if nobody has. Returns what is decided."""
        with _unavailable():
            if self.connection.set(_claim(job_id), end, nx=True, ex=CLAIM_TTL):
                return end
            found = self.connection.get(_claim(job_id))
        return end if found is None else _text(found)  # type: ignore[return-value]

    def claimed(self, ids: Sequence[str]) -> list[End | None]:
        with _unavailable():
            found = self.connection.mget([_claim(job_id) for job_id in ids]) if ids else []
        return [None if value is None else _text(value) for value in found]  # type: ignore[misc]

    # the worker's side

    def take(self, worker: str, most: int, queues: Sequence[str] = PRIORITIES, key: str = "") -> Taken:
        """Up to `most` jobs that go together: this worker's until it releases them, gives them back, or dies."""
        with _unavailable():
            return self._fair.take(worker, most, utcformat(now()), queues, key)

    def listen(self, seconds: float) -> None:
        """Return when somebody enqueued something, or after that time."""
        with _unavailable():
            self.connection.blpop([BELL], timeout=seconds)

    def keep(self, worker: str, ids: Sequence[str]) -> list[str]:
        """A sign of life. Returns those of the ids that another worker has now."""
        with _unavailable():
            return self._fair.keep(worker, ids)

    def give_back(self, worker: str, ids: Sequence[str]) -> None:
        with _unavailable():
            self._fair.give_back(worker, ids)
            self.connection.rpush(BELL, 1)

    def strays(self, worker: str, ids: Sequence[str]) -> None:
        """Put back what the worker holds beside these, for whoever cannot know what became of its last `take`."""
        with _unavailable():
            self._fair.strays(worker, ids)

    def release(self, worker: str, ids: Sequence[str]) -> None:
        """The ids have ended; Redis forgets them."""
        with _unavailable():
            self._fair.release(worker, ids)

    def leave(self, worker: str) -> None:
        """The worker ends, and holds nothing."""
        with _unavailable():
            self.connection.delete(f"immunize:alive:{worker}", f"immunize:missing:{worker}")

    def reap(self) -> list[str]:
        """Put back what dead workers held. Returns the ids."""
        with _unavailable():
            back = self._fair.reap()
            if back:
                self.connection.rpush(BELL, *[1] * min(len(back), BELLS))
            return back

    def carried(self, ids: Iterable[str]) -> Iterator[bool]:
        """Of each id: whether it waits in Redis, or a worker holds it."""
        for part in _parts(ids, 500):
            with _unavailable(), self.connection.pipeline(transaction=True) as pipeline:
                for job_id in part:
                    pipeline.hget(f"rq:job:{job_id}", "status")
                    pipeline.hexists("immunize:held", job_id)
                answers = pipeline.execute()
            for status, held in zip(answers[::2], answers[1::2], strict=True):
                yield bool(held) or status == b"queued"

    def settled(self, seconds: float) -> bool:
        """Whether this Redis has been in use for so long without being wiped: its workers have spoken since."""
        with _unavailable():
            self.connection.set("immunize:since", now().timestamp(), nx=True)
            since = self.connection.get("immunize:since")
        return since is not None and abs(now().timestamp() - float(_text(since))) > seconds

    def set_progress(self, progress: Mapping[str, Progress]) -> None:
        with _unavailable(), self.connection.pipeline(transaction=False) as pipeline:
            for job_id, each in progress.items():
                pipeline.set(f"immunize:progress:{job_id}", each.model_dump_json(), ex=PROGRESS_TTL)
            pipeline.execute()

    def progress(self, job_id: str) -> Progress | None:
        with _unavailable():
            stored = self.connection.get(f"immunize:progress:{job_id}")
            return None if stored is None else Progress.model_validate_json(stored)

    def take_turn(self, seconds: float) -> bool:
        """Whether the caller is the first to ask in this many seconds, among all processes."""
        with _unavailable():
            return bool(self.connection.set("immunize:turn", "1", nx=True, px=max(1, int(seconds * 900))))

    def forget_workers(self) -> None:
        """Drop the leases of all workers: for whoever knows that none lives, as it owns this Redis and starts it."""
        with _unavailable():
            for pattern in ("rq:worker:*", "immunize:alive:*", "immunize:missing:*"):
                for found in self.connection.scan_iter(pattern):
                    self.connection.delete(found)
            self.connection.delete("rq:workers", "immunize:turn")
            self._fair.reap(at_once=True)

    def announce(self, worker: str, missing: Mapping[str, str]) -> None:
        """A worker says which models it lacks (name -> how to get it)."""
        with _unavailable():
            self.connection.set(f"immunize:missing:{worker}", json.dumps(dict(missing)), ex=ANNOUNCE_TTL)

    def missing_models(self) -> dict[str, str]:
        """The models that no living worker has, with how to get them; empty while no worker has spoken."""
        with _unavailable():
            keys = list(self.connection.scan_iter("immunize:missing:*"))
            said: list[dict[str, Any]] = (
                [json.loads(value) for value in self.connection.mget(keys) if value] if keys else []
            )
        if not said:
            return {}
        everywhere = set.intersection(*(set(missing) for missing in said))
        return {name: str(said[0][name]) for name in sorted(everywhere)}


def _claim(job_id: str) -> str:
    return f"immunize:end:{job_id}"


def _parts(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    part: list[str] = []
    for each in ids:
        part.append(each)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:  # away, but also out of memory, out of disk, or a replica that takes no writes
        raise NotReady("the queue cannot be used just now; try again", retry_after=5) from error
