"""`immunize bench encoder`: what it prints, and that its figures are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from service.cli import main
from worker.bench import robustness
from worker.bench.pictures import load_crops

OWN = """
import torch
from torch import nn

class Own(nn.Module):
    multiple = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Tanh(), nn.Conv2d(8, 4, 1))

    def encode(self, x):
        return self.layers(x * 4 - 2)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    return f"{file}:Own"


@pytest.fixture
def folder(tmp_path: Path, photograph: Image.Image) -> Path:
    made = tmp_path / "photographs"
    made.mkdir()
    photograph.save(made / "a.png")
    photograph.rotate(180).save(made / "b.jpg")
    photograph.resize((20, 20)).save(made / "too-small.png")
    (made / "notes.txt").write_text("no picture", encoding="utf-8")
    return made


def bench(own: str, folder: Path, *more: str) -> int:
    return main(["bench", "encoder", "--encoder", own, "--images", str(folder), "--size", "32", *more])


def test_json_holds_every_figure(own: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(own, folder, "--json", "--batches", "1,3") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["about"]["pictures"].startswith("2 centre crops 32x32")
    assert found["about"]["threads"] >= 1
    curves = {curve["name"]: curve["ratios"] for curve in found["curves"]["curves"]}
    assert {"fast", "photoguard", "paper"} <= set(curves)
    for ratios in curves.values():
        assert list(ratios) == ["10", "20", "40", "80", "200"]
        assert 0 < ratios["200"] <= ratios["10"] < 1
    needed = found["curves"]["needed"]["photoguard"]
    assert needed is None or 1 <= needed <= 200
    assert [row["batch"] for row in found["speed"]] == [1, 3]
    for row in found["speed"]:
        assert row["overhead"] > 0
        assert row["fast_images_per_second"] > row["photoguard_images_per_second"] > 0
        assert row["peak_memory_bytes"] > 2**20
    rows = {row["preset"]: row for row in found["robustness"]}
    assert set(rows) == {"fast", "robust", "paper", "photoguard", "noise"}
    assert all(set(row["ratios"]) == set(robustness.TRANSFORMS) for row in rows.values())
    assert rows["fast"]["ratios"]["as delivered"] == pytest.approx(curves["fast"]["20"], rel=1e-3)
    assert rows["noise"]["ratios"]["as delivered"] > rows["fast"]["ratios"]["as delivered"]


def test_table_of_one_part(own: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(own, folder, "--parts", "robustness", "--count", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 centre crops 32x32 of photographs" in lines[0]
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "fast (20)",
        "robust (60)",
        "paper (200)",
        "photoguard (200)",
        "noise (0)",
    ]


def test_a_model_of_the_registry(
    models_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(models_file))
    arguments = ["--model", "tiny", "--images", str(folder), "--size", "32", "--parts", "speed", "--batches", "1"]
    assert main(["bench", "encoder", *arguments]) == 0
    assert "fast/bare" in capsys.readouterr().out


def test_crops_of_scikit_image_are_the_default() -> None:
    crops = load_crops(None, 3, 64)
    assert crops.shape == (3, 3, 64, 64)
    assert crops.std() > 0.05


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--parts", "curves,speeds"], "'speeds' is not one of curves, speed, robustness"),
        (["--batches", "1,0"], "whole numbers above 0"),
        (["--epsilon", "0"], "above 0 and at most 255"),
        (["--epsilon", "nan"], "above 0 and at most 255"),
        (["--size", "4096"], "no picture of at least 4096x4096"),
        (["--size", "3"], "--size at least 16"),
        (["--model", "tiny"], "give one of them"),
        (["--device", "cuda:99"], "cannot be used here"),
    ],
)
def test_bad_options(own: str, folder: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(own, folder, *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--architecture", "sd99"], "is not sd15"),
        (["--model", "nobody"], "there is no model 'nobody'"),
        (["--encoder", "nowhere.py:Own"], "existing file"),
    ],
)
def test_bad_subjects(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "encoder", *arguments]) == 2
    assert said in capsys.readouterr().err
