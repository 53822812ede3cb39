"""Where a registry entry's files are: present, absent or partial, in a folder, the package or the hub's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.contracts.catalog import Model, load_models
from service.contracts.errors import ModelMissing
from worker.models import folders, registry

WEIGHTS, FP16 = folders.AUTOENCODER
REVISION = "0123456789abcdef0123456789abcdef01234567"


def entry(source: str, **fields: object) -> Model:
    return Model(name="some", kind="diffusers-vae", source=source, **fields)


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("names", "subfolder", "told"),
    [
        (["config.json", WEIGHTS], None, None),
        (["config.json", FP16], None, None),
        (["vae/config.json", f"vae/{WEIGHTS}"], "vae", None),
        (["vae/config.json", f"vae/{WEIGHTS}"], None, "there is no config.json; "),
        (["config.json", WEIGHTS], "vae", ""),
        (["config.json"], None, "there are no safetensors; "),
        ([WEIGHTS], None, "there is no config.json; "),
        (["config.json", "diffusion_pytorch_model.bin"], None, "there are no safetensors; "),
        ([], None, ""),
    ],
)
def test_a_folder(names, subfolder, told, tmp_path):
    folder = lay(tmp_path / "model", *names)
    model = entry(str(folder), subfolder=subfolder)
    wanted = folder / subfolder if subfolder else folder
    assert registry.locate(model) == (wanted if told is None else None)
    if told is None:
        assert registry.require(model) == wanted
    else:
        sentence = f"some is listed, but its weights are not here; {told}put a diffusers folder"
        with pytest.raises(ModelMissing, match=sentence):
            registry.require(model)


@pytest.mark.parametrize("source", ["~/model", "./model"])
def test_a_folder_by_a_relative_path(source, tmp_path, monkeypatch):
    lay(tmp_path / "model", "config.json", WEIGHTS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = registry.locate(entry(source))
    assert found is not None
    assert found.resolve() == (tmp_path / "model").resolve()


@pytest.mark.parametrize("source", ["org/name", "name", "org/..", "org/na me", "a/b/c"])
def test_a_hub_id_that_was_never_fetched(source, hub_cache):
    assert registry.locate(entry(source)) is None
    with pytest.raises(ModelMissing, match="hf download") as missing:
        registry.require(entry(source))
    assert source in missing.value.detail
    assert f"--revision {REVISION}" in registry.how_to_get(entry(source, revision=REVISION))


@pytest.mark.parametrize(
    ("revision", "subfolder", "present"),
    [(None, None, True), (REVISION, None, True), ("main", None, True), ("f" * 40, None, False), (None, "vae", False)],
)
def test_a_hub_id_in_the_cache(revision, subfolder, present, hub_cache):
    repository = hub_cache / "models--org--name"
    snapshot = lay(repository / "snapshots" / REVISION, "config.json", WEIGHTS)
    lay(repository, "refs/main")
    (repository / "refs" / "main").write_text(REVISION)
    found = registry.locate(entry("org/name", revision=revision, subfolder=subfolder))
    assert found == (snapshot if present else None)


def test_what_ships_is_here():
    model = load_models()["reference-autoencoder"]
    folder = registry.require(model)
    assert (folder / "config.json").is_file()
    assert "weights" in folder.parts


def test_a_builtin_that_does_not_exist():
    with pytest.raises(ModelMissing, match="install the complete package"):
        registry.require(entry("builtin:nothing"))
