"""What was delivered, as the record of a job has it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from service.contracts.records import Record, StoredRendition, StoredResult, place
from service.contracts.renditions import Rendition
from worker.delivery import Delivery


def stored(record: Record, delivery: Delivery) -> StoredResult:
    """Where a file is to lie: under its content's hash."""
    digest = hashlib.sha256(delivery.data).hexdigest()
    return StoredResult(
        key=place(record, digest), sha256=digest, content_type=delivery.content_type, bytes=len(delivery.data)
    )


def finished(
    record: Record, renditions: Sequence[Rendition], results: Sequence[StoredResult], deliveries: Sequence[Delivery]
) -> Record:
    """The record with its results, the largest first, under the names that were asked for."""
    reports = [delivery.report for delivery in deliveries]
    sizes = [(report.width, report.height) for report in reports]
    named = [
        StoredRendition(name=each.name, result=results[at], report=reports[at])
        for each, at in ((each, sizes.index(each.size)) for each in renditions)
    ]
    return record.model_copy(update={"result": results[0], "report": reports[0], "renditions": named})
