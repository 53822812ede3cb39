"""Every preset of the catalog has a recipe, and every recipe a preset; and each recipe runs as its preset says."""

from __future__ import annotations

import pytest
import torch

from service.contracts.catalog import METHODS
from worker.attacks.encoder import EncoderAttack
from worker.core.budget import L2, Linf
from worker.immunization import immunize
from worker.recipes import RECIPES

PRESETS = {(method.name, preset.name): preset for method in METHODS.values() for preset in method.presets}


def test_catalog_and_recipes_name_the_same():
    assert set(RECIPES) == set(PRESETS)


@pytest.mark.parametrize("name", sorted(PRESETS), ids="-".join)
@pytest.mark.parametrize("target", ["gray", "zero"])
@pytest.mark.parametrize("masked", [False, True])
def test_each_runs_inside_its_budget(name, target, masked, encoder, pictures):
    preset, x = PRESETS[name], pictures(1, 40, 48)
    mask = torch.zeros(1, 1, 40, 48)
    mask[..., 10:20, 10:30] = 1
    size = preset.epsilon / 255
    out = immunize(
        x,
        attack=EncoderAttack(encoder(), target, RECIPES[name].distance),
        budget=Linf(size) if preset.norm == "linf" else L2(size),
        steps=min(preset.steps, 30),
        seed=3,
        mask=mask if masked else None,
        recipe=RECIPES[name],
    )
    assert ((out.images - x) * 255).round().abs().max() <= preset.epsilon
    assert (out.images != x).any()
    assert out.gradient_evaluations.tolist() == [min(preset.steps, 30)]
    if preset.steps:
        assert (out.loss_final < out.loss_initial).all()
    if masked:
        assert torch.equal(out.images[..., 10:20, 10:30], x[..., 10:20, 10:30])


@pytest.mark.parametrize("name", sorted(PRESETS), ids="-".join)
def test_the_same_seed_gives_the_same_bytes(name, encoder, pictures):
    x = pictures(1, 40, 48)

    def run(seed: int) -> torch.Tensor:
        attack = EncoderAttack(encoder(), "gray", RECIPES[name].distance)
        return immunize(x, attack=attack, steps=min(PRESETS[name].steps, 12), seed=seed, recipe=RECIPES[name]).images

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) is (not RECIPES[name].random_start and RECIPES[name].views is None)
