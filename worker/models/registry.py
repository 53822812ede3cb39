"""Where a registry entry's files are on this machine, and how to get them if they are not."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from service.contracts.catalog import Model
from service.contracts.errors import ModelMissing

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


def locate(model: Model) -> Path | None:
    """The folder that holds the model's config.json and safetensors, or None if it is not on this machine."""
    folder = _root(model)
    if folder is not None and model.subfolder:
        folder = folder / model.subfolder
    if folder is None or not (folder / "config.json").is_file():
        return None
    return folder if weights(folder) is not None else None


def weights(folder: Path) -> Path | None:
    """The safetensors of a model's folder: in full precision if they are there, else in half."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def require(model: Model) -> Path:
    """As `locate`, but raises ModelMissing, which says how to get the model."""
    folder = locate(model)
    if folder is None:
        raise ModelMissing(
            f"models: {model.name} is listed, but its weights are not here; {how_to_get(model)}", field="models"
        )
    return folder


def how_to_get(model: Model) -> str:
    if model.source.startswith("builtin:"):
        return "install the complete package, weights included"
    if _is_folder(model.source):
        return "put a diffusers folder (config.json and safetensors) where its source says"
    revision = f" --revision {model.revision}" if model.revision else ""
    return f"fetch them once with `hf download {model.source}{revision}` on every worker"


def _root(model: Model) -> Path | None:
    if model.source.startswith("builtin:"):
        return Path(str(files("worker.reference").joinpath("weights", model.source.removeprefix("builtin:"))))
    if _is_folder(model.source):
        return Path(model.source).expanduser()
    return _cached(model)


def _is_folder(source: str) -> bool:
    return source.startswith((".", "/", "~"))


def _cached(model: Model) -> Path | None:
    """The snapshot of a hub id in the local hub cache; nothing is fetched."""
    from huggingface_hub import snapshot_download  # half a second to import, and only hub ids need it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
