"""Folders of tiny pipelines, made once, and registries of small TorchScript files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from service.contracts.catalog import Model, load_models
from tests.worker.models import exports, families
from worker.models.pool import Pool
from worker.models.torchscript import Inpainter


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """pipeline_folder(name): the folder of a pipeline of families.FOLDERS; leave it as it is."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = families.save(name, tmp_path_factory.mktemp("pipelines") / name)
        return made[name]

    return folder


@pytest.fixture
def torchscript_registry(tmp_path: Path) -> Callable[..., dict[str, Model]]:
    """torchscript_registry(file, options, **fields): what a models file with an entry `some` for that file makes."""

    def made(file: Path | str, *, options: dict[str, object] | None = None, **fields: object) -> dict[str, Model]:
        given = {"kind": "torchscript-inpaint", "source": str(file), **fields}
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        lines += ["[some.options]", *(f"{name} = {json.dumps(value)}" for name, value in (options or {}).items())]
        (tmp_path / "models.toml").write_text("\n".join(["[some]", *lines]), encoding="utf-8")
        return load_models(tmp_path / "models.toml")

    return made


@pytest.fixture
def load_torchscript(torchscript_registry: Callable[..., dict[str, Model]], tmp_path: Path) -> Callable[..., Inpainter]:
    """load_torchscript(network or file, fields of its entry, **options): the inpainter, by the ordinary path."""

    def loaded(network: nn.Module | Path, fields: dict[str, object] | None = None, **options: object) -> Inpainter:
        file = exports.save(network, tmp_path / "inpainter.pt") if isinstance(network, nn.Module) else network
        return Pool(torchscript_registry(file, options=options, **(fields or {})), torch.device("cpu")).get("some")

    return loaded
