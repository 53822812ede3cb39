"""Signatures by Standard Webhooks: HMAC-SHA256 with a secret that each tenant has for itself.

A tenant's secret is derived from the operator's, so that there is nothing to store and nothing to lose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

from service.contracts.errors import BadField, shown

LABEL = "immunize webhooks 1\n"  # the same operator's secret, used for something else, gives something else


def tenant_secret(operator_secret: str, tenant: str) -> str:
    """What the tenant checks signatures with: `whsec_` and 32 bytes in base64. Raises BadField."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", tenant):
        raise BadField(f"--tenant: {shown(tenant)} is not a tenant's name; those have letters, digits and ._-")
    derived = hmac.digest(operator_secret.encode(), (LABEL + tenant).encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(derived).decode()


def message_id(job_id: str) -> str:
    """A job has one webhook; it has this id however often it is sent."""
    return f"msg_{job_id}"


class Signer:
    """Signs with each of the operator's secrets, the newest first, so that they can be changed without a gap."""

    def __init__(self, operator_secrets: Sequence[str]) -> None:
        self._secrets = tuple(operator_secrets)

    def headers(self, tenant: str, message: str, sent_at: datetime, body: bytes) -> dict[str, str]:
        """`sent_at` is in UTC."""
        text = body.decode()
        signatures = (Webhook(tenant_secret(secret, tenant)).sign(message, sent_at, text) for secret in self._secrets)
        return {
            "webhook-id": message,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
