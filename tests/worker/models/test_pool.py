"""One process's models and its device."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contracts.catalog import Model, load_models
from service.contracts.errors import BadField, ModelMissing
from worker.models import pool as pool_module
from worker.models.abilities import Decodes, Encodes
from worker.models.folders import AUTOENCODER
from worker.models.pool import Pool, pick_device

CPU = torch.device("cpu")


@pytest.fixture
def pool(models_file):
    return Pool(load_models(models_file), CPU)


def entry(folder, **fields) -> Model:
    return Model(name="some", kind="diffusers-vae", source=str(folder), **fields)


@pytest.fixture
def copy(model_folder, tmp_path):
    """A copy of the tiny model's folder, to be changed."""
    return shutil.copytree(model_folder, tmp_path / "copy")


def test_a_model_is_loaded_once(pool, monkeypatch):
    loads, load = [], pool_module.load_latent_model
    monkeypatch.setattr(pool_module, "load_latent_model", lambda *given: loads.append(given[0].name) or load(*given))
    assert pool.get("tiny") is pool.get("tiny")
    assert loads == ["tiny"]


def test_a_loaded_model_has_its_kinds_abilities(pool, pictures):
    model, x = pool.get("tiny"), pictures(2, 16, 24)
    assert isinstance(model, Encodes)
    assert isinstance(model, Decodes)
    assert (model.name, model.size, model.multiple) == ("tiny", 64, 8)
    made = model.decode(model.encode(x))
    assert model.encode(x).shape == (2, 4, 2, 3)
    assert made.shape == x.shape
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_gradient_at_the_input_is_not_zero(pool, pictures):
    model, x = pool.get("tiny"), pictures(2, 16, 24).requires_grad_()
    (gradient,) = torch.autograd.grad(model.encode(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient.ne(0).float().mean() > 0.9
    (gradient,) = torch.autograd.grad(model.decode(model.encode(x)).square().sum(), x)
    assert gradient.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_float32_goes_in_and_comes_out_whatever_the_model_works_in(dtype, model_folder, pictures):
    x = pictures(1, 16, 24)
    models = {name: Pool({"some": entry(model_folder, dtype=name)}, CPU).get("some") for name in {dtype, "float32"}}
    latents = models[dtype].encode(x)
    assert latents.dtype == torch.float32
    assert models[dtype].decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, models["float32"].encode(x), rtol=0.1, atol=0.1)


def test_half_precision_weights_under_their_own_name_are_read(copy, model_folder, pictures):
    weights = load_file(copy / AUTOENCODER[0])
    (copy / AUTOENCODER[0]).unlink()
    save_file({name: value.half() for name, value in weights.items()}, copy / AUTOENCODER[1])
    x = pictures(1, 16, 24)
    half, whole = (Pool({"some": entry(folder)}, CPU).get("some").encode(x) for folder in (copy, model_folder))
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("change", [{"_class_name": "UNet2DModel"}, {"_class_name": None}, {"act_fn": "silu"}])
def test_what_is_no_autoencoder_of_ours_is_refused(change, copy):
    config = json.loads((copy / "config.json").read_text()) | change
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadField, match=r"models: some\b.*AutoencoderTiny"):
        Pool({"some": entry(copy)}, CPU).get("some")


def test_a_model_that_is_not_here_says_how_to_get_it(pool):
    with pytest.raises(ModelMissing, match="put a diffusers folder"):
        pool.get("absent")
    missing = pool.missing()
    assert "absent" in missing
    assert "tiny" not in missing
    assert all(missing.values())


def test_auto_is_a_device_that_works():
    assert torch.empty(1, device=pick_device("auto")).numel() == 1
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["", "nonsense", "cuda:99", "cpu:x", "gpu"])
def test_a_device_that_cannot_be_used(name):
    with pytest.raises(BadField, match="say auto or cpu") as bad:
        pick_device(name)
    assert "\n" not in bad.value.detail
