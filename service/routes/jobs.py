"""GET /jobs/{id} and its picture."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import RedirectResponse

from service.contracts.errors import AlreadyEnded, NotFinished, NotFound, shown
from service.contracts.pictures import CONTENT_TYPES
from service.contracts.records import Record, StoredResult
from service.contracts.schemas import Job, JobRendition, Links, Result
from service.dependencies import Canceler, House, Reader, TheHouse
from service.problems import documented
from service.webhooks.view import webhook_view

router = APIRouter(prefix="/jobs", tags=["jobs"])
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type in CONTENT_TYPES.values()}},
    307: {"description": "a redirect to the stored picture"},
}
IfNoneMatch = Annotated[str | None, Header()]
Size = Annotated[str | None, Query(description="a name of the job's `renditions`; default: the largest")]


@router.get("/{job_id}", operation_id="get_job", summary="A job", response_model=Job, responses=documented(404, 503))
def get_job(job_id: str, house: TheHouse, tenant: Reader, if_none_match: IfNoneMatch = None) -> Response:
    """Its state, progress, report and result. Answers 304 to an `If-None-Match` that still holds."""
    body = job_view(house, house.records.load(tenant, job_id)).model_dump_json(by_alias=True).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _tagged(body, "application/json", tag, if_none_match, "private, no-cache")


@router.get(
    "/{job_id}/image",
    operation_id="get_image",
    summary="The immunized picture",
    response_class=Response,
    responses=_PICTURE | documented(404, 409, 503),
)
def get_image(
    job_id: str, house: TheHouse, tenant: Reader, size: Size = None, if_none_match: IfNoneMatch = None
) -> Response:
    """The delivered bytes, or a redirect to a presigned address where the operator chose so."""
    record = house.records.load(tenant, job_id)
    if record.result is None:
        raise NotFinished(f"the job is {record.status}; its picture is here once it has finished")
    result = record.result if size is None else _rendition(record, size)
    seconds = house.settings.presign_seconds
    address = house.records.store.url(result.key, seconds) if seconds else None
    if address is not None:
        return RedirectResponse(address, 307)
    data = house.records.store.get(result.key)
    return _tagged(data, result.content_type, f'"{result.sha256}"', if_none_match, "private, immutable")


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    status_code=202,
    response_model=Job,
    responses=documented(404, 409, 503),
)
def cancel_job(job_id: str, house: TheHouse, tenant: Canceler) -> Job:
    """A job that waits is canceled at once; one that runs stops within a step. 409 once it has ended, or is just being
    delivered."""
    record = house.records.load(tenant, job_id)
    if record.ended:
        raise _nothing_left(record.status)
    if house.queue.claim(job_id, "canceled") != "canceled":
        raise _nothing_left("ending just now")
    record = house.records.load(tenant, job_id)  # once a job has ended, Redis forgets what was claimed
    if record.ended and record.status != "canceled":
        raise _nothing_left(record.status)
    if not record.ended:
        house.records.ask_to_end(record)
        if house.queue.remove(job_id):  # nobody else has it now
            if record.attempts:
                house.records.sweep(record)
            house.records.end(record, "canceled")
    return job_view(house, house.records.load(tenant, job_id))


def _nothing_left(state: str) -> AlreadyEnded:
    return AlreadyEnded(f"the job is {state}; there is nothing left to cancel")


def job_view(house: House, record: Record) -> Job:
    """A record as the outside sees it, with what only Redis knows: progress and place in the queue."""
    here = f"/jobs/{record.id}"
    stored = record.result
    return Job(
        id=record.id,
        status=record.status,
        priority=record.priority,
        method=record.plan.method,
        models=list(record.plan.models),
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        progress=None if record.ended else house.queue.progress(record.id),
        queue_position=house.queue.position(record.id) if record.status == "queued" else None,
        attempts=record.attempts,
        error=record.error,
        result=None
        if stored is None
        else Result(url=f"{here}/image", sha256=stored.sha256, content_type=stored.content_type, bytes=stored.bytes),
        report=record.report,
        renditions=[
            JobRendition(
                name=each.name,
                width=each.report.width,
                height=each.report.height,
                url=f"{here}/image?size={each.name}",
                report=each.report,
                **each.result.model_dump(include={"sha256", "content_type", "bytes"}),
            )
            for each in record.renditions
        ],
        links=Links(itself=here, image=f"{here}/image", cancel=f"{here}/cancel"),
        metadata=record.metadata,
        webhook=webhook_view(house.records, record),
    )


def _rendition(record: Record, name: str) -> StoredResult:
    for each in record.renditions:
        if each.name == name:
            return each.result
    names = ", ".join(each.name for each in record.renditions) or "the one, without size"
    raise NotFound(f"the job has no picture of size {shown(name)}; it has {names}")


def _tagged(body: bytes, media_type: str, tag: str, if_none_match: str | None, caching: str) -> Response:
    headers = {"ETag": tag, "Cache-Control": caching}
    known = {item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)
