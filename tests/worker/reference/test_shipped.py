"""The reference autoencoder that ships: what its card promises, on photographs that it never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.contracts.catalog import DEFAULT_MODEL, load_models
from worker.attacks.encoder import EncoderAttack
from worker.bench.pictures import load_crops
from worker.core.budget import Linf
from worker.immunization import immunize
from worker.models.external import load_python
from worker.models.latent import LatentModel
from worker.models.pool import Pool
from worker.recipes import FAST, UNIFORM
from worker.reference.evaluate import left_over, reconstruction_db, relative_error


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return Pool(load_models(), torch.device("cpu")).get(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def unseen(shared: Path) -> Tensor:
    return load_crops(shared / "photos", 4, 128)


def test_latents_keep_a_scale_near_one(model: LatentModel) -> None:
    latents = model.encode(load_crops(None, 3, 128))
    assert latents.shape == (3, 32, 16, 16)
    assert 0.5 < latents.std() < 1.5


def test_it_says_what_its_teacher_says_and_can_be_undone(model: LatentModel, unseen: Tensor, shared: Path) -> None:
    teacher = load_python(f"{shared / 'models' / 'tiny_autoencoder.py'}:TinyAutoencoder")
    assert relative_error(model, teacher, unseen) < 0.25
    assert reconstruction_db(model, unseen) > 25
    fast = immunize(unseen, attack=EncoderAttack(model), budget=Linf(8 / 255), steps=20, recipe=FAST).images
    assert left_over(model, unseen, fast) < 0.6
    assert left_over(teacher, unseen, fast) < 0.65


def test_noise_of_the_same_budget_does_nothing(model: LatentModel, unseen: Tensor) -> None:
    noisy = immunize(unseen, attack=EncoderAttack(model), budget=Linf(8 / 255), steps=0, recipe=UNIFORM).images
    assert left_over(model, unseen, noisy) > 0.9
