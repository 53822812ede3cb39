"""Content credentials: a C2PA manifest that says what was done to the picture, signed with the operator's certificate.

Nothing here uses the network, unless the operator names a time-stamp server. No thumbnail goes in, and no manifest of
what was sent: its thumbnails would show the picture that is not immunized, and its assertions may tell the place.
"""

from __future__ import annotations

import io
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from service.contracts.delivery import DataMining
from service.contracts.errors import BadField, SigningFailed
from service.contracts.settings import Settings

log = logging.getLogger(__name__)
ALTERED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"  # by algorithm, not generated
NOT_ALLOWED = {"use": "notAllowed"}
TRAINING = {"cawg.ai_training": NOT_ALLOWED, "cawg.ai_generative_training": NOT_ALLOWED}
SEARCH = {"use": "constrained", "constraint_info": "allowed for search engine indexing alone"}
ENTRIES: dict[DataMining, dict[str, dict[str, str]]] = {  # CAWG's training and data mining assertion
    "none": {},
    "reserved": TRAINING | {"cawg.data_mining": NOT_ALLOWED},
    "reserved-except-search": TRAINING | {"cawg.data_mining": SEARCH},
    "reserved-ai-training": TRAINING,
}


class Signer:
    """Signs files; several threads may. `certificates` and `key` are PEM, the key PKCS#8 without a password."""

    def __init__(self, certificates: bytes, key: bytes, algorithm: str, timestamps: str | None = None) -> None:
        import c2pa

        self._c2pa = c2pa
        quiet: dict[str, Any] = {
            "verify": {"verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
            "builder": {"thumbnail": {"enabled": False}},
        }
        if timestamps is None:
            quiet["core"] = {"allowed_network_hosts": []}
        try:
            self._context = c2pa.Context.from_dict(quiet)
            stamps = timestamps.encode() if timestamps else None
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.encode(), certificates, key, stamps))
        except c2pa.C2paError as error:
            raise _failed(error) from error

    def sign(self, data: bytes, content_type: str, *, reservation: DataMining, resized: bool) -> bytes:
        """The file with a signed manifest in it, its pixels untouched. Raises SigningFailed."""
        manifest = _manifest(content_type, reservation, resized)
        out = io.BytesIO()
        try:
            with self._c2pa.Builder(manifest, context=self._context) as builder:
                # What was sent is named as the parent, and nothing of it goes in: this file is read in its place.
                builder.add_ingredient({"relationship": "parentOf", "label": "sent"}, content_type, io.BytesIO(data))
                builder.sign(self._signer, content_type, io.BytesIO(data), out)
        except self._c2pa.C2paError as error:
            raise _failed(error) from error
        return out.getvalue()


def load_signer(settings: Settings) -> Signer | None:
    """The signer of these settings, tried once; None where they name no certificate. Raises BadField."""
    if settings.c2pa_certificate is None:
        return None
    if settings.c2pa_key is None:
        raise BadField("IMMUNIZE_C2PA_KEY: set it too, to the file of the certificate's private key")
    certificates, key = _file("CERTIFICATE", settings.c2pa_certificate), _file("KEY", settings.c2pa_key)
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    try:
        signer = Signer(certificates, key, settings.c2pa_algorithm, settings.c2pa_timestamp_url)
        signer.sign(pixel.getvalue(), "image/png", reservation="none", resized=False)
    except ImportError:
        raise BadField(
            "IMMUNIZE_C2PA_CERTIFICATE: signing needs c2pa-python; install it with: pip install 'immunize[c2pa]'"
        ) from None
    except SigningFailed as error:
        raise BadField(
            f"IMMUNIZE_C2PA_CERTIFICATE: nothing can be signed with it ({error.__cause__}); it must be a chain in PEM, "
            f"the signer's certificate first, with its PKCS#8 key in IMMUNIZE_C2PA_KEY, and fit for C2PA and "
            f"{settings.c2pa_algorithm}"
        ) from None
    return signer


def _manifest(content_type: str, reservation: DataMining, resized: bool) -> dict[str, Any]:
    agent = {"name": "immunize", "version": version("immunize")}
    actions: list[dict[str, Any]] = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["sent"]}},
        {
            "action": "c2pa.filtered",
            "digitalSourceType": ALTERED,
            "softwareAgent": agent,
            "description": "A perturbation that is hard to see, against editing by AI models",
        },
    ]
    if resized:
        actions.insert(1, {"action": "c2pa.resized", "softwareAgent": agent})
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    if ENTRIES[reservation]:
        assertions.append({"label": "cawg.training-mining", "data": {"entries": ENTRIES[reservation]}})
    return {"claim_generator_info": [agent], "format": content_type, "assertions": assertions}


def _file(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadField(f"IMMUNIZE_C2PA_{name}: the file cannot be read ({error.strerror})") from None


def _failed(error: Exception) -> SigningFailed:
    log.error("signing failed: %s", error)
    return SigningFailed("the file could not be signed; the operator's certificate must be looked after")
