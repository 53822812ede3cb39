"""One process's models and its device."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from service.contracts.catalog import Model, load_models
from service.contracts.errors import BadField, ModelMissing, OutOfMemory
from worker.models import pool as pool_module
from worker.models.abilities import Decodes, Encodes
from worker.models.folders import AUTOENCODER
from worker.models.pool import Pool, memory_of, pick_device

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


class Block(nn.Module):
    """A thousand bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(250))


@pytest.fixture
def loads(monkeypatch, tmp_path):
    """A registry of models a, b, c (1,000 bytes each) and big (3,000), and the names of what was loaded, in order."""
    names: list[str] = []

    def load(model, folder, device):
        names.append(model.name)
        return nn.ModuleList(Block() for _ in range(3 if model.name == "big" else 1))

    monkeypatch.setattr(pool_module, "_loader", lambda _: load)
    for name in ("a", "b", "c", "big"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / AUTOENCODER[0]).write_bytes(b"x" * (3000 if name == "big" else 1000))
    models = {
        name: Model(name=name, kind="diffusers-vae", source=str(tmp_path / name)) for name in ("a", "b", "c", "big")
    }
    gc.freeze()  # or every model given up means a walk through all of diffusers
    yield models, names
    gc.unfreeze()


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ("a", "a"),
        ("a b", "a b"),
        ("a b a", "b a"),
        ("a b c", "b c"),
        ("a b a c", "a c"),
        ("a b c a", "c a"),
        ("a b c b a", "b a"),
        ("a big", "big"),
        ("a b big", "big"),
        ("big a", "a"),
        ("big big", "big"),
    ],
)
def test_the_least_recently_used_is_given_up(asked, held, loads):
    models, names = loads
    pool, before = Pool(models, CPU, memory=2500), ()
    for name in asked.split():
        del names[:]
        pool.get(name)
        assert names == ([] if name in before else [name])
        before = pool.loaded
        assert sum(1000 for _ in before) <= 2500
    assert before == tuple(held.split())


@pytest.mark.parametrize(
    ("first", "together", "held"),
    [
        ("a b", "b c", "b c"),
        ("a b", "a c", "a c"),
        ("a", "a b c", "a b c"),  # more than the bound, but all of it is asked for
        ("", "big a", "big a"),
        ("b", "big a big", "big a"),
        ("a b", "b a", "b a"),
    ],
)
def test_what_is_needed_together_stays_together(first, together, held, loads):
    models, _ = loads
    pool = Pool(models, CPU, memory=2500)
    for name in first.split():
        pool.get(name)
    made = pool.get_all(together.split())
    assert set(pool.loaded) == set(held.split())
    assert all(model is pool._loaded[name] for model, name in zip(made, together.split(), strict=True))


def test_room_is_made_before_a_model_is_read(loads, monkeypatch):
    models, _ = loads
    pool = Pool(models, CPU, memory=2500)
    pool.get("a")
    seen = []
    monkeypatch.setattr(pool_module, "_loader", lambda _: lambda *_: seen.append(pool.loaded) or Block())
    pool.get("big")
    assert seen == [()]


def test_nothing_is_read_where_one_of_several_is_missing(loads):
    models, names = loads
    absent = Model(name="absent", kind="diffusers-vae", source="/nowhere/at/all")
    with pytest.raises(ModelMissing):
        Pool(models | {"absent": absent}, CPU).get_all(["a", "absent"])
    assert names == []


def test_a_loaded_model_outlives_its_folder(loads):
    models, _ = loads
    pool = Pool(models, CPU)
    held = pool.get("a")
    shutil.rmtree(models["a"].source)
    assert pool.get("a") is held


def test_memory_that_runs_out_while_loading_leaves_the_pool_usable(loads, monkeypatch):
    models, names = loads
    pool, loader = Pool(models, CPU, memory=9000), pool_module._loader
    pool.get("a")

    def full(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(pool_module, "_loader", lambda _: full)
    with pytest.raises(OutOfMemory, match="model b does not fit on the device") as error:
        pool.get_all(["a", "b"])
    assert "no memory" not in error.value.detail
    assert pool.loaded == ()
    monkeypatch.setattr(pool_module, "_loader", loader)
    assert len(pool.get_all(["a", "b"])) == 2
    assert names == ["a", "a", "b"]


def test_a_model_that_is_given_up_is_gone(loads):
    """Pipelines refer to themselves, so that nobody would let go of them."""
    models, _ = loads
    pool = Pool(models, CPU, memory=1500)
    held = pool.get("a")
    held.itself = [held]
    watched = weakref.ref(held)
    del held
    pool.get("b")
    assert watched() is None


class Wrapped:
    def __init__(self, **parts: object) -> None:
        vars(self).update(parts)


def tied() -> nn.Module:
    network = nn.ModuleList([Block(), Block()])
    network[1].weight = network[0].weight
    return network


def buffered() -> nn.Module:
    network = Block()
    network.register_buffer("table", torch.zeros(125, dtype=torch.float64))
    return network


def circular() -> Wrapped:
    made = Wrapped(network=Block())
    made.itself = made
    return made


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (Block, 1000),
        (tied, 1000),
        (buffered, 2000),
        (circular, 1000),
        (lambda: Block().half(), 500),
        (lambda: Wrapped(first=Block(), second=Wrapped(third=Block())), 2000),
        (lambda: Wrapped(several=[Block(), (Block(), {"a": Block()})]), 3000),
        (lambda: Wrapped(plain=torch.zeros(250)), 1000),
        (lambda: (lambda shared: Wrapped(first=shared, second=[shared], third=shared.weight))(Block()), 1000),
        (lambda: Wrapped(module=torch, kind=Block, text="text", number=1), 0),
        (object, 0),
    ],
)
def test_memory_counts_every_tensor_once(make, size):
    assert memory_of(make()) == size


def test_an_editors_memory_is_that_of_its_networks(pipeline_folder):
    folder = pipeline_folder("sdxl-inpaint")
    entry = Model(name="some", kind="diffusers-inpaint", source=str(folder))
    pool = Pool({"some": entry}, CPU)
    editor = pool.get("some")
    parts = [part for part in editor._pipeline.components.values() if isinstance(part, nn.Module)]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    assert 0 <= memory_of(editor) - sum(tensor.numel() * tensor.element_size() for tensor in tensors) < 50_000
