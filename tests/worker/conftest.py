"""What the engine's tests share: pictures on the 8-bit grid, and small encoders of every working size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

Pictures = Callable[..., Tensor]
Encoders = Callable[..., nn.Module]


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


def _pictures(count: int = 2, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float() / 255


def _encoder(channels: int = 4, multiple: int = 8, size: int | None = None, seed: int = 0) -> SmallEncoder:
    return SmallEncoder(channels, multiple, size, seed)


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
