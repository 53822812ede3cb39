"""The keys that hold now: the key file, read again once it has changed."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from service import keyfile
from service.apikeys import ApiKey, TenantLimits, key_id, matches
from service.contracts.errors import BadField

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # between two looks at the file: a key that was revoked is refused after so long


class Keyring:
    """Keys by what clients send. Raises BadField where the file cannot be read at first; later, what was read holds."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._broken = ""  # what is wrong with the file now
        try:
            self._keys, self._mark = keyfile.read(file)
        except OSError as error:
            raise BadField(
                f"IMMUNIZE_API_KEYS_FILE: it cannot be read ({error.strerror}); `immunize keys create` makes it"
            ) from None
        except keyfile.KeyFileBroken as error:
            raise BadField(f"IMMUNIZE_API_KEYS_FILE: {error.detail}") from None
        self._looked = time.monotonic()

    def find(self, sent: str) -> ApiKey | None:
        """What is kept of the key that was sent, if it is one of ours and valid now."""
        self._look()
        kept = self._keys.keys.get(key_id(sent) or "")
        right = matches(sent, kept)
        return kept if right and kept is not None and kept.state(datetime.now(UTC)) == "valid" else None

    def limits(self, tenant: str) -> TenantLimits | None:
        return self._keys.limits.get(tenant)

    def _look(self) -> None:
        """Read the file again if it has changed, one thread for all."""
        if time.monotonic() - self._looked < LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = time.monotonic()
            if keyfile.mark(self._file) == self._mark:
                self._broken = ""
                return
            self._keys, self._mark = keyfile.read(self._file)
            self._broken = ""
            log.warning("the API keys were read again: there are %d", len(self._keys.keys))
        except OSError as error:
            self._hold(f"it cannot be read ({error.strerror})")
        except keyfile.KeyFileBroken as error:
            self._hold(error.detail)
        finally:
            self._lock.release()

    def _hold(self, why: str) -> None:
        if why != self._broken:  # once, not every second
            log.error("IMMUNIZE_API_KEYS_FILE: %s; the keys that were read before still hold", why)
        self._broken = why
