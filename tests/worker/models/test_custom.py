"""Kind python: a vendor's model, made by a function of the vendor's package."""

from __future__ import annotations

import sys

import pytest
import torch

from service.contracts.catalog import load_models
from service.contracts.errors import BadField, ModelMissing
from worker.models import registry
from worker.models.pool import Pool

CPU = torch.device("cpu")
SOURCE = """
import torch


class Encoder:
    def __init__(self, device, size=None, scale=1.0):
        self.device, self.size, self.scale = device, size, scale

    def encode(self, x):
        return x * self.scale


class Network(torch.nn.Module):
    def __init__(self, device):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 8, stride=8).to(device)

    def encode(self, x):
        return self.layer(x)

    def decode(self, latents):
        return torch.nn.functional.conv_transpose2d(latents, self.layer.weight, stride=8)


class Editor(Encoder):
    def edit(self, x, mask, prompts, generators, options=None):
        return x

    def predict_noise(self, x, mask, prompts, generators, options=None):
        return x


def make(device, **options):
    return Encoder(device, **options)


def full(device):
    raise torch.OutOfMemoryError("no memory")


number = 3
"""


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    """A package `vendor` that is installed, whose module `models` holds SOURCE."""
    package = tmp_path / "site" / "vendor"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(SOURCE)
    (package / "broken.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(package.parent)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "vendor"]:
        del sys.modules[name]


@pytest.fixture
def models(tmp_path):
    """models(lines): a registry with an entry `theirs` of kind python and these lines."""

    def made(*lines):
        file = tmp_path / "models.toml"
        file.write_text("\n".join(["[theirs]", 'kind = "python"', *lines]), encoding="utf-8")
        return load_models(file)

    return made


@pytest.fixture
def get(vendor, models):
    """get(factory, abilities, lines): such an entry's model."""
    return lambda factory, abilities="'encodes'", *lines: Pool(
        models(f'source = "vendor.models:{factory}"', f"abilities = [{abilities}]", *lines), CPU
    ).get("theirs")


def test_the_factory_gets_the_device_and_the_options(get):
    made = get("make", "'encodes'", "[theirs.options]", "scale = 2.5", "size = 64")
    assert made.device == CPU
    assert (made.scale, made.size) == (2.5, 64)
    assert torch.equal(made.encode(torch.ones(1)), torch.tensor([2.5]))


@pytest.mark.parametrize("factory", ["make", "Encoder"])
def test_the_entrys_size_where_the_model_has_none(factory, get):
    assert get(factory).size is None
    assert get(factory, "'encodes'", "size = 256").size == 256
    assert get(factory, "'encodes'", "size = 256", "options = {size = 64}").size == 64


def test_networks_are_frozen(get):
    made = get("Network", "'encodes', 'decodes'")
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize(
    ("factory", "promised", "kept"),
    [
        ("make", ["encodes"], True),
        ("make", ["encodes", "edits"], False),
        ("Network", ["encodes", "decodes"], True),
        ("Network", ["denoises"], False),
        ("Editor", ["encodes", "denoises", "edits"], True),
        ("Editor", ["decodes"], False),
    ],
)
def test_what_is_promised_must_be_there(factory, promised, kept, get):
    abilities = ", ".join(f"'{ability}'" for ability in promised)
    if kept:
        get(factory, abilities)
    else:
        with pytest.raises(BadField, match=f"theirs promises '{promised[-1]}', but what {factory} returns has no such"):
            get(factory, abilities)


@pytest.mark.parametrize("name", ["absent", "number"])
def test_a_factory_that_is_none(name, get):
    with pytest.raises(BadField, match=rf"models: theirs: vendor\.models has no function {name}"):
        get(name)


@pytest.mark.parametrize("options", ["{colour = 1}", "{device = 'cuda'}"])
@pytest.mark.parametrize("factory", ["Encoder", "full"])
def test_options_that_do_not_fit(factory, options, get):
    with pytest.raises(BadField, match=f"models: theirs: its options do not fit {factory}"):
        get(factory, "'encodes'", f"options = {options}")


def test_memory_that_runs_out(get):
    with pytest.raises(Exception, match="does not fit on the device"):
        get("full")


@pytest.mark.parametrize("source", ["nobody:make", "nobody.models:make", "vendor.other:make", "vendor.models.x:make"])
def test_a_package_that_is_not_installed(source, vendor, models):
    registered = models(f'source = "{source}"', 'abilities = ["encodes"]')
    told = "install the package that its source names"
    with pytest.raises(ModelMissing, match=f"theirs is listed, but .* not here; {told}"):
        Pool(registered, CPU).get("theirs")
    assert Pool(registered, CPU).missing()["theirs"] == told


def test_a_package_that_lacks_something_itself(vendor, models, tmp_path):
    registered = models('source = "vendor.broken:make"', 'abilities = ["encodes"]')
    with pytest.raises(BadField, match=r"vendor\.broken cannot be imported .*a_library_that_nobody_has") as bad:
        Pool(registered, CPU).get("theirs")
    assert str(tmp_path) not in bad.value.detail


def test_an_entry_is_looked_up_without_running_its_module(vendor, models):
    registered = models('source = "vendor.models:make"', 'abilities = ["encodes"]')
    assert registry.locate(registered["theirs"]) == vendor / "models.py"
    assert "vendor.models" not in sys.modules


@pytest.mark.parametrize("source", ["vendor", "vendor:", ":make", "vendor/models.py:make", "vendor:a.b", "vendor make"])
def test_a_source_that_is_no_factory(source, models):
    with pytest.raises(BadField, match=r"\[theirs\] the source of kind python is package\.module:factory"):
        models(f'source = "{source}"', 'abilities = ["encodes"]')


@pytest.mark.parametrize("line", ["", "abilities = []"])
def test_abilities_must_be_said(line, models):
    with pytest.raises(BadField, match=r"\[theirs\] kind python says what the model can do: abilities, of encodes, "):
        models('source = "vendor:make"', line)


@pytest.mark.parametrize("line", ['abilities = ["flies"]', 'abilities = "encodes"'])
def test_abilities_that_are_none(line, models):
    with pytest.raises(BadField, match=r"\[theirs\] abilities"):
        models('source = "vendor:make"', line)


@pytest.mark.parametrize("line", ['abilities = ["encodes"]', "options = {a = 1}"])
def test_other_kinds_take_neither(line, tmp_path):
    file = tmp_path / "models.toml"
    file.write_text(f'[theirs]\nkind = "diffusers-vae"\nsource = "/somewhere"\n{line}\n')
    with pytest.raises(BadField, match=r"\[theirs\] (abilities|options) are for kind python"):
        load_models(file)
