"""From text fields to a plan: every default, every wrong value."""

from __future__ import annotations

import pytest

from service.contracts.catalog import DEFAULT_MODEL, METHODS, Model, load_models
from service.contracts.errors import BadField
from service.contracts.plan import MAX_SEED, MAX_STEPS, make_plan

MODELS = load_models()

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


@pytest.mark.parametrize(
    "field", ["method", "models", "preset", "norm", "epsilon", "steps", "seed", "target", "format"]
)
def test_a_long_value_is_not_sent_back_whole(field: str) -> None:
    with pytest.raises(BadField) as caught:
        make_plan({field: "x" * 10_000}, MODELS)
    assert caught.value.field == field
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"norm": "l2"}, "epsilon"),  # the preset's budget is an linf one
        ({"norm": "l2", "epsilon": "1e7"}, "epsilon"),
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


def test_a_model_that_does_not_fit_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "abilities", ("decodes",))
    with pytest.raises(BadField, match=r"does not fit method encoder, .* none here") as caught:
        make_plan({}, MODELS)
    assert caught.value.field == "models"


def test_defaults() -> None:
    plan = make_plan({}, MODELS)
    first = METHODS["encoder"].presets[0]
    assert (plan.method, plan.models, plan.preset) == ("encoder", (DEFAULT_MODEL,), first.name)
    assert (plan.norm, plan.epsilon, plan.steps) == (first.norm, first.epsilon, first.steps)
    assert (plan.target, plan.format) == ("gray", "png")


@pytest.mark.parametrize(
    ("method", "preset"), [(method.name, preset.name) for method in METHODS.values() for preset in method.presets]
)
def test_a_preset_brings_its_numbers(method: str, preset: str) -> None:
    expected = METHODS[method].preset(preset)
    plan = make_plan({"method": method, "preset": preset}, MODELS)
    assert (plan.norm, plan.epsilon, plan.steps) == (expected.norm, expected.epsilon, expected.steps)


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
    ],
    ids=str,
)
def test_right_values(fields: dict[str, str], name: str, expected: object) -> None:
    assert getattr(make_plan(fields, MODELS), name) == expected


def test_a_target_picture() -> None:
    assert make_plan({}, MODELS, target_image=True).target == "image"
    assert make_plan({"target": "image"}, MODELS, target_image=True).target == "image"


def test_seeds_are_drawn_anew() -> None:
    assert len({make_plan({}, MODELS).seed for _ in range(8)}) == 8


def test_a_plan_survives_its_own_json() -> None:
    plan = make_plan({"seed": str(MAX_SEED), "epsilon": "7.65"}, MODELS)
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan
