"""From text fields to a plan: every default, every wrong value."""

from __future__ import annotations

import pytest

from service.contracts.catalog import DEFAULT_MODEL, METHODS, Ability, Model, load_models
from service.contracts.errors import BadField
from service.contracts.plan import (
    COMMON,
    FIELDS,
    LOSSES,
    MAX_DENOISING,
    MAX_PROMPT,
    MAX_PROMPTS,
    MAX_REPEATS,
    MAX_SEED,
    MAX_STEPS,
    SOME,
    make_plan,
)

MODELS = load_models()
FILE = ("quality", "exif", "data_mining", "sign", "sizes")  # of a plan: the file that comes back
BEYOND = ("prompts", "denoising_steps", "gradient_steps", "repeats", "masks", "losses", "order")  # of a plan

WRONG = [
    ("method", "magic"),
    ("method", ""),
    ("method", "ENCODER"),
    ("models", "nobody"),
    ("models", f"{DEFAULT_MODEL},nobody"),
    ("models", " , "),
    ("preset", "slow"),
    ("preset", ""),
    ("norm", "l1"),
    ("norm", ""),
    ("target", "pink"),
    ("target", "image"),
    ("format", "gif"),
    ("format", "PNG"),
    *(("quality", text) for text in ("95", "", "x")),  # of a png
    *(("exif", text) for text in ("", "all", "KEEP", "keep,strip")),
    *(("data_mining", text) for text in ("", "true", "DMI-PROHIBITED")),
    *(("sign", text) for text in ("", "1", "yes", "wahr")),
    *(
        ("sizes", text)
        for text in ("", ",", "0", "-1", "1.5", "100000", "64x", "x64", "0x5", "64x64x64", "w", "64d", "all")
    ),
    ("sizes", ",".join(str(side) for side in range(1, 10))),
    *(("epsilon", text) for text in ("0", "-1", "300", "255.01", "nan", "inf", "-inf", "1e999")),
    *(("epsilon", text) for text in ("abc", "", "8/255", "8,5")),
    *(("steps", text) for text in ("0", "-1", "1.5", "1e3", str(MAX_STEPS + 1), "9" * 30, "9" * 5000)),
    *(("steps", text) for text in ("many", "", "0x10", "٣")),
    *(("seed", text) for text in ("-1", "1.5", str(MAX_SEED + 1), "9" * 30, "random", "")),
    ("colour", "red"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda text: repr(text[:12]))
def test_a_wrong_value_names_its_field_and_is_short(field: str, value: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({field: value}, MODELS)
    assert caught.value.field == field
    assert caught.value.detail.startswith(f"{field}: ")
    assert len(caught.value.detail) < 400


WRONG_EDITS = [
    *(("denoising_steps", text) for text in ("0", "-1", "2.5", "four", "", str(MAX_DENOISING + 1), "9" * 30)),
    *(("gradient_steps", text) for text in ("0", "-1", "2.5", "four", "", str(MAX_DENOISING + 1))),
    *(("gradient_steps", text) for text in ("5", str(MAX_DENOISING))),  # of four denoising steps
    *(("repeats", text) for text in ("0", "-1", "1.5", "some", "", str(MAX_REPEATS + 1))),
    *(("masks", text) for text in ("", "GIVEN", "drawn", "given,random")),
    ("prompt", "x" * (MAX_PROMPT + 1)),
    ("prompt", "a cat\n" + "x" * (MAX_PROMPT + 1)),
    ("prompt", "\n".join(f"{number} cats" for number in range(MAX_PROMPTS + 1))),
    ("prompts", "a cat"),
    ("target", "zero"),
    ("preset", "robust"),
    ("models", DEFAULT_MODEL),
    ("models", f"{DEFAULT_MODEL},sdxl-vae"),
    ("epsilon", "0"),
    ("steps", "0"),
]


@pytest.mark.parametrize(("field", "value"), WRONG_EDITS, ids=lambda text: repr(text[:12]))
def test_a_wrong_value_of_a_method_that_edits(field: str, value: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({"method": "diffusion", field: value}, MODELS)
    assert caught.value.field == field
    assert caught.value.detail.startswith(f"{field}: ")
    assert len(caught.value.detail) < 400


WRONG_BACKDOORS = [
    *(("losses", text) for text in ("", " , ", "explode", "Hide", "hide;implant", "implant,explode", "all")),
    *(("order", text) for text in ("", "PARALLEL", "both", "parallel,sequential")),
    *(("denoising_steps", text) for text in ("0", "four", str(MAX_DENOISING + 1))),
    ("gradient_steps", "5"),  # of four denoising steps
    ("prompt", "x" * (MAX_PROMPT + 1)),
    ("target", "zero"),
    ("preset", "early"),
    ("epsilon", "0"),
    ("steps", "0"),
]


@pytest.mark.parametrize(("field", "value"), WRONG_BACKDOORS, ids=lambda text: repr(text[:12]))
def test_a_wrong_value_of_the_backdoor(field: str, value: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({"method": "backdoor", field: value}, MODELS)
    assert caught.value.field == field
    assert caught.value.detail.startswith(f"{field}: ")
    assert len(caught.value.detail) < 400


RIGHT = {"prompt": "a cat", "masks": "given", "losses": "hide", "order": "parallel"}  # others: a number


def test_the_fields_are_those_of_all_methods_and_those_of_some() -> None:
    assert {"method", "models", "epsilon", "steps", "seed", "preset", "target", "format"} <= set(COMMON)
    assert sorted({*COMMON, *SOME}) == sorted(FIELDS)
    assert set(SOME) == {name for method in METHODS.values() for name in method.takes}


@pytest.mark.parametrize("field", SOME)
@pytest.mark.parametrize("method", METHODS)
def test_methods_refuse_the_fields_of_others(method: str, field: str) -> None:
    fields = {"method": method, field: RIGHT.get(field, "1")}
    if field in METHODS[method].takes:
        assert make_plan(fields, MODELS)
        return
    with pytest.raises(BadField, match=f"{field}: {method} takes none; leave the field out") as caught:
        make_plan(fields, MODELS)
    assert caught.value.field == field


@pytest.mark.parametrize("field", FIELDS)
def test_a_long_value_is_not_sent_back_whole(field: str) -> None:
    taker = next((method.name for method in METHODS.values() if field in method.takes), None)
    with pytest.raises(BadField) as caught:
        make_plan(({"method": taker} if taker else {}) | {field: "x" * 10_000}, MODELS)
    assert caught.value.field == field
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"norm": "l2"}, "epsilon"),  # the preset's budget is an linf one
        ({"norm": "l2", "epsilon": "1e7"}, "epsilon"),
        ({"method": "diffusion", "preset": "photoguard", "norm": "linf"}, "epsilon"),
        ({"method": "diffusion", "denoising_steps": "2", "gradient_steps": "3"}, "gradient_steps"),
        ({"method": "backdoor", "denoising_steps": "2", "gradient_steps": "3"}, "gradient_steps"),
        ({"method": "backdoor", "norm": "l2"}, "epsilon"),
        ({"method": "noise", "steps": "5"}, "steps"),
        ({"method": "noise", "target": "gray"}, "target"),
        ({"method": "noise", "preset": "fast"}, "preset"),
    ],
    ids=str,
)
def test_values_that_do_not_go_together(fields: dict[str, str], field: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan(fields, MODELS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("method", "name", "given"), [("encoder", "gray", True), ("encoder", "", True), ("noise", None, True)]
)
def test_a_target_picture_where_it_does_not_fit(method: str, name: str | None, given: bool) -> None:
    fields = {"method": method} | ({} if name is None else {"target": name})
    with pytest.raises(BadField) as caught:
        make_plan(fields, MODELS, target_image=given)
    assert caught.value.field == "target"


def able(*abilities: Ability) -> Model:
    return Model(name="some", kind="python", source="vendor:make", abilities=abilities)


@pytest.mark.parametrize(
    ("method", "models", "said"),
    [
        ("encoder", {"some": able("decodes")}, "some (python) does not fit method encoder, which needs a model that"),
        ("encoder", {"some": able("decodes")}, "none here"),
        ("diffusion", {"some": able("encodes")}, "which needs a model that edits; those are none here"),
        ("backdoor", {"some": able("decodes")}, "which needs a model that edits or encodes; those are none here"),
        ("diffusion", {"some": able("decodes"), "reference-ldm": able("edits")}, "those are some"),  # by its own name
    ],
)
def test_a_model_that_does_not_fit_the_method(method: str, models: dict[str, Model], said: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({"method": method, "models": "some"}, models)
    assert caught.value.field == "models"
    assert said in caught.value.detail


@pytest.mark.parametrize(
    ("models", "wrong"),
    [(DEFAULT_MODEL, DEFAULT_MODEL), ("sdxl-vae,reference-autoencoder", "sdxl-vae")],
)
def test_an_encoder_alone_is_no_model_of_the_diffusion_method(models: str, wrong: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({"method": "diffusion", "models": models}, MODELS)
    assert caught.value.field == "models"
    assert caught.value.detail.startswith(f"models: {wrong} (diffusers-vae) does not fit method diffusion")
    assert "edits; those are reference-ldm, " in caught.value.detail


@pytest.mark.parametrize(
    "models",
    ["reference-ldm", "reference-ldm,reference-autoencoder", "sdxl-vae,reference-ldm", "reference-ldm,sdxl-inpaint"],
)
def test_an_editor_and_what_joins_it(models: str) -> None:
    assert make_plan({"method": "diffusion", "models": models}, MODELS).models == tuple(models.split(","))


@pytest.mark.parametrize(
    "models", [DEFAULT_MODEL, "sdxl-vae,reference-autoencoder", "reference-lama", "reference-mat,sdxl-vae,sdxl-inpaint"]
)
def test_the_backdoor_takes_encoders_and_editors(models: str) -> None:
    assert make_plan({"method": "backdoor", "models": models}, MODELS).models == tuple(models.split(","))


def test_an_editor_has_an_encoder_too() -> None:
    assert make_plan({"method": "encoder", "models": "reference-ldm"}, MODELS).models == ("reference-ldm",)


@pytest.mark.parametrize("quality", ["0", "101", "-5", "9.5", "high", "", "9" * 30])
def test_a_wrong_quality_of_a_jpeg(quality: str) -> None:
    with pytest.raises(BadField, match=r"quality: .* is not a whole number from 1 to 100"):
        make_plan({"format": "jpeg", "quality": quality}, MODELS)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_lossless_format_takes_no_quality(format: str) -> None:
    with pytest.raises(BadField, match=f"quality: {format} is lossless and takes none; leave it out or ask for jpeg"):
        make_plan({"format": format, "quality": "95"}, MODELS)


def test_defaults() -> None:
    plan = make_plan({}, MODELS)
    first = METHODS["encoder"].presets[0]
    assert (plan.method, plan.models, plan.preset) == ("encoder", (DEFAULT_MODEL,), first.name)
    assert (plan.norm, plan.epsilon, plan.steps) == (first.norm, first.epsilon, first.steps)
    assert (plan.target, plan.format) == ("gray", "png")
    assert [getattr(plan, name) for name in FILE] == [None, "strip-location", "none", False, ()]
    assert make_plan({"format": "jpeg"}, MODELS).quality == 95
    assert [getattr(plan, name) for name in BEYOND] == [(), None, None, None, None, (), None]


def test_defaults_of_the_diffusion_method() -> None:
    plan = make_plan({"method": "diffusion"}, MODELS)
    assert (plan.models, plan.preset, plan.target, plan.prompts) == (("reference-ldm",), "fast", "gray", ("",))
    assert (plan.losses, plan.order) == ((), None)


def test_defaults_of_the_backdoor() -> None:
    plan = make_plan({"method": "backdoor"}, MODELS)
    assert (plan.models, plan.preset, plan.target, plan.prompts) == (("reference-lama",), "fast", "farthest", ("",))
    assert (plan.losses, plan.order) == (LOSSES, "parallel") == (("implant", "incomplete", "hide"), "parallel")
    assert (plan.epsilon, plan.steps) == (6, 20)  # the paper's
    assert (plan.repeats, plan.masks) == (None, None)


@pytest.mark.parametrize(
    ("method", "preset"), [(method.name, preset.name) for method in METHODS.values() for preset in method.presets]
)
def test_a_preset_brings_its_numbers(method: str, preset: str) -> None:
    expected = METHODS[method].preset(preset)
    plan = make_plan({"method": method, "preset": preset}, MODELS)
    for name in ("norm", "epsilon", "steps", "denoising_steps", "gradient_steps", "repeats", "masks"):
        assert getattr(plan, name) == getattr(expected, name)


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"epsilon": "255"}, "epsilon", 255.0),
        ({"epsilon": "0.5"}, "epsilon", 0.5),
        ({"epsilon": "1e1"}, "epsilon", 10.0),
        ({"norm": "l2", "epsilon": "4000"}, "epsilon", 4000.0),
        ({"steps": "1"}, "steps", 1),
        ({"steps": str(MAX_STEPS)}, "steps", MAX_STEPS),
        ({"seed": "0"}, "seed", 0),
        ({"seed": str(MAX_SEED)}, "seed", MAX_SEED),
        ({"models": f" {DEFAULT_MODEL} , sdxl-vae,"}, "models", (DEFAULT_MODEL, "sdxl-vae")),
        ({"models": f"{DEFAULT_MODEL},{DEFAULT_MODEL}"}, "models", (DEFAULT_MODEL,)),
        ({"method": "noise"}, "target", None),
        ({"format": "jpeg", "quality": "1"}, "quality", 1),
        ({"format": "jpeg", "quality": "100"}, "quality", 100),
        ({"exif": "keep"}, "exif", "keep"),
        ({"exif": "strip"}, "exif", "strip"),
        ({"data_mining": "reserved-except-search"}, "data_mining", "reserved-except-search"),
        ({"sign": "true"}, "sign", True),
        ({"sign": "True"}, "sign", True),  # as some clients write it
        ({"sign": "FALSE"}, "sign", False),
        ({"sizes": " 1024, 512x512,256w,7h ,original,1024,"}, "sizes", ("1024", "512x512", "256w", "7h", "original")),
    ],
    ids=str,
)
def test_right_values(fields: dict[str, str], name: str, expected: object) -> None:
    assert getattr(make_plan(fields, MODELS), name) == expected


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"prompt": "a cat"}, "prompts", ("a cat",)),
        ({"prompt": " a cat \r\na dog\na cat\n"}, "prompts", ("a cat", "a dog")),
        ({"prompt": ""}, "prompts", ("",)),
        ({"prompt": "a cat\n\n"}, "prompts", ("a cat", "")),  # each ends its line: nothing said is a prompt too
        ({"prompt": "x" * MAX_PROMPT}, "prompts", ("x" * MAX_PROMPT,)),
        (
            {"prompt": "\n".join(str(number) for number in range(MAX_PROMPTS))},
            "prompts",
            tuple(map(str, range(MAX_PROMPTS))),
        ),
        ({"denoising_steps": "1"}, "denoising_steps", 1),
        ({"denoising_steps": "1"}, "gradient_steps", 1),  # no more than there are
        ({"denoising_steps": str(MAX_DENOISING)}, "denoising_steps", MAX_DENOISING),
        ({"denoising_steps": str(MAX_DENOISING)}, "gradient_steps", 4),  # the preset's
        ({"gradient_steps": "1"}, "gradient_steps", 1),
        ({"denoising_steps": "30", "gradient_steps": "30"}, "gradient_steps", 30),
        ({"repeats": str(MAX_REPEATS)}, "repeats", MAX_REPEATS),
        ({"masks": "random"}, "masks", "random"),
        ({"preset": "early", "masks": "given"}, "masks", "given"),
        ({"preset": "photoguard", "repeats": "2"}, "repeats", 2),
        ({"target": "noise"}, "target", "noise"),
        ({"steps": str(MAX_STEPS)}, "steps", MAX_STEPS),
    ],
    ids=lambda value: str(value)[:40],
)
def test_right_values_of_a_method_that_edits(fields: dict[str, str], name: str, expected: object) -> None:
    assert getattr(make_plan({"method": "diffusion"} | fields, MODELS), name) == expected


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"losses": "implant"}, "losses", ("implant",)),
        ({"losses": " hide , implant ,"}, "losses", ("implant", "hide")),  # in their own order
        ({"losses": "hide,hide"}, "losses", ("hide",)),
        ({"losses": "hide,incomplete,implant"}, "losses", LOSSES),
        ({"order": "sequential"}, "order", "sequential"),
        ({"order": "parallel"}, "order", "parallel"),
        ({"prompt": "a cat\na dog"}, "prompts", ("a cat", "a dog")),
        ({"denoising_steps": "2"}, "gradient_steps", 2),
        ({"preset": "paper"}, "losses", LOSSES),
        ({"target": "inverted"}, "target", "inverted"),
    ],
    ids=str,
)
def test_right_values_of_the_backdoor(fields: dict[str, str], name: str, expected: object) -> None:
    assert getattr(make_plan({"method": "backdoor"} | fields, MODELS), name) == expected


def test_a_target_picture() -> None:
    assert make_plan({}, MODELS, target_image=True).target == "image"
    assert make_plan({"target": "image"}, MODELS, target_image=True).target == "image"


def test_seeds_are_drawn_anew() -> None:
    assert len({make_plan({}, MODELS).seed for _ in range(8)}) == 8


def test_a_plan_survives_its_own_json() -> None:
    for fields in (
        {"epsilon": "7.65"},
        {"method": "diffusion", "prompt": "a ü\nb", "masks": "random"},
        {"method": "backdoor", "losses": "hide,implant", "order": "sequential"},
    ):
        plan = make_plan({"seed": str(MAX_SEED)} | fields, MODELS)
        assert type(plan).model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_of_before_there_were_these_fields_is_still_read() -> None:
    """What lies in a queue while a worker is replaced by a newer one."""
    plan = make_plan({}, MODELS)
    assert type(plan).model_validate_json(plan.model_dump_json(exclude={*BEYOND, *FILE})) == plan


def test_early_steers_towards_nothing() -> None:
    plan = make_plan({"method": "diffusion", "preset": "early"}, MODELS)
    assert plan.target is None
    with pytest.raises(BadField, match="target: early has no target"):
        make_plan({"method": "diffusion", "preset": "early", "target": "gray"}, MODELS)
