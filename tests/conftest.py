"""Fixtures of all tests: a tiny model in the real format, a registry that names it, a photograph.

Nothing here needs the network, a GPU or the weights that the package ships.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

TINY = {
    "_class_name": "AutoencoderTiny",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "encoder_block_out_channels": [8, 8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8, 8],
    "num_encoder_blocks": [1, 1, 1, 1],
    "num_decoder_blocks": [1, 1, 1, 1],
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests are none of the tests' own."""
    for name in [name for name in os.environ if name.startswith("IMMUNIZE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of an AutoencoderTiny: width 8, 4 latent channels, seeded random weights."""
    import torch
    from safetensors.torch import save_file

    from worker.models.tiny import TinyAutoencoder

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    network = TinyAutoencoder(TINY)
    generator = torch.Generator().manual_seed(7)
    for name, weights in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(weights)
        else:  # He et al. 2015: activations keep their size through the layers, so that latents are not all alike
            torch.nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=generator)
    save_file(network.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def models_file(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose `tiny` is that folder at size 64; the default model is the same, so no shipped weights are met.

    `absent` is listed, but its folder does not exist.
    """
    entry = 'kind = "diffusers-vae"\nsource = "{}"\nsize = 64\nlicence = "Apache-2.0"\n'
    file = tmp_path_factory.mktemp("registry") / "models.toml"
    here, nowhere = entry.format(model_folder), entry.format(model_folder.with_name("nowhere"))
    file.write_text(f"[tiny]\n{here}\n[reference-autoencoder]\n{here}\n[absent]\n{nowhere}", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A real photograph, 96x80, RGB: the face of Eileen Collins, by NASA, inside scikit-image."""
    from skimage import data

    return Image.fromarray(data.astronaut()[60:140, 180:276])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository that some machines have; tests that need it are skipped elsewhere."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared beside the repository, which is not here")
    return SHARED
