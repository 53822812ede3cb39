"""The models of the chaos run: one that works at a fixed pace, one that breaks, one that kills its worker.

Made in Python, so that the program needs no weights, and imported by workers alone, so that it needs no torch itself.
"""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn

import torch
from torch import Tensor, nn

from tests.chaos.registry import SIZE


class Paced(nn.Module):
    """An encoder whose every call takes `pause` seconds more than it must.

    As on a GPU, time then passes whether the CPU is busy or not, and a batch takes as long as a single picture.
    """

    size = SIZE

    def __init__(self, pause: float) -> None:
        super().__init__()
        self._pause = pause
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        time.sleep(self._pause)
        latents: Tensor = self.layers(x * 4 - 2)
        return latents


class Broken:
    """As a bug would: it fails, and its worker lives on."""

    size = SIZE

    def encode(self, x: Tensor) -> NoReturn:
        raise RuntimeError(f"broken on purpose, with {len(x)} pictures")


class Deadly:
    """As a driver's crash would: it takes its worker along."""

    size = SIZE

    def encode(self, x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


def paced(device: torch.device, pause: float) -> Paced:
    return Paced(pause).to(device)


def broken(device: torch.device) -> Broken:
    return Broken()


def deadly(device: torch.device) -> Deadly:
    return Deadly()
