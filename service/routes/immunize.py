"""POST /immunize: take a picture in."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.contracts.batching import batch_key
from service.contracts.catalog import METHODS, PRIORITIES
from service.contracts.delivery import DATA_MINING, EXIF_POLICIES, FORMATS, QUALITY, check_sign
from service.contracts.errors import ModelMissing, NotReady, QueueFull
from service.contracts.pictures import check_format, check_mask, read_mask, read_picture
from service.contracts.plan import LOSSES, MASKS, MAX_DENOISING, MAX_REPEATS, MAX_STEPS, ORDERS, make_plan
from service.contracts.records import Record
from service.contracts.renditions import own_sizes
from service.contracts.resize import resized_mask
from service.contracts.schemas import Job
from service.dependencies import Admitted, House, TheHouse
from service.problems import documented
from service.routes.jobs import job_view
from service.uploads import Upload, read_upload
from service.webhooks.address import LONGEST, check_url

router = APIRouter(tags=["immunize"])

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "the picture"},
        "mask": {"type": "string", "format": "binary", "description": "same size; white = the sensitive region"},
        "target_image": {"type": "string", "format": "binary", "description": "a picture as the target"},
        "method": {"type": "string", "enum": list(METHODS), "default": "encoder"},
        "models": {"type": "string", "description": "names from /catalog, comma-separated"},
        "preset": {"type": "string", "description": "a preset of the method, see /catalog"},
        "norm": {"type": "string", "enum": ["linf", "l2"]},
        "epsilon": {"type": "number", "description": "budget in /255 units; default: the preset's"},
        "steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS},
        "seed": {"type": "integer", "minimum": 0, "description": "default: drawn for this job"},
        "target": {"type": "string", "description": "a target of the method, see /catalog"},
        "format": {"type": "string", "enum": list(FORMATS), "default": "png"},
        "quality": {"type": "integer", "minimum": 1, "maximum": 100, "description": f"jpeg; default {QUALITY}"},
        "exif": {
            "type": "string",
            "enum": list(EXIF_POLICIES),
            "default": EXIF_POLICIES[0],
            "description": "what is delivered of EXIF, XMP and IPTC; thumbnails never are",
        },
        "data_mining": {
            "type": "string",
            "enum": list(DATA_MINING),
            "default": DATA_MINING[0],
            "description": "the reservation of data mining (PLUS) that is written into XMP",
        },
        "sign": {
            "type": "boolean",
            "default": False,
            "description": "put in a signed C2PA manifest; 422 where the operator has no certificate",
        },
        "sizes": {
            "type": "string",
            "description": "several results, each immunized at its own size: of 1024 (longer side), 512x512 (fits into "
            "it), 256w, 256h and original, comma-separated; no picture is enlarged",
        },
        "prompt": {
            "type": "string",
            "description": "diffusion, backdoor: what a misuser may ask for; several, one a line",
        },
        "denoising_steps": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_DENOISING,
            "description": "diffusion, backdoor",
        },
        "gradient_steps": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_DENOISING,
            "description": "diffusion, backdoor: the last of these that carry gradient",
        },
        "repeats": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_REPEATS,
            "description": "diffusion: gradients averaged in a step",
        },
        "masks": {
            "type": "string",
            "enum": list(MASKS),
            "description": "diffusion: random = grown or shrunken anew each time",
        },
        "losses": {
            "type": "string",
            "default": ",".join(LOSSES),
            "description": "backdoor: which of its losses are taken, comma-separated",
        },
        "order": {
            "type": "string",
            "enum": list(ORDERS),
            "default": ORDERS[0],
            "description": "backdoor: several models together, or one after the other",
        },
        "priority": {
            "type": "string",
            "enum": list(PRIORITIES),
            "default": PRIORITIES[0],
            "description": "bulk: for what may wait; interactive jobs go first",
        },
        "metadata": {"type": "string", "description": "a JSON object; it comes back with the job"},
        "webhook_url": {
            "type": "string",
            "format": "uri",
            "maxLength": LONGEST,
            "description": "a public https address that is told when the job has ended",
        },
    },
}


@router.post(
    "/immunize",
    operation_id="immunize",
    summary="Immunize a picture",
    status_code=202,
    response_model=Job,
    responses=documented(413, 415, 422, 429, 503),
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def immunize(request: Request, response: Response, house: TheHouse, admission: Admitted) -> Job:
    """Checks the picture and queues it. Poll the job that is answered (its address is in `Location`)."""
    upload = await read_upload(request, house.settings.max_upload_bytes)
    record = await run_in_threadpool(_accept, house, admission.tenant, upload)
    admission.count()
    view = await run_in_threadpool(job_view, house, record)
    response.headers["Location"] = view.links.itself
    return view


def _accept(house: House, tenant: str, upload: Upload) -> Record:
    """From here on, either everything is stored and queued, or nothing is."""
    plan = make_plan(upload.fields, house.models, target_image=upload.target is not None)
    webhook_url = None if upload.webhook_url is None else check_url(upload.webhook_url, house.settings)
    check_sign(plan.sign, able=house.settings.c2pa_certificate is not None)
    limit = house.settings.max_pixels
    picture = read_picture(upload.image, max_pixels=limit)
    mask = None if upload.mask is None else read_mask(upload.mask, picture.size, max_pixels=limit)
    for size in own_sizes(plan.sizes, picture.size):
        check_format(plan.format, picture, size)
        smaller = None if mask is None else resized_mask(mask, size)
        check_mask(smaller, needed=METHODS[plan.method].needs_mask)
    if upload.target is not None:
        read_picture(upload.target, max_pixels=limit, field="target_image")
    if house.queue.depth() >= house.settings.max_queue_depth:
        raise QueueFull(f"{house.settings.max_queue_depth} jobs wait already; come back later", retry_after=30)
    missing = house.queue.missing_models()
    for name in plan.models:
        if name in missing:
            raise ModelMissing(f"models: no worker has the weights of {name}; {missing[name]}", field="models")
    record = house.records.create(
        tenant,
        plan,
        upload.image,
        key=batch_key(plan, picture.size, mask=mask is not None, target=upload.target),
        mask=upload.mask,
        target=upload.target,
        priority=upload.priority,
        metadata=upload.metadata,
        webhook_url=webhook_url,
    )
    try:
        house.queue.enqueue(record)
    except NotReady:
        house.records.forget(tenant, record.id)
        raise
    return record
