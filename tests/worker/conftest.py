"""What the engine's tests share: pictures on the 8-bit grid, small encoders and editors of every working size, and the
models that ship."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from service.contracts.catalog import load_models
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions
from worker.models.pool import Pool

Pictures = Callable[..., Tensor]
Encoders = Callable[..., nn.Module]
Editors = Callable[..., "SmallEditor"]


class SmallEncoder(nn.Module):
    """Patches of `multiple` × `multiple` pixels, each through a small nonlinear network."""

    def __init__(self, channels: int, multiple: int, size: int | None, seed: int) -> None:
        super().__init__()
        self.multiple, self.size = multiple, size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 16, multiple, stride=multiple), nn.Tanh(), nn.Conv2d(16, channels, 3, padding=1)
            )
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        return self.layers(x * 4 - 2)


class SmallEditor(SmallEncoder):
    """Paints from what it sees outside the mask, the words and noise. Blind inside the mask; one step is all it has.

    `told` is what each call was given, and by which method: name, images, mask, prompts, seeds, options.
    """

    def __init__(self, channels: int, multiple: int, size: int | None, seed: int) -> None:
        super().__init__(channels, multiple, size, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.painted = nn.Sequential(nn.Conv2d(channels, 3 * multiple**2, 1), nn.PixelShuffle(multiple))
        self.requires_grad_(False)
        self.told: list[tuple[str, Tensor, Tensor | None, list[str], list[int], EditOptions]] = []

    def predict_noise(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        seeds = [generator.initial_seed() for generator in generators]
        self.told.append(("predict_noise", x.detach(), mask, list(prompts), seeds, options))
        return self._latents(x, mask, prompts, generators)

    def edit(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        seeds = [generator.initial_seed() for generator in generators]
        self.told.append(("edit", x.detach(), mask, list(prompts), seeds, options))
        return torch.sigmoid(self.painted(self._latents(x, mask, prompts, generators)) * 4)

    def _latents(
        self, x: Tensor, mask: Tensor | None, prompts: Sequence[str], generators: Sequence[torch.Generator]
    ) -> Tensor:
        assert x.shape[-2] % self.multiple == x.shape[-1] % self.multiple == 0
        assert len(x) == len(prompts) == len(generators)
        assert x.min() >= 0
        assert x.max() <= 1
        assert mask is None or (mask.shape[-2:] == x.shape[-2:] and mask.dtype == x.dtype)
        latents = self.encode(x if mask is None else x * (1 - mask) + 0.5 * mask)
        noise = [torch.randn(latents.shape[1:], generator=generator) for generator in generators]
        words = [torch.Generator().manual_seed(zlib.crc32(prompt.encode())) for prompt in prompts]
        meant = [torch.randn(latents.shape[1], 1, 1, generator=generator) for generator in words]
        return latents + (torch.stack(noise) + torch.stack(meant)) * 0.1


def small_editor(device: torch.device) -> SmallEditor:
    """What the registry of the tests makes `painter` with."""
    return SmallEditor(4, 8, 64, 0).to(device)


def _pictures(count: int = 2, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float() / 255


def _encoder(channels: int = 4, multiple: int = 8, size: int | None = None, seed: int = 0) -> SmallEncoder:
    return SmallEncoder(channels, multiple, size, seed)


def _editor(channels: int = 4, multiple: int = 8, size: int | None = None, seed: int = 0) -> SmallEditor:
    return SmallEditor(channels, multiple, size, seed)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that meet at a barrier a thousand times for tiny tensors take longer than one, a hundred times so
    beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """pictures(count, height, width, seed): random pictures (N,3,H,W) on the 8-bit grid."""
    return _pictures


@pytest.fixture(scope="session")
def encoder() -> Encoders:
    """encoder(channels, multiple, size, seed): a small frozen network with `encode`."""
    return _encoder


@pytest.fixture(scope="session")
def editor() -> Editors:
    """editor(channels, multiple, size, seed): a small frozen network with `encode`, `predict_noise` and `edit`."""
    return _editor


@pytest.fixture(scope="session")
def shipped() -> Pool:
    """The models that ship, loaded once: the first of its editors takes eight seconds."""
    return Pool(load_models(), torch.device("cpu"))
