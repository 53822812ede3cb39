"""Fixtures of all tests: a tiny model in the real format, a registry that names it, a photograph.

Nothing here needs the network, a GPU or the weights that the package ships.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.contracts.queue import connect
from service.contracts.settings import Settings
from service.embedded import EmbeddedRedis

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


def pytest_configure() -> None:
    # pictures here are tiny: threads that wait for one another cost more than they bring, most of all on a busy machine
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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

    `absent` is listed, but its folder does not exist. `painter` is an editor made in Python.
    """
    entry = 'kind = "diffusers-vae"\nsource = "{}"\nsize = 64\nlicence = "Apache-2.0"\n'
    file = tmp_path_factory.mktemp("registry") / "models.toml"
    here, nowhere = entry.format(model_folder), entry.format(model_folder.with_name("nowhere"))
    painter = (
        'kind = "python"\nsource = "tests.worker.conftest:small_editor"\nabilities = ["encodes", "denoises", "edits"]'
    )
    file.write_text(
        f"[tiny]\n{here}\n[reference-autoencoder]\n{here}\n[absent]\n{nowhere}\n[painter]\n{painter}\nsize = 64\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A real photograph, 96x80, RGB: the face of Eileen Collins, by NASA, inside scikit-image."""
    from skimage import data

    return Image.fromarray(data.astronaut()[60:140, 180:276])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository that some machines have; tests that need it are skipped elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared beside the repository, which is not here")
    return folder


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis for the whole session; see `settings` for an empty one."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def settings(redis_url: str, models_file: Path, tmp_path: Path) -> Settings:
    """A deployment of a test's own: an empty Redis, a folder as the store, the tiny model on the CPU."""
    made = Settings(
        redis_url=redis_url,
        store_url=(tmp_path / "store").as_uri(),
        models_file=models_file,
        device="cpu",
        metrics_port=0,
    )
    with connect(made) as connection:
        connection.flushall()
    return made


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a new, empty bucket on that server; takes a prefix and further settings."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)

    def made(prefix: str = "", **others: object) -> Settings:
        bucket = uuid.uuid4().hex
        client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
        client.create_bucket(Bucket=bucket)
        client.close()
        address = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        return Settings(store_url=address, s3_endpoint_url=s3_server, s3_region="us-east-1", **others)  # type: ignore[arg-type]

    return made
