"""The gateway without the engine: torch absent, numpy absent, the worker package absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
"""
DEPENDENCIES = {"torch", "numpy", "diffusers", "skimage", "safetensors", "tqdm", "transformers", "huggingface_hub"}


def alone(code: str, blocked: set[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, where some packages are not installed."""
    command = [sys.executable, "-W", "error", "-c", ABSENT.format(blocked=sorted(blocked)) + code]
    environ = os.environ | {"IMMUNIZE_STORE_URL": (folder / "store").as_uri()}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, cwd=folder, check=False)


def test_the_gateway_needs_nothing_of_the_engine(tmp_path: Path) -> None:
    code = (
        "from service.app import create_app\n"
        "from service.contracts.settings import load_settings\n"
        "from fastapi.testclient import TestClient\n"
        "with TestClient(create_app(load_settings())) as client:\n"
        "    print(client.get('/healthz').status_code, client.get('/openapi.json').status_code)\n"
    )
    done = alone(code, DEPENDENCIES | {"worker"}, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "200 200\n", "")


@pytest.mark.parametrize("module", ["client", "contracts.pictures", "contracts.s3", "embedded", "demo", "serve"])
def test_its_parts_need_nothing_of_the_engine(module: str, tmp_path: Path) -> None:
    done = alone(f"import service.{module}", DEPENDENCIES | {"worker"}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["gateway", "--help"], 0), (["image", "in.png", "-o", "out.png"], 1), (["worker"], 1)],
    ids=lambda value: str(value),
)
def test_the_command_line_without_torch(arguments: list[str], status: int, tmp_path: Path, image: bytes) -> None:
    (tmp_path / "in.png").write_bytes(image)
    done = alone(f"from service.cli import main\nsys.exit(main({arguments!r}))", DEPENDENCIES, tmp_path)
    assert done.returncode == status, done.stderr
    if status:
        assert "is not installed; install immunize[worker]" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
