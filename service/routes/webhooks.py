"""POST /jobs/{id}/webhook, and what webhooks look like, for the docs."""

from __future__ import annotations

from fastapi import APIRouter

from service.contracts.errors import NoWebhook
from service.contracts.schemas import Event, Job
from service.dependencies import Submitter, TheHouse
from service.problems import documented
from service.routes.jobs import job_view

router = APIRouter(prefix="/jobs", tags=["jobs"])
events = APIRouter()  # what we send, not what we answer


@router.post(
    "/{job_id}/webhook",
    operation_id="replay_webhook",
    summary="Send a job's webhook once more",
    status_code=202,
    response_model=Job,
    responses=documented(404, 409, 503),
)
def replay_webhook(job_id: str, house: TheHouse, tenant: Submitter) -> Job:
    """It is sent at once, whatever became of it, with the same `webhook-id` and as many retries as the first time. An
    address that once answered 410 Gone is tried too, and gets webhooks again if it now accepts one. 409 where the job
    has not ended or has no `webhook_url`."""
    record = house.records.load(tenant, job_id)
    if record.webhook_url is None:
        raise NoWebhook("the job has no webhook; one is asked for with webhook_url, when the job is submitted")
    if not record.ended:
        raise NoWebhook(f"the job is {record.status}; its webhook is sent when it has ended")
    if not house.settings.webhook_secrets:
        raise NoWebhook("this deployment signs no webhooks any more; its operator must set IMMUNIZE_WEBHOOK_SECRET")
    house.records.outbox.replay(tenant, job_id)
    return job_view(house, record)


@events.post("job.ended", operation_id="job_ended", summary="A job has ended", status_code=204)
def job_ended(event: Event) -> None:
    """Sent to a job's `webhook_url` by the rules of https://www.standardwebhooks.com: `webhook-signature` is made of
    `webhook-id`, `webhook-timestamp` and the body. Answer 2xx within 15 seconds; whatever else you answer, it is sent
    again for a day, but after 410 never again. It may come twice, with the same `webhook-id`."""
