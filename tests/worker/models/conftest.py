"""Folders of tiny pipelines, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.models import families


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """pipeline_folder(name): the folder of a pipeline of families.FOLDERS; leave it as it is."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = families.save(name, tmp_path_factory.mktemp("pipelines") / name)
        return made[name]

    return folder
