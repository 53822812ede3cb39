"""How the reference models are trained: the optimiser, its schedule, and a run that can be broken off and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Optimizer:
    """Muon (Jordan et al. 2024) for the convolutions' matrices, AdamW for the rest, one schedule over both.

    torch's Muon takes matrices only: each convolution's weight is handed to it as an (out, in*k*k) view of itself.
    """

    def __init__(self, module: nn.Module, muon_rate: float = 0.012, adam_rate: float = 1e-3) -> None:
        self._all = [p for p in module.parameters() if p.requires_grad]
        self._convolutions = [p for p in self._all if p.ndim == 4 and min(p.shape[:2]) > 3]
        taken = {id(p) for p in self._convolutions}
        rest = [p for p in self._all if id(p) not in taken]
        self._matrices = [nn.Parameter(_matrix(p.data)) for p in self._convolutions]
        self._parts = (
            torch.optim.Muon(self._matrices, lr=muon_rate, weight_decay=0.05, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.99), weight_decay=1e-4),
        )
        self._rates = (muon_rate, adam_rate)

    def step(self, loss: Tensor, scale: float) -> None:
        """One update with the learning rates scaled by `scale`."""
        for parameter in self._all:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._all, 1.0)
        for matrix, parameter in zip(self._matrices, self._convolutions, strict=True):
            assert parameter.grad is not None
            matrix.grad = _matrix(parameter.grad)
        for part, rate in zip(self._parts, self._rates, strict=True):
            part.param_groups[0]["lr"] = rate * scale
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


def _matrix(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over 200 steps, then linear to zero."""
    return min(1.0, (step + 1) / 200) * max(0.0, 1 - step / steps)


class Run:
    """One stage of training: its optimiser, average of weights, random state and checkpoint.

    `others`: what else is trained beside the module and belongs into the checkpoint, a critic say.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        steps: int,
        device: torch.device,
        others: Mapping[str, nn.Module | torch.optim.Optimizer] | None = None,
    ) -> None:
        self._module, self._path, self._steps, self._device = module, path, steps, device
        self._others = others or {}
        self._optimizer = Optimizer(module)
        self.average = {name: value.clone() for name, value in module.state_dict().items()}
        self._step, self._smooth = 0, math.nan
        if path.exists():
            saved = torch.load(path, map_location=device, weights_only=True)
            module.load_state_dict(saved["module"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self.average, self._step = saved["average"], saved["step"]
            for name, other in self._others.items():
                other.load_state_dict(saved["others"][name])

    def batches(self, draw: Callable[[np.random.Generator], Tensor]) -> Iterator[tuple[Tensor, np.random.Generator]]:
        """What `draw` draws for every step that is left, with the step's own random generator."""
        began = saved = time.monotonic()
        first = self._step
        while self._step < self._steps:
            rng = np.random.default_rng([11, self._step])  # so that a resumed run sees what an unbroken one would
            torch.manual_seed(self._step)
            yield draw(rng).to(self._device), rng
            self._step += 1
            if self._step % 100 == 0:
                pace = (time.monotonic() - began) / (self._step - first)
                print(f"step {self._step}/{self._steps} loss {self._smooth:.4f} {pace:.2f} s a step", flush=True)
            if time.monotonic() - saved > 300:
                self.save()
                saved = time.monotonic()
        self.save()

    def update(self, loss: Tensor) -> None:
        error = loss.item()
        if not math.isnan(self._smooth) and not error < 5 * self._smooth:
            return  # a batch far off the rest: its gradient would undo hours
        self._optimizer.step(loss, schedule(self._step, self._steps))
        keep = min(0.999, self._step / (self._step + 10))
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:  # a count of batches
                self.average[name].copy_(value)
        self._smooth = error if math.isnan(self._smooth) else 0.99 * self._smooth + 0.01 * error

    def save(self) -> None:
        staging = self._path.with_suffix(".part")
        state = {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self.average,
            "step": self._step,
            "others": {name: other.state_dict() for name, other in self._others.items()},
        }
        torch.save(state, staging)
        staging.replace(self._path)
