"""For who receives webhooks: whether one is genuine."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError

from service.contracts.errors import ImmunizeError
from service.contracts.schemas import Event


class NotGenuine(ImmunizeError):
    """The webhook was not sent by the service, or not just now. Answer it with 400, and do nothing else."""

    status = 400
    type = "not-genuine"
    title = "Not a genuine webhook"


def verify_webhook(secret: str, headers: Mapping[str, str], body: bytes) -> Event:
    """What the webhook says. `secret` is `whsec_...`, `body` the bytes as they came. Raises NotGenuine where no
    signature is right or its timestamp is more than five minutes off.

    A webhook may come twice: `webhook-id` is then the same.
    """
    key = Webhook(secret)
    try:
        key.verify(body, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        raise NotGenuine(f"the webhook is not genuine: {str(error).lower()}") from None
    except ValueError:  # what the library stumbles over
        raise NotGenuine("the webhook is not genuine: its headers or its body cannot be read") from None
    return Event.model_validate_json(body)
