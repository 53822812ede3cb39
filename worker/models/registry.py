"""Where a registry entry's files are on this machine, and how to get them if they are not."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

from service.contracts.catalog import PATHS, Model
from service.contracts.errors import ModelMissing
from worker.models import archive, folders


def locate(model: Model) -> Path | None:
    """The folder that holds the model, complete and in safetensors, or None if there is none on this machine.

    For kind torchscript-inpaint it is the TorchScript file, for kind python the module's file."""
    place = _place(model)
    return place if place is not None and _trouble(model, place) is None else None


def require(model: Model) -> Path:
    """As `locate`, but raises ModelMissing, which says how to get the model."""
    folder = locate(model)
    if folder is None:
        raise ModelMissing(
            f"models: {model.name} is listed, but its weights are not here; {how_to_get(model)}", field="models"
        )
    return folder


def how_to_get(model: Model) -> str:
    """What its operator must do, after what is wrong with what is there."""
    place = _place(model)
    wrong = None if place is None else _trouble(model, place)
    return _remedy(model) if wrong is None else f"{wrong}; {_remedy(model)}"


def _remedy(model: Model) -> str:
    if model.kind == "python":
        return "install the package that its source names"
    if model.source.startswith("builtin:"):
        return "install the complete package, weights included"
    if model.source.startswith(PATHS):
        if model.kind == "torchscript-inpaint":
            return "put the TorchScript file where its source says"
        index = "config.json" if model.kind == "diffusers-vae" else folders.INDEX
        return f"put a diffusers folder ({index} and safetensors) where its source says"
    revision = f" --revision {model.revision}" if model.revision else ""
    file = f" {model.subfolder}" if model.kind == "torchscript-inpaint" else ""
    return f"fetch them once with `hf download {model.source}{file}{revision}` on every worker"


def _place(model: Model) -> Path | None:
    if model.kind == "python":
        return _module(model.source)
    place = _root(model)
    if place is not None and model.subfolder:
        place = place / model.subfolder
    if place is None or not place.exists():
        return None
    return place if place.is_dir() or model.kind == "torchscript-inpaint" else None


def _trouble(model: Model, place: Path) -> str | None:
    if model.kind == "python":
        return None
    if model.kind == "torchscript-inpaint":
        return archive.trouble(place)
    autoencoder = model.kind == "diffusers-vae"
    return folders.autoencoder_trouble(place) if autoencoder else folders.pipeline_trouble(place)


def _module(source: str) -> Path | None:
    """Where the module of `package.module:factory` lies, or None if it is not installed. Its parents are imported."""
    try:
        spec = importlib.util.find_spec(source.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _root(model: Model) -> Path | None:
    if model.source.startswith("builtin:"):
        return Path(str(files("worker.reference").joinpath("weights", model.source.removeprefix("builtin:"))))
    if model.source.startswith(PATHS):
        return Path(model.source).expanduser()
    return _cached(model)


def _cached(model: Model) -> Path | None:
    """The snapshot of a hub id in the local hub cache; nothing is fetched."""
    from huggingface_hub import snapshot_download  # half a second to import, and only hub ids need it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
