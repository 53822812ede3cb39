"""Diffusers folders on this machine: what must be in them for a model to be loaded from safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

AUTOENCODER = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
INDEX = "model_index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NETWORKS = ("unet", "transformer", "vae", "text_encoder")  # and those numbered after them
NEEDED = (*NETWORKS, "tokenizer", "scheduler")  # where the index lists them


def weights(folder: Path) -> Path | None:
    """The safetensors of an autoencoder's folder: in full precision if they are there, else in half."""
    return next((folder / name for name in AUTOENCODER if (folder / name).is_file()), None)


def half(folder: Path) -> bool:
    """Whether a network of this pipeline is there in half precision only."""
    return not all(any(precise(file) for file in files) for files in _networks(folder))


def size(folder: Path) -> int:
    """Bytes of the safetensors that loading a pipeline, or else an autoencoder, reads."""
    read = _networks(folder) or [[file] for file in [weights(folder)] if file is not None]
    chosen = [[file for file in files if precise(file)] or files for files in read]
    return sum(file.stat().st_size for files in chosen for file in files)


def autoencoder_trouble(folder: Path) -> str | None:
    """What keeps this folder from being an autoencoder in safetensors, as a sentence, or None."""
    if not (folder / "config.json").is_file():
        return "there is no config.json"
    return "there are no safetensors" if weights(folder) is None else None


def pipeline_trouble(folder: Path) -> str | None:
    """What keeps this folder from being a complete pipeline in safetensors, as a sentence, or None."""
    if not (folder / INDEX).is_file():
        return f"there is no {INDEX}, so it is no diffusers pipeline; a lone autoencoder is kind diffusers-vae"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        entries = {name: entry for name, entry in index.items() if isinstance(entry, list)}
        parts = [name for name, (library, _) in entries.items() if library is not None]
    except (ValueError, AttributeError):
        return f"its {INDEX} is not the index of a diffusers pipeline"
    for name in parts:
        part = folder / name
        if name.startswith(NEEDED) and not part.is_dir():
            return f"its {name} is missing: {INDEX} lists it, but there is no such folder"
        if name.startswith(NETWORKS) and not any(part.glob("*.safetensors")):
            if any(file.suffix in PICKLES for file in part.iterdir()):
                return f"its {name} is there as a pickle only, which can run code; convert it to safetensors"
            return f"its {name} holds no safetensors"
    if "vae" not in parts or not {"unet", "transformer"} & set(parts):
        return f"its {INDEX} ({index.get('_class_name')}) names no vae with a unet or transformer"
    return None


def _networks(folder: Path) -> list[list[Path]]:
    """The safetensors of each network of a pipeline."""
    parts = [part for part in folder.iterdir() if part.is_dir() and part.name.startswith(NETWORKS)]
    return [files for part in parts if (files := list(part.glob("*.safetensors")))]


def precise(file: Path) -> bool:
    """Whether weights are in full precision: the others' names say what they are, as in NAME.fp16.safetensors."""
    return file.name.count(".") == 1
