"""From what was asked for (text fields of a form or a command line) to a plan in which every value is fixed.

Gateway, worker and command line all come through here, so that the same wrong value gets the same sentence.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict

from service.contracts.catalog import METHODS, Loss, Masks, Method, Model, Norm, Order, Preset
from service.contracts.delivery import DELIVERY, DataMining, ExifPolicy, make_delivery
from service.contracts.errors import BadField, shown
from service.contracts.words import integer, word

COMMON = ("method", "models", "preset", "norm", "epsilon", "steps", "seed", "target", *DELIVERY)
SOME = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.takes))  # have these fields
FIELDS = (*COMMON, *SOME)
MASKS: tuple[Masks, ...] = get_args(Masks)
LOSSES: tuple[Loss, ...] = get_args(Loss)
ORDERS: tuple[Order, ...] = get_args(Order)
MAX_PROMPTS = 32
MAX_PROMPT = 1000  # letters
MAX_DENOISING = 100
MAX_REPEATS = 64
MAX_STEPS = 2000
MAX_SEED = 2**63 - 1
MAX_RADIUS = 1e6  # an L2 radius in /255: beyond the diagonal of a 50-megapixel picture's cube


class Plan(BaseModel):
    """What will be done, with nothing left open. `epsilon` in /255; for `l2` it is the radius times 255. `quality` is
    for jpeg alone. What stands after `sizes` is for methods that take it."""

    model_config = ConfigDict(frozen=True)

    method: str
    models: tuple[str, ...]
    preset: str
    norm: Norm
    epsilon: float
    steps: int
    seed: int
    target: str | None
    format: str
    quality: int | None = None
    exif: ExifPolicy = "strip-location"
    data_mining: DataMining = "none"
    sign: bool = False
    sizes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    denoising_steps: int | None = None
    gradient_steps: int | None = None
    repeats: int | None = None
    masks: Masks | None = None
    losses: tuple[Loss, ...] = ()
    order: Order | None = None


def make_plan(fields: Mapping[str, str], models: Mapping[str, Model], *, target_image: bool = False) -> Plan:
    """Resolve `fields` (any of FIELDS, as text; absent ones take their defaults) against the catalog.

    A seed that is not given is drawn: a fixed recipe could be learnt and inverted by whoever can submit pictures.
    `target_image` says that a picture came along as the target. Raises BadField.
    """
    for name in fields:
        if name not in FIELDS:
            raise BadField(f"{name}: no such field; there are {', '.join(FIELDS)}", field=name)
    method = _choice("method", fields.get("method", "encoder"), METHODS)
    preset = method.preset(fields.get("preset"))
    norm = word("norm", fields.get("norm", preset.norm), ("linf", "l2"))
    if norm != preset.norm and "epsilon" not in fields:
        raise BadField(
            f"epsilon: preset {preset.name} has its budget in {preset.norm}; with norm {norm} say epsilon too "
            "(for l2 the radius, in /255 units)",
            field="epsilon",
        )
    return Plan(
        method=method.name,
        models=_models(fields.get("models"), method, models),
        preset=preset.name,
        norm="l2" if norm == "l2" else "linf",
        epsilon=_epsilon(fields["epsilon"], norm) if "epsilon" in fields else preset.epsilon,
        steps=_steps(fields["steps"], method) if "steps" in fields else preset.steps,
        seed=integer("seed", fields["seed"], 0, MAX_SEED) if "seed" in fields else secrets.randbelow(2**53),
        target=_target(fields.get("target"), method, preset, target_image),
        **make_delivery(fields),
        **_some(fields, method, preset),
    )


def _some(fields: Mapping[str, str], method: Method, preset: Preset) -> dict[str, Any]:
    """The part of a plan that only some methods have."""
    for name in SOME:
        if name in fields and name not in method.takes:
            raise BadField(f"{name}: {method.name} takes none; leave the field out", field=name)
    chosen: dict[str, Any] = {
        name: integer(name, fields[name], 1, most) if name in fields else getattr(preset, name)
        for name, most in (
            ("denoising_steps", MAX_DENOISING),
            ("gradient_steps", MAX_DENOISING),
            ("repeats", MAX_REPEATS),
        )
        if name in method.takes
    }
    if chosen and chosen["gradient_steps"] > chosen["denoising_steps"]:
        if "gradient_steps" in fields:
            raise BadField(
                f"gradient_steps: {chosen['gradient_steps']} of {chosen['denoising_steps']} denoising steps cannot "
                "carry gradient; at most all do",
                field="gradient_steps",
            )
        chosen["gradient_steps"] = chosen["denoising_steps"]
    if "masks" in method.takes:
        chosen["masks"] = word("masks", fields.get("masks", preset.masks or MASKS[0]), MASKS)
    if "prompt" in method.takes:
        chosen["prompts"] = _prompts(fields.get("prompt", ""))
    if "losses" in method.takes:
        chosen["losses"] = _losses(fields.get("losses", ",".join(LOSSES)))
    if "order" in method.takes:
        chosen["order"] = word("order", fields.get("order", ORDERS[0]), ORDERS)
    return chosen


def _losses(text: str) -> tuple[str, ...]:
    """In the order of LOSSES, however they were named."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named or [""]:
        word("losses", name, LOSSES)
    return tuple(loss for loss in LOSSES if loss in named)


def _prompts(text: str) -> tuple[str, ...]:
    """One a line."""
    prompts = tuple(dict.fromkeys(line.strip() for line in text.splitlines())) or ("",)
    if len(prompts) > MAX_PROMPTS or max(len(prompt) for prompt in prompts) > MAX_PROMPT:
        raise BadField(
            f"prompt: at most {MAX_PROMPTS} prompts, one a line, of at most {MAX_PROMPT} letters each", field="prompt"
        )
    return prompts


def _choice(field: str, name: str, known: Mapping[str, Method]) -> Method:
    if name not in known:
        raise BadField(f"{field}: there is no {field} {shown(name)}; there are {', '.join(known)}", field=field)
    return known[name]


def _models(text: str | None, method: Method, known: Mapping[str, Model]) -> tuple[str, ...]:
    named = text or method.default_model
    names = tuple(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    if not names:
        raise BadField("models: name at least one model", field="models")
    for name in names:
        if name not in known:
            raise BadField(f"models: there is no model {shown(name)}; there are {', '.join(known)}", field="models")
        if not {method.ability, method.also} & set(known[name].abilities):
            raise _unfit(name, method, known)
    if not method.also_alone and not any(method.ability in known[name].abilities for name in names):
        raise _unfit(names[0], method, known)
    return names


def _unfit(name: str, method: Method, known: Mapping[str, Model]) -> BadField:
    able = (method.ability, method.also) if method.also and method.also_alone else (method.ability,)
    fitting = ", ".join(model.name for model in known.values() if set(able) & set(model.abilities))
    return BadField(
        f"models: {name} ({known[name].kind}) does not fit method {method.name}, which needs a model that "
        f"{' or '.join(able)}; those are {fitting or 'none here'}",
        field="models",
    )


def _epsilon(text: str, norm: str) -> float:
    most = 255.0 if norm == "linf" else MAX_RADIUS
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:  # false for NaN too
        raise BadField(
            f"epsilon: {shown(text)} is not a number above 0 and at most {most:g} (in /255 units: 8 means 8/255)",
            field="epsilon",
        )
    return value


def _steps(text: str, method: Method) -> int:
    if not method.takes_steps:
        raise BadField(f"steps: {method.name} takes no steps; leave the field out", field="steps")
    return integer("steps", text, 1, MAX_STEPS)


def _target(name: str | None, method: Method, preset: Preset, target_image: bool) -> str | None:
    if not method.targets or not preset.aims:
        if name is not None or target_image:
            what = preset.name if method.targets else method.name
            raise BadField(f"target: {what} has no target; leave the field out", field="target")
        return None
    named = tuple(target for target in method.targets if target != "image")
    if target_image:
        if name not in {None, "image"}:
            raise BadField("target: give a name or a picture, not both", field="target")
        return "image"
    if name == "image":
        raise BadField("target: 'image' needs the picture itself; send it as target_image", field="target")
    return word("target", name or method.targets[0], named)
