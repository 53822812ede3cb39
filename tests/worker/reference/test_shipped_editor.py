"""The reference editor that ships: it follows words, is blind in the hole, and diffusers itself reads its folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contracts.catalog import METHODS, load_models
from worker.attacks.diffusion import DiffusionAttack
from worker.core.budget import Linf
from worker.editing import edit
from worker.immunization import immunize
from worker.models import registry
from worker.models.abilities import EditOptions
from worker.models.pool import Pool
from worker.recipes import RECIPES
from worker.reference.samples import SIZE, around
from worker.reference.scenes import scene

NAME = METHODS["diffusion"].default_model
OPTIONS = EditOptions(steps=10, guidance=4.0)


@pytest.fixture(scope="module")
def model(shipped: Pool) -> Any:
    return shipped.get(NAME)


def case(index: int) -> tuple[Tensor, Tensor]:
    """A scene (1,3,SIZE,SIZE) on sand that no training saw, and the hole where its thing was."""
    rng = np.random.default_rng([31, index])
    made = scene(rng, SIZE, colour="green", ground="sand")
    hole = around(rng, made.coverage)
    x = torch.from_numpy(made.picture.copy()).permute(2, 0, 1)[None].float() / 255
    return x, torch.from_numpy(hole.astype(np.float32))[None, None]


def redness(picture: Tensor, mask: Tensor) -> float:
    """Mean of red less blue inside the mask."""
    red, _, blue = (picture * mask).sum((0, 2, 3)) / mask.sum()
    return float(red - blue)


@pytest.mark.parametrize("index", range(3))
def test_it_paints_what_it_is_told(index: int, model: Any) -> None:
    x, mask = case(index)
    red, blue, sand = (
        edit(x, mask, prompt, model, seed=index, options=OPTIONS)
        for prompt in ("a red ball on sand", "a blue ball on sand", "sand")
    )
    assert redness(red, mask) - redness(blue, mask) > 0.2
    assert redness(red, mask) > redness(sand, mask) > redness(blue, mask)
    outside = 1 - mask
    for made in (red, blue, sand):  # around the hole it keeps the picture, as far as its autoencoder can
        assert ((made - x).abs() * outside).sum() / outside.sum() / 3 < 0.08


def test_it_does_not_see_what_is_in_the_hole(model: Any) -> None:
    x, mask = case(0)
    one, two = (
        edit(seen, mask, "a red ball on sand", model, seed=1, options=EditOptions(steps=2))
        for seen in (x, torch.where(mask > 0, 1 - x, x))
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", ["fast", "early"])
def test_a_few_steps_of_the_attack_move_it(preset: str, model: Any) -> None:
    x, mask = case(1)
    recipe = RECIPES["diffusion", preset]
    options = EditOptions(steps=2, guidance=recipe.guidance, gradient_steps=2)
    attack = DiffusionAttack(model, options=options, kind=recipe.kind, prompts=("a red ball on sand", ""))
    out = immunize(x, attack=attack, budget=Linf(8 / 255), steps=4, mask=mask, recipe=recipe)
    assert (out.loss_final < out.loss_initial).all()
    assert ((out.images - x).abs() * 255).round().max() <= 8
    assert torch.equal(out.images * mask, x * mask)


def test_diffusers_itself_reads_its_folder(model: Any) -> None:
    from diffusers import AutoencoderTiny, StableDiffusionInpaintPipeline

    folder = registry.require(load_models()[NAME])
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
    )
    assert isinstance(pipeline.vae, AutoencoderTiny)
    channels = pipeline.vae.config.latent_channels
    assert pipeline.unet.config.in_channels == 2 * channels + 1  # noise, the hole, and what is around it
    x, _ = case(2)
    with torch.no_grad():
        latents = pipeline.vae.encode(x * 2 - 1).latents * pipeline.vae.config.scaling_factor
        words = pipeline.tokenizer("a red ball on sand", return_tensors="pt").input_ids
        context = pipeline.text_encoder(words)[0]
        seen = torch.cat([latents, torch.ones_like(latents[:, :1]), latents], 1)
        assert pipeline.unet(seen, 500, encoder_hidden_states=context).sample.isfinite().all()
    torch.testing.assert_close(latents, model.encode(x), rtol=1e-4, atol=1e-4)
    assert words.shape[1] < 12  # its own words are no heaps of letters
