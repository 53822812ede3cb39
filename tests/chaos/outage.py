"""A store in a folder that can be taken away and put back, as when a network drive drops out."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

BACK_SECONDS = 30.0


class StoreFolder:
    """The folder is made here: whoever uses a store that is not there must not make another in its place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._away = root.with_name(f"{root.name}.away")
        self.strays: list[str] = []
        (root / ".staging").mkdir(parents=True)

    @property
    def here(self) -> bool:
        return not self._away.exists()

    def go_away(self) -> None:
        self.root.rename(self._away)

    def come_back(self) -> None:
        """Put it back. What others wrote where it used to stand is noted in `strays`, and laid aside."""
        if self.here:
            return
        until = time.monotonic() + BACK_SECONDS
        while True:
            with suppress(FileNotFoundError):
                stray = self.root.rename(self.root.with_name(f"{self.root.name}.stray-{time.time_ns()}"))
                found = [path.relative_to(stray).as_posix() for path in stray.rglob("*") if path.is_file()]
                self.strays += found or ["an empty folder"]
            try:
                self._away.rename(self.root)
                return
            except OSError:  # somebody made a new one between the two
                if time.monotonic() > until:
                    raise

    def pending(self) -> set[str]:
        """Ids of the jobs that have not ended. Raises FileNotFoundError while the store is away."""
        self.root.stat()
        return {path.name for path in (self.root / "pending").glob("*/*")}
