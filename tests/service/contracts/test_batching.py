"""Which jobs may be optimised together: those that agree in all that the optimisation shares."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from service.contracts.batching import OWN, batch_key
from service.contracts.catalog import METHODS, Model, load_models
from service.contracts.delivery import DELIVERY
from service.contracts.plan import Plan, make_plan

SIZE = (96, 80)


@pytest.fixture(scope="module")
def models(models_file: Path) -> dict[str, Model]:
    return dict(load_models(models_file))


@pytest.fixture(scope="module")
def diffusion(models: dict[str, Model]) -> Plan:
    return make_plan({"method": "diffusion", "models": "painter", "seed": "1"}, models)


def key(plan: Plan, size: tuple[int, int] = SIZE, *, mask: bool = False, target: bytes | None = None) -> str:
    return batch_key(plan, size, mask=mask, target=target)


# for every field of a plan another value than the one that it has
OTHERS: dict[str, object] = {
    "method": "backdoor",
    "models": ("painter", "tiny"),
    "preset": "paper",
    "norm": "l2",
    "epsilon": 5.5,
    "steps": 7,
    "seed": 2,
    "target": "noise",
    "format": "webp",
    "quality": 50,
    "exif": "keep",
    "data_mining": "reserved",
    "sign": True,
    "sizes": ("48",),
    "prompts": ("a cat",),
    "denoising_steps": 9,
    "gradient_steps": 1,
    "repeats": 9,
    "masks": "random",
    "losses": ("hide",),
    "order": "sequential",
}


def test_every_field_of_a_plan_is_in_the_table() -> None:
    assert set(OTHERS) == set(Plan.model_fields)


@pytest.mark.parametrize("field", OTHERS)
def test_what_of_a_plan_sets_jobs_apart(field: str, diffusion: Plan) -> None:
    other = diffusion.model_copy(update={field: OTHERS[field]})
    assert other != diffusion
    assert (key(other) == key(diffusion)) == (field in OWN - {"sizes"})


def test_what_a_picture_may_have_for_itself_is_a_field_of_the_plan() -> None:
    assert {"seed", "epsilon", *DELIVERY} == OWN <= set(Plan.model_fields)


@pytest.mark.parametrize("sizes", [("original",), ("96",), ("5000", "96x80")])
def test_sizes_that_make_the_picture_as_it_is(sizes: tuple[str, ...], diffusion: Plan) -> None:
    """Not their names count: such a job is optimised with those that name none."""
    assert key(diffusion.model_copy(update={"sizes": sizes})) == key(diffusion)


def test_the_order_of_models_and_prompts_counts(diffusion: Plan) -> None:
    pairs = [
        {"models": ("painter", "tiny")},
        {"models": ("tiny", "painter")},
        {"prompts": ("a", "b")},
        {"prompts": ("b", "a")},
        {"prompts": ("a,b",)},
    ]
    assert len({key(diffusion.model_copy(update=update)) for update in pairs}) == len(pairs)


def test_sizes_are_taken_exactly(diffusion: Plan) -> None:
    sizes = [SIZE, SIZE[::-1], (96, 81), (95, 80), (9, 680)]
    assert len({key(diffusion, size) for size in sizes}) == len(sizes)


@pytest.mark.parametrize("method", METHODS)
def test_masks(method: str, models: dict[str, Model]) -> None:
    plan = make_plan({"method": method}, dict(load_models()))
    together = key(plan, mask=True) == key(plan, mask=False)
    assert together == (method in {"encoder", "noise"})


@pytest.mark.parametrize("method", ["encoder", "diffusion", "backdoor"])
def test_a_target_picture_counts_by_its_bytes(method: str) -> None:
    plan = make_plan({"method": method}, dict(load_models()), target_image=True)
    keys = [key(plan, target=target) for target in (None, b"", b"one", b"other")]
    assert len(set(keys)) == 4
    assert key(plan, target=b"one") == keys[2]


def test_a_key_is_short_and_the_same_in_every_process() -> None:
    plan = make_plan({"seed": "1"}, dict(load_models()))
    assert re.fullmatch("[0-9a-f]{16}", key(plan))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert key(again) == key(plan)


def test_few_plans_share_a_key(models: dict[str, Model]) -> None:
    kinds = itertools.product(("tiny", "painter"), "12", ("gray", "zero"), ("linf", "l2"))
    plans = [
        make_plan({"models": name, "steps": steps, "target": target, "norm": norm, "epsilon": "8"}, models)
        for name, steps, target, norm in kinds
    ]
    assert len({key(plan) for plan in plans}) == len(plans) == 16
