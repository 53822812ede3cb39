"""`immunize bench diffusion`: what it prints, and that its figures are those of the runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.cli import main
from service.contracts.catalog import METHODS
from tests.worker.conftest import SmallEditor
from tests.worker.models import families
from worker.bench import displacement, subject
from worker.bench.diffusion import LEAST, PROMPTS, SEEDS, centred
from worker.bench.pictures import load_crops
from worker.models.abilities import EditOptions

QUICK = """
[reference-ldm]
kind = "diffusers-inpaint"
source = "builtin:ldm"
size = 128
steps = 2
guidance = 4.0
"""
Editors = Callable[..., SmallEditor]
Pictures = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def _registry(models_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' own, with the editor that ships as it is but for two steps an edit."""
    file = tmp_path / "models.toml"
    file.write_text(models_file.read_text(encoding="utf-8") + QUICK, encoding="utf-8")
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(file))
    monkeypatch.chdir(tmp_path)


def bench(*more: str) -> int:
    return main(["bench", "diffusion", "--device", "cpu", *more])


def test_tables_and_a_sheet_of_the_shipped_editor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    quick = ("--count", "1", "--size", "64", "--divide", "30", "--presets", "fast,early")
    assert bench(*quick, "--sheet", "sheet.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "editor reference-ldm" in lines[0]
    assert "1 centre squares of scikit-image's photographs at 64x64" in lines[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        *("preset", "fast", "early"),
        *("SSIM of the edit against the clean edit", "noise", "encoder fast", "diffusion fast", "diffusion early"),
    ]
    for row in rows[1:3]:
        assert row[1] == row[2] == str(METHODS["diffusion"].preset(row[0]).steps // 30)
    passes = {row[0]: int(row[3]) for row in rows[1:3]}
    assert 0 < passes["early"] < passes["fast"]  # each gradient through four steps
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (64 * (1 + len(PROMPTS) * 5), 64)
    assert not np.isnan(np.asarray(sheet, float)).any()


def test_json_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--model", "painter", "--count", "2", "--presets", "fast,early", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    about = found["about"]
    assert (about["editor"], about["epsilon"]) == ("painter", 8)
    assert about["pictures"].startswith("2 centre squares of scikit-image's photographs at 64x64")
    runs = {(run["preset"], run["steps"]): run for run in found["curves"]}
    presets = [METHODS["diffusion"].preset(name) for name in ("fast", "early")]
    assert list(runs) == [(preset.name, preset.steps // share) for preset in presets for share in (4, 2, 1)]
    for (_, steps), run in runs.items():
        assert run["gradients"] == steps
        assert run["seconds"] > 0
        assert run["peak_memory_bytes"] > 2**20
    assert 0 < runs["fast", presets[0].steps]["loss_ratio"] < 1
    rows = {row["attack"]: row for row in found["displacement"]}
    assert list(rows) == ["noise", "encoder fast", "diffusion fast", "diffusion early"]
    for row in rows.values():
        assert len(row["region"]) == len(row["whole"]) == len(row["psnr_db"]) == 2
        assert all(0 < value <= 1 for value in (*row["region"], *row["whole"]))
    assert rows["diffusion fast"]["psnr_db"] < rows["noise"]["psnr_db"]


def test_one_part_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path, photograph: Image.Image) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph.save(folder / "a.png")
    arguments = ["--model", "painter", "--images", str(folder), "--size", "48", "--divide", "100", "--json"]
    assert bench(*arguments, "--parts", "curves", "--presets", "photoguard") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"about", "curves"}
    assert found["about"]["pictures"] == "1 centre squares of photographs at 48x48"
    preset = METHODS["diffusion"].preset("photoguard")
    steps = preset.steps // 100
    assert [(run["steps"], run["gradients"]) for run in found["curves"]] == [(steps, steps * preset.repeats)]
    assert bench(*arguments, "--parts", "displacement", "--presets", "paper") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"about", "displacement"}
    assert [row["attack"] for row in found["displacement"]] == ["noise", "encoder fast", "diffusion paper"]


def test_identical_pictures_are_not_displaced(editor: Editors, pictures: Pictures) -> None:
    x, mask, model = pictures(2, 32, 32), centred(32), editor()
    changed = (x + 0.3 * (1 - mask)).clamp(0, 1)
    given = {"same": x, "inside": torch.where(mask > 0, 1 - x, x), "changed": changed}
    rows, made = displacement.measure(given, x, mask, model, PROMPTS, SEEDS, lambda _: None)
    same, inside, other = rows
    for row in (same, inside):  # what the editor does not see counts for nothing
        assert row.region == row.whole == (1.0, 1.0)
        assert f"{row.summary(row.region)[0]:.3f}" == "1.000"
        assert row.summary(row.whole) == (1.0, 0.0)
        assert min(row.psnr_db) >= 100
    assert max(*other.region, *other.whole) < 0.999
    assert list(made) == ["clean", *given]
    assert all(edits.shape == (len(PROMPTS) * len(SEEDS), 2, 3, 32, 32) for edits in made.values())
    told = [(prompts[0], seeds[0]) for _, _, _, prompts, seeds, _ in model.told]
    assert told == [(prompt, seed) for prompt in PROMPTS for seed in SEEDS] * 4


@pytest.mark.parametrize(
    ("values", "wanted"), [((0.5,), (0.5, 0.0)), ((0.4, 0.6), (0.5, 0.1)), ((1.0, 1.0, 1.0, 1.0), (1.0, 0.0))]
)
def test_a_summary_is_the_mean_and_its_standard_error(values: tuple[float, ...], wanted: tuple[float, float]) -> None:
    assert displacement.Displacement.summary(values) == pytest.approx(wanted)


@pytest.mark.parametrize("size", [LEAST, 24, 64, 128, 512])
def test_the_region_is_centred_and_in_whole_cells(size: int) -> None:
    mask = centred(size)
    assert mask.shape == (1, 1, size, size)
    assert torch.equal(mask, mask.flip(-1)) or size % 16
    assert 0.1 < mask.mean() < 0.3
    assert mask.sum() % 64 == 0


@pytest.mark.parametrize("whole", [True, False])
def test_squares(whole: bool, tmp_path: Path, photograph: Image.Image) -> None:
    photograph.save(tmp_path / "a.png")
    crop = load_crops(tmp_path, 1, 40, whole=whole)
    square = photograph.crop((8, 0, 88, 80)).resize((40, 40), Image.Resampling.LANCZOS)
    wanted = square if whole else photograph.crop((28, 20, 68, 60))
    assert np.array_equal((crop[0] * 255).round().permute(1, 2, 0).numpy(), np.asarray(wanted))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--parts", "curves,speed"], "'speed' is not one of curves, displacement"),
        (["--presets", "fast,robust"], "'robust' is not one of fast, early, paper, photoguard"),
        (["--epsilon", "0"], "above 0 and at most 255"),
        (["--epsilon", "nan"], "above 0 and at most 255"),
        (["--count", "0"], "--count and --divide must be at least 1"),
        (["--divide", "0"], "--count and --divide must be at least 1"),
        (["--size", "60"], "--size: 60 does not divide by 8"),
        (["--size", "8"], "below 16"),
        (["--size=-8"], "below 16"),
        (["--size", "8192"], "no picture of at least 8192x8192"),
        (["--images", "nowhere"], "is no folder"),
        (["--architecture", "sd15"], "give one of them"),
        (["--device", "cuda:99"], "cannot be used here"),
        (["--sheet", "nowhere/sheet.png"], "cannot be written"),
        (["--sheet", "sheet.txt"], "must end in .png"),
        (["--sheet", "sheet.png", "--parts", "curves"], "those of the part displacement"),
        (["--model", "tiny"], "'tiny' is no model that edits; those are"),
        (["--model", "nobody"], "'nobody' is no model that edits; those are"),
        (["--model", "sdxl-inpaint"], "fetch them once with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(more: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench(*([] if "--model" in more else ["--model", "painter"]), "--divide", "100", *more) == 2
    told = capsys.readouterr()
    assert not told.out
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_an_architecture_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--architecture", "sd99") == 2
    assert "is not sd15" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [True, False])
def test_an_architecture_is_its_pipeline_with_random_weights(
    keep: bool, monkeypatch: pytest.MonkeyPatch, pictures: Pictures
) -> None:
    """On a pipeline of the same form and a hundredth of its width: the real one is too large for a test."""
    monkeypatch.setattr(subject, "sd15_inpainting", lambda dtype: families.sd1_inpaint().to(dtype))
    options = argparse.Namespace(architecture="sd15", model=None, device="cpu", dtype="float32", keep=keep)
    name, model, device = subject.pick_editor(options)
    assert (name, model.size, device.type) == ("sd15 inpainting, random weights", None, "cpu")
    x = pictures(1, 32, 32).requires_grad_()
    made = model.edit(x, centred(32), [""], [torch.Generator().manual_seed(0)], EditOptions(steps=2))
    (gradient,) = torch.autograd.grad(made.sum(), x)
    assert gradient.any()
