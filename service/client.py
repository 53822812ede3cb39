"""A client of the gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from service.contracts.errors import ImmunizeError
from service.contracts.schemas import Job, Problem
from service.webhooks.verify import NotGenuine, verify_webhook

__all__ = ["Client", "JobFailed", "NotGenuine", "OnJob", "Refused", "verify_webhook"]

OnJob = Callable[[Job], None]


class Refused(ImmunizeError):
    """The gateway answered with an error; `problem` is what it said."""

    type = "refused"
    title = "The gateway refused"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class JobFailed(ImmunizeError):
    """The job ended without a result; `job` says why."""

    type = "job-failed"
    title = "The job failed"

    def __init__(self, job: Job) -> None:
        super().__init__(job.error.detail if job.error else f"the job is {job.status}")
        self.job = job


class Client:
    """`with Client("http://127.0.0.1:8000") as client: data = client.immunize(Path("photo.jpg"))`.

    `key` is an API key, where the gateway wants one.
    """

    def __init__(self, address: str, *, key: str | None = None, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else None
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(
        self,
        image: Path | bytes,
        *,
        mask: Path | bytes | None = None,
        target_image: Path | bytes | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: str | float,
    ) -> Job:
        """Queue a picture; `fields` are the form fields of `POST /immunize`. Raises Refused."""
        parts = {"image": image, "mask": mask, "target_image": target_image}
        files = {name: (name, _bytes(part)) for name, part in parts.items() if part is not None}
        data = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()}
        if metadata is not None:
            data["metadata"] = json.dumps(metadata)
        return Job.model_validate_json(self._answer(self._http.post("/immunize", files=files, data=data)).content)

    def job(self, job_id: str) -> Job:
        return Job.model_validate_json(self._answer(self._http.get(f"/jobs/{job_id}")).content)

    def cancel(self, job_id: str) -> Job:
        """Ask the job to end. Raises Refused where it has ended already."""
        return Job.model_validate_json(self._answer(self._http.post(f"/jobs/{job_id}/cancel")).content)

    def wait(self, job_id: str, *, timeout: float = 600.0, poll: float = 0.2, on_job: OnJob | None = None) -> Job:
        """The finished job. Raises JobFailed where it ended otherwise, TimeoutError where it has not ended."""
        until = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if on_job is not None:
                on_job(job)
            if job.status == "finished":
                return job
            if job.status in {"failed", "canceled"}:
                raise JobFailed(job)
            if time.monotonic() > until:
                raise TimeoutError(f"job {job_id} is still {job.status} after {timeout:g} seconds")
            time.sleep(poll)

    def image(self, job_id: str, size: str | None = None) -> bytes:
        """The immunized bytes; `size` names one of the job's renditions."""
        query = None if size is None else {"size": size}
        return self._answer(self._http.get(f"/jobs/{job_id}/image", params=query, follow_redirects=True)).content

    def immunize(self, image: Path | bytes, **options: Any) -> bytes:
        """Submit, wait, fetch."""
        return self.image(self.wait(self.submit(image, **options).id).id)

    def ready(self) -> bool:
        """Whether the gateway answers and is ready."""
        try:
            return self._http.get("/readyz").is_success
        except httpx2.TransportError:
            return False

    @staticmethod
    def _answer(answer: httpx2.Response) -> httpx2.Response:
        if answer.is_success:
            return answer
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValueError:
            problem = Problem(
                type="about:blank", title=answer.reason_phrase, status=answer.status_code, detail=answer.text[:200]
            )
        raise Refused(problem)


def _bytes(part: Path | bytes) -> bytes:
    return part.read_bytes() if isinstance(part, Path) else part
