"""The autoencoders of latent diffusion models, as `Encodes` and `Decodes`: every convention stays in here."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from worker.models import folders
from worker.models.reading import network, reading
from worker.models.tiny import TinyAutoencoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Network(Protocol):
    """An autoencoder between [0,1] pictures and scaled latents; `multiple` is what its input's sides divide by."""

    multiple: int

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class LatentModel:
    """A network on its device, in its dtype, in channels-last order. Float32 in, float32 out."""

    def __init__(
        self, name: str, network: Network, *, size: int | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.name, self.size, self.multiple = name, size, network.multiple
        self._device, self._dtype = device, dtype
        self._network = network
        if isinstance(network, nn.Module):
            network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images (N,3,H,W) in [0,1], in the units in which the diffusion model works."""
        x = x.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)
        return self._network.encode(x).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1]."""
        return self._network.decode(latents.to(self._device, self._dtype)).float().clamp(0, 1)


class KLAutoencoder(nn.Module):
    """An autoencoder of diffusers: works in [-1,1]; the latent is the posterior's mean, then shifted and scaled."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self._scale = float(vae.config.scaling_factor or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self.multiple = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        coded = self.vae.encode(x * 2 - 1)
        mean: Tensor = coded.latent_dist.mean if hasattr(coded, "latent_dist") else coded.latents
        return (mean - self._shift) * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(latents / self._scale + self._shift).sample
        return (image + 1) / 2


def upcast(pipeline: Any, dtype: torch.dtype) -> torch.dtype:
    """A VAE that overflows in half precision runs in float32, casting at its doors. Returns what it runs in.

    diffusers casts such a VAE back and forth around each call, which gradients that come back later do not survive.
    Pipelines that never do so run theirs as it is, whatever its config says: `force_upcast` is on by default.
    """
    vae = pipeline.vae
    if not hasattr(pipeline, "upcast_vae") or not getattr(vae.config, "force_upcast", False):
        return dtype
    vae.register_to_config(force_upcast=False)
    if dtype == torch.float32:
        return dtype
    vae.float()
    for name in ("encode", "decode"):
        setattr(vae, name, _widened(getattr(vae, name)))
    return torch.float32


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(x.float(), *args, **kwargs)

    return call


def load_latent_model(model: Model, folder: Path, device: torch.device) -> LatentModel:
    """Read a diffusers autoencoder folder that `registry.locate` found; its config names the class. Raises BadField."""
    with reading(model.name):
        network = _network(model, folder)
    return LatentModel(model.name, network, size=model.size, device=device, dtype=DTYPES[model.dtype])


def _network(model: Model, folder: Path) -> Network:
    weights = folders.weights(folder)
    assert weights is not None
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if kind == "AutoencoderTiny":
        try:
            return TinyAutoencoder.from_folder(folder, weights.name)
        except ValueError as error:
            raise BadField(f"models: {model.name}: {error}", field="models") from None
    if kind == "AutoencoderKL":
        return KLAutoencoder(network(folder, kind))
    raise BadField(
        f"models: {model.name} holds a {kind}; diffusers-vae takes an AutoencoderKL or an AutoencoderTiny",
        field="models",
    )
