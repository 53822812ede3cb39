"""From immunized pixels to the delivered file, and a report whose every figure is measured on that file, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image

from service.contracts.delivery import NO_CERTIFICATE, QUALITY
from service.contracts.errors import BadField
from service.contracts.pictures import CONTENT_TYPES, Picture, read_picture, write_picture
from service.contracts.plan import Plan
from service.contracts.schemas import Report
from worker.core.pgd import OnStep
from worker.images import compare, to_picture
from worker.immunization import Immunized, Item, check, device_name, loss, optimize
from worker.metadata import outgoing
from worker.signing import Signer


@dataclass(frozen=True)
class Delivery:
    data: bytes
    content_type: str
    report: Report


def deliver(
    picture: Picture,
    mask: Image.Image | None,
    target: Image.Image | None,
    plan: Plan,
    models: Sequence[Any],
    device: torch.device,
    on_step: OnStep | None = None,
    signer: Signer | None = None,
) -> Delivery:
    """Immunize one picture as planned."""
    check(picture, mask, plan)
    (made,) = optimize([Item(picture, plan, mask, target)], models, device, on_step)
    return encode(made, models, device, signer)


def encode(made: Immunized, models: Sequence[Any], device: torch.device, signer: Signer | None = None) -> Delivery:
    """The file of an immunized picture: encoded, then signed if that was asked for, and measured as it is then."""
    item, picture, plan = made.item, made.item.picture, made.item.plan
    quality = plan.quality or QUALITY
    metadata, warnings = outgoing(picture, plan.format, policy=plan.exif, reservation=plan.data_mining)
    data = write_picture(to_picture(made.image), picture, plan.format, quality=quality, metadata=metadata)
    delivered = _read_back(data, picture)
    if plan.sign:
        if signer is None:
            raise BadField(NO_CERTIFICATE, field="sign")
        content_type, unsigned = CONTENT_TYPES[plan.format], delivered.tobytes()
        data = signer.sign(data, content_type, reservation=plan.data_mining, resized=bool(plan.sizes))
        delivered = _read_back(data, picture)
        if delivered.tobytes() != unsigned:
            raise RuntimeError("signing changed the picture")
    loss_final = made.loss_final
    if plan.format == "jpeg":
        loss_final = loss(item, delivered, models, device)
        warnings.insert(
            0,
            f"JPEG at quality {quality} moves pixels beyond the budget and weakens the protection; these "
            "figures are those of the JPEG itself. png and webp are lossless.",
        )
    return Delivery(data, CONTENT_TYPES[plan.format], _report(made, delivered, loss_final, device, warnings))


def _read_back(data: bytes, picture: Picture) -> Image.Image:
    return read_picture(data, max_pixels=picture.size[0] * picture.size[1]).pixels


def _report(
    made: Immunized, delivered: Image.Image, loss_final: float, device: torch.device, warnings: list[str]
) -> Report:
    picture, plan = made.item.picture, made.item.plan
    distance = compare(picture.pixels, delivered)
    return Report(
        method=plan.method,
        preset=plan.preset,
        models=list(plan.models),
        norm=plan.norm,
        epsilon=plan.epsilon,
        steps=plan.steps,
        seed=plan.seed,
        target=plan.target,
        mask=made.item.mask is not None,
        width=picture.size[0],
        height=picture.size[1],
        linf_255=distance.linf_255,
        l2_255=distance.l2_255,
        psnr_db=distance.psnr_db,
        ssim=distance.ssim,
        loss_initial=made.loss_initial,
        loss_final=loss_final,
        gradient_evaluations=made.gradient_evaluations,
        seconds=round(made.seconds, 3),
        batch=made.batch,
        device=device_name(device),
        version=version("immunize"),
        prompts=list(plan.prompts),
        denoising_steps=plan.denoising_steps,
        gradient_steps=plan.gradient_steps,
        repeats=plan.repeats,
        masks=plan.masks,
        losses=list(plan.losses),
        order=plan.order,
        quality=plan.quality,
        exif=plan.exif,
        data_mining=plan.data_mining,
        signed=plan.sign,
        warnings=warnings,
    )
