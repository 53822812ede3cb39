"""The road between gateway and workers: one RQ queue in Redis. It holds ids, progress and leases, never pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis import Redis
from rq import Queue, Retry, Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from service.contracts.errors import NotReady
from service.contracts.records import now
from service.contracts.schemas import Progress
from service.contracts.settings import Settings

NAME = "immunize"
FUNCTION = "immunize"  # a label: a worker binds it to its loaded engine (worker/runner.py)
SERIALIZER = "json"  # RQ's default is pickle, which lets whoever writes to Redis run code in a worker
PROGRESS_TTL = 3600
ANNOUNCE_TTL = 60


def connect(settings: Settings) -> Redis:
    """A connection pool to Redis; nothing is sent yet."""
    return Redis.from_url(settings.redis_url, socket_connect_timeout=5, health_check_interval=30)


class JobQueue:
    """What gateway and workers ask of the queue. Raises NotReady when Redis is away."""

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self.connection = connection
        self._settings = settings
        self.rq = Queue(NAME, connection=connection, serializer=SERIALIZER)

    def ping(self) -> None:
        with _unavailable():
            self.connection.ping()

    def enqueue(self, tenant: str, job_id: str) -> None:
        with _unavailable():
            retries = self._settings.attempts - 1
            self.rq.enqueue_call(
                FUNCTION,
                args=(tenant, job_id),
                job_id=job_id,
                timeout=self._settings.job_timeout,
                result_ttl=self._settings.result_ttl,
                failure_ttl=self._settings.result_ttl,
                retry=Retry(max=retries) if retries else None,
            )

    def depth(self) -> int:
        """How many jobs wait."""
        with _unavailable():
            return int(self.connection.llen(self.rq.key))

    def oldest_seconds(self) -> float:
        """How long the job at the head has waited; 0 when none does."""
        with _unavailable():
            head = self.connection.lindex(self.rq.key, 0)
            if head is None:
                return 0.0
            try:
                job = Job.fetch(_text(head), connection=self.connection, serializer=SERIALIZER)
            except NoSuchJobError:
                return 0.0
            return max(0.0, (now() - job.enqueued_at).total_seconds()) if job.enqueued_at else 0.0

    def position(self, job_id: str) -> int | None:
        """How many jobs are ahead of this one, or None when it does not wait."""
        with _unavailable():
            place = self.connection.lpos(self.rq.key, job_id)
            return place if isinstance(place, int) else None

    def carries(self, job_id: str) -> bool:
        """Whether Redis will still bring this job to a worker, or a worker that lives has it."""
        with _unavailable():
            try:
                job = Job.fetch(job_id, connection=self.connection, serializer=SERIALIZER)
            except NoSuchJobError:
                return False
            status = job.get_status(refresh=False)
            if status == JobStatus.STARTED:
                return job.worker_name in {worker.name for worker in Worker.all(connection=self.connection)}
            if status == JobStatus.SCHEDULED:
                return True
            waiting = {self.rq.key, self.rq.intermediate_queue_key}
            return any(self.connection.lpos(queue, job_id) is not None for queue in waiting)

    def set_progress(self, job_id: str, progress: Progress) -> None:
        with _unavailable():
            self.connection.set(f"immunize:progress:{job_id}", progress.model_dump_json(), ex=PROGRESS_TTL)

    def progress(self, job_id: str) -> Progress | None:
        with _unavailable():
            stored = self.connection.get(f"immunize:progress:{job_id}")
            return None if stored is None else Progress.model_validate_json(stored)

    def take_turn(self, seconds: float) -> bool:
        """Whether the caller is the first to ask in this many seconds, among all processes."""
        with _unavailable():
            return bool(self.connection.set("immunize:turn", "1", nx=True, px=int(seconds * 900)))

    def forget_workers(self) -> None:
        """Drop the leases of all workers: for whoever knows that none lives, as it owns this Redis and starts it."""
        with _unavailable():
            for found in [*self.connection.scan_iter("rq:worker:*"), "rq:workers", "immunize:turn"]:
                self.connection.delete(found)

    def announce(self, worker: str, missing: Mapping[str, str]) -> None:
        """A worker says that it lives, and which models it lacks (name -> how to get it)."""
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


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:  # away, but also out of memory, out of disk, or a replica that takes no writes
        raise NotReady("the queue cannot be used just now; try again", retry_after=5) from error
