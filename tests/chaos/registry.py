"""The models file of a chaos run."""

from __future__ import annotations

from pathlib import Path

SIZE = 64


def write_registry(file: Path, pause: float) -> Path:
    """Names the three models of tests/chaos/models.py, which only workers import: it needs torch."""
    tables = [
        f'[{name}]\nkind = "python"\nsource = "tests.chaos.models:{name}"\nabilities = ["encodes"]\nsize = {SIZE}\n'
        + options
        for name, options in (("paced", f"options = {{ pause = {pause:g} }}\n"), ("broken", ""), ("deadly", ""))
    ]
    file.write_text("\n".join(tables), encoding="utf-8")
    return file
