"""`immunize edit` and `immunize image --method diffusion` with an inpainter that takes no words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli import main
from tests.helpers import opened, png
from tests.worker.models.exports import Noise, Paints, save

ENTRY = """
[{name}]
kind = "torchscript-inpaint"
source = "{file}"
"""
EDIT = ("edit", "photo.png", "-o", "out.png", "--mask", "mask.png")


@pytest.fixture(autouse=True)
def _folder(photograph, monkeypatch, tmp_path) -> None:
    """A photograph of 96x80, its mask, and the inpainters `lama`, `small` (working size 64), `noise` and `absent`."""
    monkeypatch.chdir(tmp_path)
    painter, noise = save(Paints(), tmp_path / "painter.pt"), save(Noise(), tmp_path / "noise.pt")
    entries = {
        "lama": (painter, "multiple = 8"),
        "small": (painter, "multiple = 32"),
        "noise": (noise, "random = true"),
        "absent": (tmp_path / "nowhere.pt", "blank = true"),
    }
    tables = [
        ENTRY.format(name=name, file=file) + ("size = 64\n" if name == "small" else "") + f"options = {{ {options} }}\n"
        for name, (file, options) in entries.items()
    ]
    (tmp_path / "models.toml").write_text("".join(tables), encoding="utf-8")
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(tmp_path / "models.toml"))
    monkeypatch.setenv("IMMUNIZE_DEVICE", "cpu")
    (tmp_path / "photo.png").write_bytes(png(photograph))
    mask = Image.new("L", photograph.size)
    mask.paste(255, (24, 20, 60, 80))
    (tmp_path / "mask.png").write_bytes(png(mask))


def edited(*arguments: str) -> np.ndarray:
    assert main([*EDIT, *arguments]) == 0
    return np.asarray(opened(Path("out.png").read_bytes())).astype(int)


@pytest.mark.parametrize("name", ["lama", "small"])
def test_the_region_is_filled(name, capsys):
    made, again = (edited("--model", name, "--seed", seed) for seed in "12")
    original, inside = np.asarray(Image.open("photo.png")), np.asarray(Image.open("mask.png")) > 0
    assert made.shape == original.shape
    assert (made == again).all()  # nothing in it is drawn
    assert (made[inside] != original[inside]).any()
    if name == "lama":
        assert (made[~inside] == original[~inside]).all()
    told = capsys.readouterr()
    assert not told.out
    assert not told.err


def test_the_seed_of_one_that_draws_noise():
    first, again, other = (edited("--model", "noise", "--seed", seed) for seed in "112")
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("name", ["lama", "absent"])
@pytest.mark.parametrize("option", ["prompt", "steps", "guidance"])
def test_what_it_does_not_take(option, name, capsys):
    value = "a cat" if option == "prompt" else "4"
    assert main([*EDIT, "--model", name, f"--{option}", value]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"immunize: --{option}: {name} takes none")
    assert told.count("\n") == 1
    assert not Path("out.png").exists()


def test_it_needs_a_mask(capsys):
    assert main(["edit", "photo.png", "-o", "out.png", "--model", "lama"]) == 2
    assert "mask: lama is an inpainter: it needs a mask" in capsys.readouterr().err
    assert not Path("out.png").exists()


def test_one_that_is_not_here(capsys):
    assert main([*EDIT, "--model", "absent"]) == 2
    assert "absent is listed, but its weights are not here; put the TorchScript file where" in capsys.readouterr().err


def test_the_registry_shows_it(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert [rows[name]["present"] for name in ("lama", "small", "absent")] == [True, True, False]
    assert rows["lama"]["abilities"] == ["edits"]
    assert rows["absent"]["how_to_get"] == "put the TorchScript file where its source says"
    assert {"reference-lama", "reference-mat"} <= set(rows)


@pytest.mark.parametrize("name", ["lama", "small"])
def test_it_is_attacked(name):
    how = ["--method", "diffusion", "--model", name, "--mask", "mask.png", "--steps", "6", "--seed", "1"]
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *how]) == 0
    report = json.loads(Path("r.json").read_text())
    assert report["loss_final"] < report["loss_initial"]
    original, made = (np.asarray(Image.open(file)).astype(int) for file in ("photo.png", "out.png"))
    inside = np.asarray(Image.open("mask.png")) > 0
    assert np.abs(made - original).max() == report["linf_255"] <= 8
    assert (made[inside] == original[inside]).all()


def test_a_preset_that_needs_predictions(capsys):
    how = ["--method", "diffusion", "--preset", "early", "--model", "lama"]
    assert main(["image", "photo.png", "-o", "out.png", *how]) == 2
    assert "early needs models that denoise" in capsys.readouterr().err
