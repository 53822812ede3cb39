"""What every benchmark prints: its circumstances, Markdown tables, progress on stderr."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.contracts.errors import BadField
from worker.immunization import device_name

SHEETS = (".png", ".webp", ".jpg", ".jpeg")


def circumstances(device: torch.device, dtype: str, **more: object) -> dict[str, object]:
    """That without which no figure means anything."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": version("immunize"),
        **more,
        "device": device_name(device) if device.type == "cuda" else f"cpu, {_processor()}",
        "dtype": dtype,
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
    }


def told(x: Tensor, source: str) -> str:
    return f"{len(x)} centre crops {x.shape[-1]}x{x.shape[-2]} of {source}"


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table, its columns aligned."""
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def words(option: str, text: str, known: Sequence[str]) -> list[str]:
    given = [word.strip() for word in text.split(",") if word.strip()]
    for word in given:
        if word not in known:
            raise BadField(f"{option}: {word!r} is not one of {', '.join(known)}", field="parts")
    return given


def sheet(columns: Sequence[Tensor], path: Path) -> None:
    """Batches (N,3,H,W) in [0,1] beside one another, a picture a row, as one picture file."""
    rows = torch.cat([torch.cat(list(column.cpu()), 1) for column in columns], 2)
    values = (rows.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(values)).save(path)


def _processor() -> str:
    """The CPU's name, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()} x{os.cpu_count()}"


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
