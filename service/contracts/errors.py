"""The error tree. An error has an HTTP status, a machine type, and a sentence fit for strangers."""

from __future__ import annotations

from typing import ClassVar


def shown(text: str) -> str:
    """What a caller sent, quoted for a sentence, and short however long it was."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


class ImmunizeError(Exception):
    """Something went wrong that a caller can be told of.

    `detail` says what was wrong and what would be right; it never holds a path, a key or a trace. `field` names the
    form field or option at fault, if one is. `retry_after` (seconds) and `challenge` go out as headers.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, field: str | None = None, retry_after: int | None = None, challenge: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after
        self.challenge = challenge


class InputError(ImmunizeError):
    """What was sent is at fault; sending the same again gives the same answer. Exit status 2 on the command line."""

    status = 422
    type = "invalid-input"
    title = "Invalid input"


class BadField(InputError):
    type = "invalid-field"
    title = "A field is wrong"


class NotAnImage(InputError):
    status = 415
    type = "not-an-image"
    title = "Not an image we read"


class TooLarge(InputError):
    status = 413
    type = "too-large"
    title = "Too large"


class ModelMissing(BadField):
    type = "model-missing"
    title = "The model's weights are not here"


class Unauthenticated(ImmunizeError):
    status = 401
    type = "unauthenticated"
    title = "A key is needed"


class Forbidden(ImmunizeError):
    status = 403
    type = "forbidden"
    title = "The key may not do this"


class NotFound(ImmunizeError):
    status = 404
    type = "not-found"
    title = "Not found"


class NotFinished(ImmunizeError):
    status = 409
    type = "not-finished"
    title = "The job has no result"


class AlreadyEnded(ImmunizeError):
    status = 409
    type = "already-ended"
    title = "The job has ended"


class NoWebhook(ImmunizeError):
    status = 409
    type = "no-webhook"
    title = "There is no webhook to send"


class QueueFull(ImmunizeError):
    status = 429
    type = "queue-full"
    title = "The queue is full"


class TooFast(ImmunizeError):
    status = 429
    type = "too-fast"
    title = "Too many requests"


class OverQuota(ImmunizeError):
    status = 429
    type = "over-quota"
    title = "The day's quota is used up"


class ShareFull(QueueFull):
    type = "share-full"
    title = "The tenant's share of the queue is full"


class NotReady(ImmunizeError):
    status = 503
    type = "not-ready"
    title = "Not ready"


class OutOfMemory(ImmunizeError):
    type = "out-of-memory"
    title = "The device ran out of memory"


class SigningFailed(ImmunizeError):
    type = "signing-failed"
    title = "The file could not be signed"


class JobTimeout(ImmunizeError):
    type = "job-timeout"
    title = "The job took too long"
