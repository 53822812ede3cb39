"""What the outside sees of a job. Names are fixed; fields may be added."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.catalog import Loss, Masks, Norm, Order, Priority
from service.contracts.delivery import DataMining, ExifPolicy

Status = Literal["queued", "running", "finished", "failed", "canceled"]
WebhookState = Literal["pending", "delivered", "failed", "disabled"]
EventType = Literal["job.finished", "job.failed", "job.canceled"]


class Report(BaseModel):
    """True figures of one delivered file: every one is measured on the file's own pixels, after it was encoded."""

    method: str
    preset: str
    models: list[str]
    norm: Norm
    epsilon: Annotated[float, Field(description="budget, in /255 of a [0,1] image (for l2: radius times 255)")]
    steps: int
    seed: int
    target: str | None
    mask: Annotated[bool, Field(description="whether a mask came along")]
    width: int
    height: int
    linf_255: Annotated[int, Field(description="largest |delivered - original| over pixels and channels, in /255")]
    l2_255: Annotated[float, Field(description="Euclidean norm of delivered - original, in /255")]
    psnr_db: Annotated[float | None, Field(description="delivered against original; null when they are equal")]
    ssim: Annotated[
        float | None, Field(description="delivered against original; null for pictures under 7 pixels a side")
    ]
    loss_initial: Annotated[float, Field(description="the method's objective on the original")]
    loss_final: Annotated[float, Field(description="the same objective on the delivered 8-bit picture")]
    gradient_evaluations: int
    seconds: Annotated[float, Field(description="optimisation alone, of the whole batch, in seconds")]
    batch: Annotated[int, Field(description="pictures that were optimised together")] = 1
    device: str
    version: str
    prompts: Annotated[list[str], Field(description="what the edits were told; methods that edit")] = []
    denoising_steps: int | None = None
    gradient_steps: Annotated[int | None, Field(description="denoising steps, the last ones, with gradient")] = None
    repeats: Annotated[int | None, Field(description="gradients averaged in a step")] = None
    masks: Masks | None = None
    losses: Annotated[list[Loss], Field(description="those of the backdoor's losses that were taken")] = []
    order: Annotated[Order | None, Field(description="how several models were taken; backdoor")] = None
    quality: Annotated[int | None, Field(description="of a jpeg")] = None
    exif: Annotated[ExifPolicy | None, Field(description="what became of EXIF, XMP and IPTC")] = None
    data_mining: Annotated[DataMining, Field(description="the reservation that was written")] = "none"
    signed: Annotated[bool, Field(description="whether a C2PA manifest was put in, signed")] = False
    warnings: list[str] = []


class Progress(BaseModel):
    step: int
    steps: int
    loss: float | None = None


class JobError(BaseModel):
    type: str
    detail: str


class Result(BaseModel):
    url: str
    sha256: str
    content_type: str
    bytes: int


class JobRendition(BaseModel):
    """One of the sizes that were asked for."""

    name: Annotated[str, Field(description="as `sizes` has it")]
    width: int
    height: int
    url: str
    sha256: str
    content_type: str
    bytes: int
    report: Report


class Links(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    itself: Annotated[str, Field(alias="self")]
    image: str
    cancel: str


class Webhook(BaseModel):
    """How the delivery of a job's webhook stands."""

    host: Annotated[str, Field(description="where it goes; the rest of the address may be secret")]
    state: Annotated[
        WebhookState, Field(description="failed: given up after a day; disabled: the address once answered 410 Gone")
    ] = "pending"
    attempts: int = 0
    last_status: Annotated[int | None, Field(description="the HTTP status of the last answer, if there was one")] = None
    last_error: Annotated[str | None, Field(description="why the last attempt failed")] = None
    next_attempt_at: datetime | None = None


class Job(BaseModel):
    """A job as `GET /jobs/{id}` shows it."""

    id: str
    status: Status
    priority: Priority
    method: str
    models: list[str]
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: Progress | None = None
    queue_position: Annotated[
        int | None, Field(description="jobs of its queue that are served before this one; null once it runs")
    ] = None
    attempts: int = 0
    error: JobError | None = None
    result: Result | None = None
    report: Report | None = None
    renditions: Annotated[
        list[JobRendition], Field(description="where `sizes` were asked for; `result` is the largest of them")
    ] = []
    links: Links
    metadata: dict[str, Any] = {}
    webhook: Annotated[Webhook | None, Field(description="null without webhook_url, and inside of webhooks")] = None


class Event(BaseModel):
    """The body of a webhook."""

    type: EventType
    timestamp: Annotated[datetime, Field(description="when the job ended")]
    data: Job


class FieldProblem(BaseModel):
    field: str
    detail: str


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

    type: Annotated[str, Field(examples=["urn:immunize:invalid-field"])]
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
