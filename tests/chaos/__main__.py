"""python -m tests.chaos --jobs 1000 --workers 3 --kills 20 --seed 7"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos.load import Mix
from tests.chaos.report import shown, summary
from tests.chaos.run import Options, run

DEFAULTS = Options(Mix(0))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Runs jobs while things go wrong, and proves from the store that none was lost. Loopback only.",
    )
    whole: dict[str, Any] = {"type": int, "metavar": "N"}
    made.add_argument("--jobs", default=1000, **whole)
    made.add_argument("--workers", default=DEFAULTS.workers, **whole)
    made.add_argument("--seed", default=7, help="of jobs and schedule (default 7)", **whole)
    made.add_argument("--batch", default=DEFAULTS.batch, help="IMMUNIZE_BATCH_MAX", **whole)
    made.add_argument("--kills", default=20, help="SIGKILLs of workers in the midst of jobs", **whole)
    made.add_argument("--stops", default=0, help="SIGTERMs of workers", **whole)
    made.add_argument("--redis-restarts", default=0, help="kill -9, and begun again with its file", **whole)
    made.add_argument("--redis-wipes", default=0, help="FLUSHALL", **whole)
    made.add_argument("--store-outages", default=0, **whole)
    made.add_argument("--cancels", default=0, **whole)
    made.add_argument("--broken", default=0, help="jobs whose model breaks", **whole)
    made.add_argument("--deadly", default=0, help="jobs whose model kills its worker", **whole)
    seconds: dict[str, Any] = {"type": float, "metavar": "S"}
    made.add_argument("--outage-seconds", default=DEFAULTS.outage, help="of a store outage", **seconds)
    made.add_argument("--redis-seconds", default=DEFAULTS.redis_down, help="that Redis is away in a restart", **seconds)
    made.add_argument("--lease", default=DEFAULTS.lease, help="IMMUNIZE_LEASE_SECONDS", **seconds)
    made.add_argument("--pause", default=DEFAULTS.pause, help="that one pass through the model takes", **seconds)
    made.add_argument("--bound", default=DEFAULTS.bound, help="within which all must be over", **seconds)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument("--keep", type=Path, metavar="DIR", help="a new folder for store and logs, which is kept")
    return made


def main() -> int:
    """0: the service kept its word; 1: it did not, each violation on its own line; 2: bad usage; 130: broken off."""
    asked = parser().parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    options = Options(
        mix=Mix(asked.jobs, asked.broken, asked.deadly),
        workers=asked.workers,
        seed=asked.seed,
        counts={
            "kill": asked.kills,
            "stop": asked.stops,
            "redis-restart": asked.redis_restarts,
            "redis-wipe": asked.redis_wipes,
            "store-outage": asked.store_outages,
            "cancel": asked.cancels,
        },
        outage=asked.outage_seconds,
        redis_down=asked.redis_seconds,
        batch=asked.batch,
        lease=asked.lease,
        pause=asked.pause,
        bound=asked.bound,
    )
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="immunize-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    kept = asked.keep is not None
    try:
        done = run(options, folder.resolve())
        told = summary(done, folder / "store")
        kept = kept or bool(done.violations)
    except KeyboardInterrupt:
        print("broken off; nothing of it runs any more", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(shown(told))
    if kept:
        print(f"store and logs are in {folder}")
    return 1 if done.violations else 0


def _terminated(*_: object) -> NoReturn:
    """As Ctrl-C: everything is put in order on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
