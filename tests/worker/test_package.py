"""The package's face: its names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import worker


@pytest.mark.parametrize("name", worker.__all__)
def test_names(name):
    assert getattr(worker, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        worker.Nothing  # noqa: B018


@pytest.mark.parametrize("module", ["worker", "worker.commands", "worker.files", "worker.models.registry"])
def test_importing_does_not_import_torch(module):
    """Every `immunize` call imports the engine's commands, and torch takes seconds."""
    heavy = {"torch", "diffusers", "skimage", "numpy"}
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {heavy!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == []
