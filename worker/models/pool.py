"""The models of one process, each loaded once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from worker.models import registry
from worker.models.latent import LatentModel, load_latent_model


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
    """Loads the models of a registry on first use and keeps them."""

    def __init__(self, models: Mapping[str, Model], device: torch.device) -> None:
        self.models, self.device = models, device
        self._loaded: dict[str, LatentModel] = {}

    def get(self, name: str) -> LatentModel:
        """The model, loaded. Raises ModelMissing where its weights are not on this machine."""
        if name not in self._loaded:
            model = self.models[name]
            self._loaded[name] = load_latent_model(model, registry.require(model), self.device)
        return self._loaded[name]

    def missing(self) -> dict[str, str]:
        """The models that are listed but not here, and how to get each."""
        return {
            name: registry.how_to_get(model) for name, model in self.models.items() if registry.locate(model) is None
        }
