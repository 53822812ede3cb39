"""What can be asked for: methods, their presets, and the models of the registry. Numbers live here, once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contracts.errors import BadField, shown
from service.contracts.torchscript import inpaint_options

Norm = Literal["linf", "l2"]
Masks = Literal["given", "random"]
Loss = Literal["implant", "incomplete", "hide"]
Order = Literal["parallel", "sequential"]
Priority = Literal["interactive", "bulk"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # each is a queue of its own
Ability = Literal["encodes", "decodes", "denoises", "edits"]

EDITOR: tuple[Ability, ...] = ("encodes", "decodes", "denoises", "edits")
KINDS: Mapping[str, tuple[Ability, ...]] = {
    "diffusers-vae": ("encodes", "decodes"),
    "diffusers-inpaint": EDITOR,
    "diffusers-img2img": EDITOR,
    "diffusers-instruct": EDITOR,
    "torchscript-inpaint": ("edits",),
    "python": (),  # what its entry promises
}
PATHS = (".", "/", "~")  # what a source that is a path begins with
Scalar = str | int | float | bool


class Preset(BaseModel):
    """One published or measured way to run a method. `epsilon` is in /255 of a [0,1] image; for `l2` it is the radius
    times 255. Methods that edit also have denoising steps, how many of these (the last ones) carry gradient, gradients
    averaged in a step, and whether the region is taken as given or drawn a little differently each time."""

    model_config = ConfigDict(frozen=True)

    name: str
    norm: Norm
    epsilon: float
    steps: int
    description: str
    denoising_steps: int | None = None
    gradient_steps: int | None = None
    repeats: int | None = None
    masks: Masks | None = None
    aims: bool = True  # whether it steers towards its method's target


class Method(BaseModel):
    """A method, the ability it needs of a model, and its presets, the default one first. `also` is what is enough of
    further models, beside one that has the ability; with `also_alone`, of all of them. `takes` names the fields that it
    has beyond those that every method has."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    ability: Ability
    also: Ability | None = None
    also_alone: bool = False
    default_model: str = "reference-autoencoder"
    presets: tuple[Preset, ...]
    targets: tuple[str, ...] = ()
    takes_steps: bool = True
    takes: tuple[str, ...] = ()
    needs_mask: bool = False

    def preset(self, name: str | None) -> Preset:
        """The preset called `name`, or the default one. Raises BadField."""
        if name is None:
            return self.presets[0]
        for preset in self.presets:
            if preset.name == name:
                return preset
        known = ", ".join(preset.name for preset in self.presets)
        raise BadField(f"preset: {self.name} has no preset {shown(name)}; it has {known}", field="preset")


class Model(BaseModel):
    """A row of the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    kind: str
    source: Annotated[str, Field(min_length=1)]
    subfolder: str | None = None
    size: Annotated[int | None, Field(ge=8, multiple_of=8)] = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    revision: str | None = None
    licence: str = "unknown"
    description: str = ""
    steps: Annotated[int | None, Field(ge=1, le=1000)] = None  # denoising steps of an edit, where none are asked for
    guidance: Annotated[float | None, Field(ge=0)] = None
    abilities: tuple[Ability, ...] = ()
    options: dict[str, Scalar | list[Scalar]] = {}  # of kinds python and torchscript-inpaint

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Model:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.kind == "python":
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.source):
                raise ValueError("the source of kind python is package.module:factory")
            if not self.abilities:
                raise ValueError("kind python says what the model can do: abilities, of " + ", ".join(EDITOR))
            return self
        if self.abilities:
            raise ValueError("abilities are for kind python; other kinds have theirs")
        if not self.takes_words:
            inpaint_options(self.options, self.size)
            if self.steps is not None or self.guidance is not None:
                raise ValueError(f"steps and guidance are for kinds that are told in words; {self.kind} is not")
            if not self.source.startswith((*PATHS, "builtin:")) and not self.subfolder:
                raise ValueError("subfolder names the file in a hub id's repository; a path begins with /, ./ or ~")
        elif self.options:
            raise ValueError("options are for kind python and kind torchscript-inpaint")
        object.__setattr__(self, "abilities", KINDS[self.kind])  # frozen to everybody else
        return self

    @property
    def takes_words(self) -> bool:
        """Whether an edit by this model has a prompt, denoising steps and guidance."""
        return self.kind != "torchscript-inpaint"


ENCODER = Method(
    name="encoder",
    description="Moves the picture's latents to a target's (PhotoGuard, Salman et al. 2023, Algorithm 1)",
    ability="encodes",
    targets=("gray", "zero", "farthest", "inverted", "image"),
    presets=(
        Preset(name="fast", norm="linf", epsilon=8, steps=20, description="Ours: momentum, at most 20 gradients"),
        Preset(
            name="robust",
            norm="linf",
            epsilon=8,
            steps=60,
            description="Ours: random views in turn (native, resized, lightly JPEG-like), at most 60 gradients",
        ),
        Preset(name="paper", norm="linf", epsilon=16, steps=200, description="As printed: step 2/255, zero start"),
        Preset(
            name="photoguard",
            norm="linf",
            epsilon=7.65,
            steps=200,
            description="As PhotoGuard's public code: random start, falling sign steps, unsquared distance",
        ),
    ),
)
DIFFUSION = Method(
    name="diffusion",
    description="Spoils what an editor generates from the picture (PhotoGuard, Salman et al. 2023, Algorithm 2)",
    ability="edits",
    also="encodes",
    default_model="reference-ldm",
    takes=("prompt", "denoising_steps", "gradient_steps", "repeats", "masks"),
    targets=("gray", "noise", "farthest", "inverted", "image"),
    presets=(
        Preset(
            name="fast",
            norm="linf",
            epsilon=8,
            steps=120,
            description="Ours: momentum, one gradient of an unguided edit a step",
            denoising_steps=4,
            gradient_steps=4,
            repeats=1,
            masks="given",
        ),
        Preset(
            name="early",
            norm="linf",
            epsilon=8,
            steps=100,
            description="Makes the first prediction large, no other step (DiffusionGuard)",
            denoising_steps=4,
            gradient_steps=1,
            repeats=1,
            masks="given",
            aims=False,
        ),
        Preset(
            name="paper",
            norm="linf",
            epsilon=16,
            steps=200,
            description="As printed: step 2/255, zero start, four denoising steps",
            denoising_steps=4,
            gradient_steps=4,
            repeats=1,
            masks="given",
        ),
        Preset(
            name="photoguard",
            norm="l2",
            epsilon=8 * 255,
            steps=200,
            description="As PhotoGuard's public code: L2 radius 16 in [-1,1], unit steps, 10 gradients averaged a step",
            denoising_steps=4,
            gradient_steps=4,
            repeats=10,
            masks="given",
        ),
    ),
)
BACKDOOR = Method(
    name="backdoor",
    description="Repainting the masked region fails, edits elsewhere still work (run-time backdoor)",
    ability="edits",
    also="encodes",
    also_alone=True,
    default_model="reference-lama",
    targets=("farthest", "inverted", "gray", "noise", "image"),
    takes=("prompt", "denoising_steps", "gradient_steps", "losses", "order"),
    needs_mask=True,
    presets=(
        Preset(
            name="fast",
            norm="linf",
            epsilon=6,
            steps=20,
            description="Ours: momentum and a falling step",
            denoising_steps=4,
            gradient_steps=4,
        ),
        Preset(
            name="paper",
            norm="linf",
            epsilon=6,
            steps=20,
            description="As printed: 20 iterations of the three losses, zero start",
            denoising_steps=4,
            gradient_steps=4,
        ),
    ),
)
NOISE = Method(
    name="noise",
    description="Uniform random noise of the same budget: the control every method is compared with",
    ability="encodes",
    takes_steps=False,
    presets=(Preset(name="uniform", norm="linf", epsilon=8, steps=0, description="Uniform in the budget"),),
)
METHODS: Mapping[str, Method] = {method.name: method for method in (ENCODER, DIFFUSION, BACKDOOR, NOISE)}
DEFAULT_MODEL = "reference-autoencoder"


def load_models(extra: Path | None = None) -> dict[str, Model]:
    """The shipped registry, with the operator's file laid over it. Raises BadField for a file that is wrong."""
    shipped = files("service.contracts").joinpath("models.toml").read_text(encoding="utf-8")
    models = _parse(shipped, "models.toml")
    if extra is not None:
        try:
            text = extra.read_text(encoding="utf-8")
        except OSError as error:
            raise BadField(f"models file: {extra.name} cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise BadField(f"models file: {extra.name} is not UTF-8") from None
        models |= _parse(text, extra.name)
    return models


def _parse(text: str, name: str) -> dict[str, Model]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadField(f"models file: {name} is not TOML: {error}") from None
    models = {}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise BadField(f"models file: {name}: {key} stands outside a [table]; a model is a table")
        try:
            model = Model(name=key, **table)
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("name",), "msg": str(error)}
            where = ".".join(str(part) for part in first["loc"])
            what = str(first["msg"]).removeprefix("Value error, ")
            raise BadField(f"models file: {name}: [{key}] {where + ': ' if where else ''}{what}") from None
        models[key] = model
    return models
