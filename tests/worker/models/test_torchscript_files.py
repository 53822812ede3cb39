"""Kind torchscript-inpaint: where its files are, what they weigh, and files that are none."""

from __future__ import annotations

from zipfile import ZipFile

import pytest
import torch

from service.contracts.errors import BadField, ModelMissing
from tests.worker.models import exports
from worker.models import pool as pool_module
from worker.models import registry
from worker.models.pool import Pool, memory_of

CPU = torch.device("cpu")


def test_memory_counts_what_the_file_holds(load_torchscript):
    network = exports.Styled()
    tensors = [*network.parameters(), *network.buffers()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert memory_of(load_torchscript(network)) == held
    assert memory_of(load_torchscript(exports.Styled().half())) == held  # float32, however it was stored


def test_room_is_made_for_a_file_before_it_is_read(torchscript_registry, tmp_path, monkeypatch):
    file = exports.save(exports.Paints(64), tmp_path / "inpainter.pt")
    entry = torchscript_registry(file)["some"]
    both = {name: entry.model_copy(update={"name": name}) for name in ("a", "b")}
    pool = Pool(both, CPU, memory=file.stat().st_size)
    pool.get("a")
    seen, read = [], pool_module.load_inpainter
    monkeypatch.setattr(pool_module, "load_inpainter", lambda *given: seen.append(pool.loaded) or read(*given))
    pool.get("b")
    assert seen == [()]


def damaged(name, tmp_path):
    file, whole = tmp_path / "some.pt", exports.save(exports.Paints(), tmp_path / "whole.pt").read_bytes()
    if name == "weights":
        torch.save(exports.Paints().state_dict(), file)
    elif name == "folder":
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "text": b"hello", "cut off": whole[: len(whole) // 2]}[name])
    return file


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "is no TorchScript file, or is cut off"),
        ("text", "is no TorchScript file, or is cut off"),
        ("cut off", "is no TorchScript file, or is cut off"),
        ("weights", "holds weights alone and no code"),
        ("folder", "its source is a folder, in which subfolder does not name a file"),
    ],
)
def test_what_is_no_torchscript_file_is_told(name, told, load_torchscript, torchscript_registry, tmp_path):
    file = damaged(name, tmp_path)
    with pytest.raises(ModelMissing, match=f"{told}.*; put the TorchScript file where its source says") as error:
        load_torchscript(file)
    assert str(tmp_path) not in error.value.detail
    assert "some" in Pool(torchscript_registry(file), CPU).missing()


def test_a_damaged_archive(load_torchscript, tmp_path):
    whole, file = exports.save(exports.Paints(), tmp_path / "whole.pt"), tmp_path / "some.pt"
    with ZipFile(whole) as given, ZipFile(file, "w") as written:
        for name in given.namelist():
            written.writestr(name, b"nonsense" if name.endswith(".py") else given.read(name))
    with pytest.raises(BadField, match="some cannot be read: its files are damaged") as error:
        load_torchscript(file)
    assert str(tmp_path) not in error.value.detail


def test_where_a_file_lies(torchscript_registry, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = exports.save(exports.Echo(), folder / "big-lama.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (file, "~/folder/big-lama.pt"):
        assert registry.locate(torchscript_registry(source)["some"]) == file
    assert registry.locate(torchscript_registry(folder, subfolder="big-lama.pt")["some"]) == file
    for source, fields in ((folder / "other.pt", {}), (folder, {"subfolder": "other.pt"})):
        entry = torchscript_registry(source, **fields)["some"]
        assert registry.locate(entry) is None
        assert registry.how_to_get(entry) == "put the TorchScript file where its source says"


def test_a_file_from_the_hub(torchscript_registry, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    entry = torchscript_registry("org/name", subfolder="big-lama.pt")["some"]
    assert registry.locate(entry) is None
    assert "`hf download org/name big-lama.pt` on every worker" in registry.how_to_get(entry)
    pinned = entry.model_copy(update={"revision": "a" * 40})
    assert f"`hf download org/name big-lama.pt --revision {'a' * 40}`" in registry.how_to_get(pinned)
    repository = tmp_path / "hub" / "models--org--name"
    for folder in (repository / "snapshots" / ("a" * 40), repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    file = exports.save(exports.Echo(), repository / "snapshots" / ("a" * 40) / "big-lama.pt")
    assert registry.locate(entry) == registry.locate(pinned) == file


def test_a_builtin_that_is_not_there(torchscript_registry):
    entry = torchscript_registry("builtin:nothing.pt")["some"]
    assert registry.locate(entry) is None
    assert registry.how_to_get(entry) == "install the complete package, weights included"
