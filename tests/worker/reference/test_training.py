"""The training script end to end on a tiny budget: bank, encoder, resumption, decoder, a folder that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.contracts.catalog import Model
from worker.models.latent import load_latent_model
from worker.reference import autoencoder, pictures

TEACHER = """
import torch

class Teacher:
    def encode(self, x):
        wide = torch.nn.functional.avg_pool2d(x * 2 - 1, 8)
        return torch.cat([wide] * 11, 1)[:, :32]
"""


def test_generated_pictures_depend_on_their_seed_alone() -> None:
    for kind, _ in autoencoder.KINDS:
        first, again, other = (kind(np.random.default_rng(seed), 48) for seed in (1, 1, 2))
        assert first.shape == (48, 48, 3)
        assert first.dtype == np.uint8
        assert (first == again).all()
        assert (first != other).any()
        assert first.std() > 2


def test_photographs_are_cut_to_size() -> None:
    crop = pictures.photograph(np.random.default_rng(0), 40)
    assert crop.shape == (40, 40, 3)
    assert crop.dtype == np.uint8


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "WIDTH", 8)
    monkeypatch.setattr(autoencoder, "PIXELS", 2 * 64 * 64)
    monkeypatch.setattr(autoencoder, "CROPS", (32, 64))
    monkeypatch.setattr(autoencoder, "BANK_SIZE", 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what diffusers imports
@pytest.mark.usefixtures("small")
def test_from_nothing_to_a_folder(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.py"
    teacher.write_text(TEACHER, encoding="utf-8")
    np.save(tmp_path / "pictures.npy", np.stack([autoencoder.generated(index) for index in range(4)]))
    work = ["--work", str(tmp_path)]
    encoder = ["encoder", "--teacher", f"{teacher}:Teacher", *work]
    autoencoder.main([*encoder, "--steps", "2"])
    before = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert before["step"] == 2
    autoencoder.main([*encoder, "--steps", "4"])
    after = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert after["step"] == 4
    assert any((before["module"][name] != value).any() for name, value in after["module"].items())
    autoencoder.main(["decoder", *work, "--steps", "2"])
    out = tmp_path / "saved"
    autoencoder.main(["save", *work, "--out", str(out)])
    entry = Model(name="saved", kind="diffusers-vae", source=str(out))
    model = load_latent_model(entry, out, torch.device("cpu"))
    latents = model.encode(torch.rand(1, 3, 32, 32))
    assert latents.shape == (1, 32, 4, 4)
    assert model.decode(latents).shape == (1, 3, 32, 32)
    assert str(tmp_path) not in (out / "config.json").read_text(encoding="utf-8")
