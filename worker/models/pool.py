"""The models of one process: each loaded on first use, the least recently used given up when memory is short."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import Model
from service.contracts.errors import BadField, OutOfMemory
from worker.models import folders, registry
from worker.models.custom import load_custom
from worker.models.latent import load_latent_model
from worker.models.torchscript import load_inpainter

log = logging.getLogger(__name__)
SHARE = 0.5  # of the device's memory that models may fill by default; the rest is for activations

Loader = Callable[[Model, Path, torch.device], Any]


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises BadField for a device that does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadField(f"device: {name!r} cannot be used here ({reason}); say auto or cpu", field="device") from None
    return device


class Pool:
    """Loads the models of a registry on first use and keeps them within `memory` bytes (default: half the device's)."""

    def __init__(self, models: Mapping[str, Model], device: torch.device, memory: int | None = None) -> None:
        self.models, self.device = models, device
        self._memory = memory if memory is not None else int(_device_memory(device) * SHARE)
        self._loaded: dict[str, Any] = {}  # the least recently used first
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()  # a worker encodes in other threads than it optimises in

    def get(self, name: str) -> Any:
        """The model, loaded. Raises ModelMissing where its weights are not on this machine."""
        return self.get_all([name])[0]

    def get_all(self, names: Sequence[str]) -> list[Any]:
        """Models that are needed together, none of them given up for another.

        Raises ModelMissing, and OutOfMemory where a model does not fit on the device beside the others asked for; the
        pool then holds what it can, and the next call works.
        """
        with self._lock:
            return self._get_all(names)

    def _get_all(self, names: Sequence[str]) -> list[Any]:
        places = {name: registry.require(self.models[name]) for name in names if name not in self._loaded}
        for name in names:
            if name in self._loaded:
                self._loaded[name] = self._loaded.pop(name)
                continue
            self._make_room(_weight(self.models[name].kind, places[name]), keep=names)
            try:
                model = _loader(self.models[name].kind)(self.models[name], places[name], self.device)
            except torch.OutOfMemoryError as error:
                self._make_room(self._memory, keep=())
                raise OutOfMemory(
                    f"model {name} does not fit on the device; take a smaller dtype or fewer models"
                ) from error
            self._loaded[name], self._sizes[name] = model, memory_of(model)
            self._make_room(0, keep=names)
        return [self._loaded[name] for name in names]

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, the least recently used first."""
        return tuple(self._loaded)

    def missing(self) -> dict[str, str]:
        """The models that are listed but not here, and how to get each."""
        return {
            name: registry.how_to_get(model) for name, model in self.models.items() if registry.locate(model) is None
        }

    def _make_room(self, needed: int, keep: Sequence[str]) -> None:
        for name in list(self._loaded):
            if sum(self._sizes.values()) + needed <= self._memory:
                return
            if name not in keep:
                log.info("model %s is given up to make room", name)
                del self._loaded[name], self._sizes[name]
                gc.collect()  # pipelines hold on to themselves in circles
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()


def memory_of(model: Any) -> int:
    """Bytes of all tensors that a model is made of, those that it shares with itself counted once."""
    seen: dict[int, Any] = {}  # kept, or another object might get the number of one that is gone
    total, waiting = 0, [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(getattr(part, "memory_bytes", None), int):  # it knows, and its tensors may not be found
            total += part.memory_bytes
        elif isinstance(part, Tensor):
            total += part.numel() * part.element_size()
        elif isinstance(part, torch.jit.ScriptModule):  # what it holds is not in its __dict__
            waiting += [*part.parameters(), *part.buffers()]
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        elif hasattr(part, "__dict__") and not isinstance(part, type | ModuleType):
            waiting += vars(part).values()
    return total


def _weight(kind: str, place: Path) -> int:
    """About the bytes that loading it will take."""
    if kind == "torchscript-inpaint":
        return place.stat().st_size
    return folders.size(place) if place.is_dir() else 0


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _loader(kind: str) -> Loader:
    loaders: dict[str, Loader] = {
        "diffusers-vae": load_latent_model,
        "torchscript-inpaint": load_inpainter,
        "python": load_custom,
    }
    if kind in loaders:
        return loaders[kind]
    from worker.models.pipelines import load_editor  # imports much, and only editors need it

    return load_editor
