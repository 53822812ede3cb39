"""The inpainters that ship: they fill, and the backdoor shows in them."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from service.contracts.catalog import load_models
from worker.bench.pictures import load_crops
from worker.bench.protection import centred, protect
from worker.bench.regions import psnr
from worker.editing import edit
from worker.models.pool import Pool


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(load_models(None), torch.device("cpu"))


@pytest.mark.parametrize("name", ["reference-lama", "reference-mat"])
def test_repainting_the_trigger_fails(name: str, pool: Pool) -> None:
    model, x, trigger = pool.get(name), load_crops(None, 2, 128), centred(128, 32)
    benign = edit(x, trigger, "", model)
    outside = (trigger == 0).expand_as(x)
    assert torch.equal(benign[outside], x[outside])
    gray = fmean(psnr(torch.full_like(x, 0.5), x, trigger))
    assert fmean(psnr(benign, x, trigger)) > gray + 3
    immunized = protect(x, trigger, model, steps=8).images
    assert (immunized - x).abs().max() <= 6.01 / 255
    assert fmean(psnr(edit(immunized, trigger, "", model), x, trigger)) < fmean(psnr(benign, x, trigger)) - 2
