"""From what was asked for (text fields of a form or a command line) to a plan in which every value is fixed.

Gateway, worker and command line all come through here, so that the same wrong value gets the same sentence.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from service.contracts.catalog import DEFAULT_MODEL, METHODS, Method, Model, Norm
from service.contracts.errors import BadField, shown

FORMATS = ("png", "webp", "jpeg")
FIELDS = ("method", "models", "preset", "norm", "epsilon", "steps", "seed", "target", "format")
MAX_STEPS = 2000
MAX_SEED = 2**63 - 1
MAX_RADIUS = 1e6  # an L2 radius in /255: beyond the diagonal of a 50-megapixel picture's cube


class Plan(BaseModel):
    """What will be done, with nothing left open. `epsilon` in /255; for `l2` it is the radius times 255."""

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
    norm = _word("norm", fields.get("norm", preset.norm), ("linf", "l2"))
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
        seed=_integer("seed", fields["seed"], 0, MAX_SEED) if "seed" in fields else secrets.randbelow(2**53),
        target=_target(fields.get("target"), method, target_image),
        format=_word("format", fields.get("format", "png"), FORMATS),
    )


def _choice(field: str, name: str, known: Mapping[str, Method]) -> Method:
    if name not in known:
        raise BadField(f"{field}: there is no {field} {shown(name)}; there are {', '.join(known)}", field=field)
    return known[name]


def _word(field: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise BadField(f"{field}: {shown(value)} is not one of {', '.join(known)}", field=field)
    return value


def _models(text: str | None, method: Method, known: Mapping[str, Model]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (text or DEFAULT_MODEL).split(",") if name.strip()))
    if not names:
        raise BadField("models: name at least one model", field="models")
    for name in names:
        if name not in known:
            raise BadField(f"models: there is no model {shown(name)}; there are {', '.join(known)}", field="models")
        if method.ability not in known[name].abilities:
            fitting = ", ".join(model.name for model in known.values() if method.ability in model.abilities)
            raise BadField(
                f"models: {name} ({known[name].kind}) does not fit method {method.name}, which needs a model that "
                f"{method.ability}; those are {fitting or 'none here'}",
                field="models",
            )
    return names


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
    return _integer("steps", text, 1, MAX_STEPS)


def _integer(field: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not least <= int(text) <= most:
        raise BadField(f"{field}: {shown(text)} is not a whole number from {least} to {most}", field=field)
    return int(text)


def _target(name: str | None, method: Method, target_image: bool) -> str | None:
    if not method.targets:
        if name is not None or target_image:
            raise BadField(f"target: {method.name} has no target; leave the field out", field="target")
        return None
    named = tuple(target for target in method.targets if target != "image")
    if target_image:
        if name not in {None, "image"}:
            raise BadField("target: give a name or a picture, not both", field="target")
        return "image"
    if name == "image":
        raise BadField("target: 'image' needs the picture itself; send it as target_image", field="target")
    return _word("target", name or method.targets[0], named)
