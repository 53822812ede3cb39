"""A multipart body, read with its size bounded, as text fields and files."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.contracts.catalog import PRIORITIES, Priority
from service.contracts.errors import BadField, TooLarge, shown
from service.contracts.plan import FIELDS

FILES = ("image", "mask", "target_image")
TEXTS = (*FIELDS, "metadata", "priority", "webhook_url")
MAX_TEXT_BYTES = 64 * 1024
LONGEST_NAME = 40  # of what is sent back to the sender; ours are shorter


@dataclass(frozen=True)
class Upload:
    fields: dict[str, str]
    metadata: dict[str, Any]
    priority: Priority
    webhook_url: str | None
    image: bytes
    mask: bytes | None
    target: bytes | None


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """The parts of a `POST /immunize`. Reading stops where the body goes past `max_bytes` (TooLarge)."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise BadField("body: send multipart/form-data with the file part 'image'", field="image")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parser = MultiPartParser(
        request.headers, _bounded(request, max_bytes), max_files=8, max_fields=32, max_part_size=MAX_TEXT_BYTES
    )
    texts: dict[str, str] = {}
    files: dict[str, bytes] = {}
    try:
        form = await parser.parse()
        for sent, value in form.multi_items():
            name = sent[:LONGEST_NAME]
            if name in texts or name in files:
                raise BadField(f"{name}: it was sent twice; send it once", field=name)
            if isinstance(value, UploadFile):
                if name not in FILES:
                    raise BadField(f"{name}: no such file part; there are {', '.join(FILES)}", field=name)
                files[name] = await value.read()
            elif name in FILES:
                raise BadField(f"{name}: send it as a file part, with a filename", field=name)
            elif name not in TEXTS:
                raise BadField(f"{name}: no such field; there are {', '.join((*FILES, *TEXTS))}", field=name)
            else:
                texts[name] = value
    except MultiPartException as error:
        raise BadField(f"body: it is not well-formed multipart/form-data: {error.message}") from None
    finally:
        for file in parser._files_to_close_on_error:  # the form knows only the files that came whole
            file.close()
    if "image" not in files:
        raise BadField("image: the file part is missing; send the picture as 'image'", field="image")
    metadata, priority = _metadata(texts.pop("metadata", "{}")), _priority(texts.pop("priority", PRIORITIES[0]))
    webhook_url = texts.pop("webhook_url", None)
    return Upload(texts, metadata, priority, webhook_url, files["image"], files.get("mask"), files.get("target_image"))


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes]:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"body: it is larger than the limit of {max_bytes} bytes; send less")


def _priority(text: str) -> Priority:
    for priority in PRIORITIES:
        if text == priority:
            return priority
    raise BadField(f"priority: {shown(text)} is not one of {', '.join(PRIORITIES)}", field="priority")


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadField('metadata: it is not a JSON object; send one, like {"album": 7}', field="metadata")
    return found
