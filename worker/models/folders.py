"""Diffusers folders on this machine: what must be in them for a model to be loaded from safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

AUTOENCODER = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
INDEX = "model_index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NEEDED = ("unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler")  # where the index lists them


def weights(folder: Path) -> Path | None:
    """The safetensors of an autoencoder's folder: in full precision if they are there, else in half."""
    return next((folder / name for name in AUTOENCODER if (folder / name).is_file()), None)


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
        parts = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    except (ValueError, AttributeError, IndexError):
        return f"its {INDEX} is not the index of a diffusers pipeline"
    for name in parts:
        part = folder / name
        if name.startswith(NEEDED) and not part.is_dir():
            return f"its {name} is missing: {INDEX} lists it, but there is no such folder"
        if name.startswith(("unet", "transformer", "vae", "text_encoder")) and not any(part.glob("*.safetensors")):
            if any(file.suffix in PICKLES for file in part.iterdir()):
                return f"its {name} is there as a pickle only, which can run code; convert it to safetensors"
            return f"its {name} holds no safetensors"
    if "vae" not in parts or not {"unet", "transformer"} & parts.keys():
        return f"its {INDEX} ({index.get('_class_name')}) names no vae with a unet or transformer"
    return None
