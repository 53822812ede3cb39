"""What is left of each preset after what a platform's pipeline does to a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from service.contracts.catalog import METHODS
from worker.attacks.encoder import EncoderAttack
from worker.core.budget import Linf
from worker.images import to_picture, to_tensor
from worker.immunization import immunize
from worker.models.abilities import Encodes
from worker.recipes import RECIPES

Transform = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Transform:
    def apply(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return apply


def half(picture: Image.Image) -> Image.Image:
    return picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.LANCZOS)


def half_and_back(picture: Image.Image) -> Image.Image:
    return half(picture).resize(picture.size, Image.Resampling.LANCZOS)


TRANSFORMS: Mapping[str, Transform] = {
    "as delivered": lambda picture: picture,
    "JPEG 95": jpeg(95),
    "JPEG 75": jpeg(75),
    "half and back": half_and_back,
    "JPEG 75, half": lambda picture: half(jpeg(75)(picture)),
    "JPEG 75, half, back": lambda picture: half_and_back(jpeg(75)(picture)),
    "blur 1": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
}


@dataclass(frozen=True)
class Row:
    """Mean over the pictures of loss(T(immunized)) / loss(T(original)) by transformation: 1 is no protection left."""

    preset: str
    steps: int
    ratios: Mapping[str, float]

    def kept(self, name: str) -> float | None:
        """The share of the reduction as delivered that is left after a transformation; None where there was none."""
        reduction = 1 - self.ratios["as delivered"]
        return (1 - self.ratios[name]) / reduction if reduction > 0.05 else None


def measure(encoder: Encodes, x: Tensor, epsilon: float, say: Callable[[str], None]) -> list[Row]:
    """Every preset of the encoder attack and the noise control at the same budget. x: (N,3,H,W); epsilon in /255."""
    attack, rows = EncoderAttack(encoder), []
    for method in (METHODS["encoder"], METHODS["noise"]):
        for preset in method.presets:
            say(f"robustness: {preset.name}")
            out = immunize(
                x,
                attack=attack,
                budget=Linf(epsilon / 255),
                steps=preset.steps,
                seed=range(len(x)),
                recipe=RECIPES[method.name, preset.name],
            )
            ratios = {name: _ratio(attack, x, out.images, transform) for name, transform in TRANSFORMS.items()}
            rows.append(Row(preset.name if method.name == "encoder" else "noise", preset.steps, ratios))
    return rows


def _ratio(attack: EncoderAttack, x: Tensor, x_adv: Tensor, transform: Transform) -> float:
    after, before = _transformed(x_adv, transform), _transformed(x, transform)
    objective = attack.objective(before)
    with torch.no_grad():
        return float((objective.loss(after) / objective.loss(before)).mean())


def _transformed(x: Tensor, transform: Transform) -> Tensor:
    return torch.cat([to_tensor(transform(to_picture(image))) for image in x.split(1)]).to(x.device)
