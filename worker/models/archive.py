"""TorchScript files on this machine: whether a file is one, told without loading it (or torch)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile


def trouble(file: Path) -> str | None:
    """What keeps this from being a TorchScript file, as a sentence, or None."""
    if file.is_dir():
        return "its source is a folder, in which subfolder does not name a file"
    try:
        with ZipFile(file) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
    except (BadZipFile, OSError):
        return "its file is no TorchScript file, or is cut off"
    if "constants.pkl" not in names:  # beside the code; torch.save of weights, or of a module, writes none
        return "its file holds weights alone and no code, so it is no TorchScript file; export it with torch.jit"
    return None
