"""`immunize edit` and `immunize image --method diffusion`, with a small editor and with the one that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.cli import main
from tests.helpers import opened, png
from tests.worker.conftest import SmallEditor

SHIPPED = ("--model", "reference-ldm")
QUICK = ("--model", "painter")


@pytest.fixture(autouse=True)
def _folder(models_file, photograph, monkeypatch, tmp_path) -> None:
    """A photograph of 96x80 and one of 203x150, and a mask of each."""
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(models_file))
    monkeypatch.setenv("IMMUNIZE_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    for name, size in (("photo", (96, 80)), ("large", (203, 150))):
        mask = Image.new("L", size)
        mask.paste(255, (size[0] // 4, size[1] // 4, size[0] // 2, 3 * size[1] // 4))
        (tmp_path / f"{name}.png").write_bytes(png(photograph.resize(size)))
        (tmp_path / f"{name}-mask.png").write_bytes(png(mask))


def edited(*arguments: str) -> np.ndarray:
    assert main(["edit", arguments[0], "-o", "out.png", *arguments[1:]]) == 0
    return np.asarray(opened(Path("out.png").read_bytes())).astype(int)


MODELS = pytest.mark.parametrize("model", [QUICK, (*SHIPPED, "--steps", "2")], ids=["small", "shipped"])


@MODELS
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", ["photo", "large"])
def test_an_edit_has_the_pictures_size_and_its_seed(name, masked, model, capsys):
    mask = ["--mask", f"{name}-mask.png"] if masked else []
    first, again, other = (
        edited(f"{name}.png", *mask, *model, "--prompt", "a red ball on sand", "--seed", seed) for seed in "334"
    )
    original = np.asarray(Image.open(f"{name}.png"))
    assert first.shape == original.shape
    assert (first == again).all()
    assert (first != other).any()
    assert (first != original).any()
    told = capsys.readouterr()
    assert not told.out
    assert not told.err


@MODELS
def test_words_count(model):
    cat, nothing, also_nothing = (edited("photo.png", *model, *told) for told in (["--prompt", "a cat"], [], []))
    assert (cat != nothing).any()
    assert (nothing == also_nothing).all()


def test_the_shipped_editor_repaints_the_region_and_keeps_the_rest():
    """As far as its autoencoder can: of a picture larger than its own, in black and white that a filter overshoots."""
    board = Image.new("L", (12, 12))
    board.putdata([255 * ((index // 12 + index % 12) % 2) for index in range(144)])
    board.resize((240, 240), Image.Resampling.NEAREST).convert("RGB").save("board.png")
    mask = Image.new("L", (240, 240))
    mask.paste(255, (60, 60, 180, 180))
    mask.save("board-mask.png")
    made = edited("board.png", *SHIPPED, "--mask", "board-mask.png", "--prompt", "sand", "--steps", "4")
    moved = np.abs(made - np.asarray(Image.open("board.png"))).mean(-1)
    inside = np.asarray(mask) > 0
    assert moved[inside].mean() > 2 * moved[~inside].mean()
    assert moved[~inside].mean() < 50  # half of 255 where it takes the picture for another range


def test_one_step_will_do_for_a_region():
    made = edited("photo.png", *SHIPPED, "--mask", "photo-mask.png", "--steps", "1")
    assert (made != np.asarray(Image.open("photo.png"))).any()


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_formats(suffix):
    assert main(["edit", "photo.png", "-o", f"out.{suffix}", *QUICK]) == 0
    assert opened(Path(f"out.{suffix}").read_bytes()).size == (96, 80)


def test_alpha_is_kept(photograph):
    alpha = Image.linear_gradient("L").resize(photograph.size)
    picture = photograph.copy()
    picture.putalpha(alpha)
    picture.save("alpha.png")
    assert main(["edit", "alpha.png", "-o", "out.png", *QUICK]) == 0
    assert opened(Path("out.png").read_bytes()).getchannel("A").tobytes() == alpha.tobytes()


WRONG = {
    "model": (["photo.png", "-o", "out.png", "--model", "magic"], "there is no such model; those that edit are"),
    "model that does not edit": (["photo.png", "-o", "out.png", "--model", "tiny"], "tiny does not edit; those that"),
    "model that is not here": (["photo.png", "-o", "out.png", "--model", "sdxl-inpaint"], "fetch them once with"),
    "prompt": (["photo.png", "-o", "out.png", *SHIPPED, "--prompt", "a cat " * 60], "tokens longer than the 77"),
    "one step of everything": (
        ["photo.png", "-o", "out.png", *SHIPPED, "--steps", "1"],
        "steps: reference-ldm needs more than 1 of denoising here",
    ),
    "input": (["nowhere.png", "-o", "out.png", *QUICK], "nowhere.png"),
    "mask": (["photo.png", "-o", "out.png", *QUICK, "--mask", "large-mask.png"], "203x150 but the image is 96x80"),
    "missing mask": (["photo.png", "-o", "out.png", *QUICK, "--mask", "nowhere.png"], "nowhere.png"),
    "suffix": (["photo.png", "-o", "out.tiff", *QUICK], "out.tiff must end in"),
    "missing folder": (["photo.png", "-o", "nowhere/out.png", *QUICK], "cannot be written"),
    **{
        f"steps {value}": (["photo.png", "-o", "out.png", *QUICK, "--steps", value], f"--steps: {value} is not from 1")
        for value in ("0", "-1", "1001")
    },
    **{
        f"seed {value}": (["photo.png", "-o", "out.png", *QUICK, "--seed", value], f"--seed: {value} is not from 0")
        for value in ("-1", str(2**63))
    },
    **{
        f"guidance {value}": (["photo.png", "-o", "out.png", *QUICK, f"--guidance={value}"], f"--guidance: {value}")
        for value in ("-1", "nan", "inf")
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line_and_leaves_nothing(name, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    arguments, said = WRONG[name]
    assert main(["edit", *arguments]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("immunize: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["photo.png", "-o", "out.png"],
        ["photo.png", *QUICK],
        *(["photo.png", "-o", "out.png", *QUICK, option, "some"] for option in ("--steps", "--seed", "--guidance")),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["edit", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("out.png").exists()


def test_memory_that_runs_out_is_told_in_one_line(monkeypatch, capsys):
    def edit(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(SmallEditor, "edit", edit)
    for command in (["edit"], ["image", "--method", "diffusion", "--steps", "2"]):
        assert main([*command, "photo.png", "-o", "out.png", *QUICK]) == 1
        told = capsys.readouterr().err
        assert told == ("immunize: the device ran out of memory; send a smaller picture or ask for fewer models\n")
        assert not Path("out.png").exists()


@pytest.mark.parametrize("name", ["photo", "large"])
@pytest.mark.parametrize("preset", ["fast", "early"])
def test_the_shipped_editor_is_attacked(preset, name, capsys):
    how = ["--method", "diffusion", "--preset", preset, "--steps", "2", "--denoising-steps", "1", "--seed", "1"]
    how += ["--mask", f"{name}-mask.png", "--prompt", "a red ball on sand", "--report", "r.json"]
    for output in ("out.png", "again.png"):
        assert main(["image", f"{name}.png", "-o", output, *SHIPPED, *how]) == 0
    assert Path("out.png").read_bytes() == Path("again.png").read_bytes()
    report = json.loads(Path("r.json").read_text())
    assert (report["method"], report["preset"], report["models"]) == ("diffusion", preset, ["reference-ldm"])
    assert (report["prompts"], report["denoising_steps"], report["gradient_steps"]) == (["a red ball on sand"], 1, 1)
    assert (report["repeats"], report["masks"]) == (1, "given")
    assert (report["gradient_evaluations"], report["mask"]) == (2, True)
    assert report["target"] == ("gray" if preset == "fast" else None)
    assert report["loss_final"] < report["loss_initial"]
    original, made = (np.asarray(Image.open(path)).astype(int) for path in (f"{name}.png", "out.png"))
    inside = np.asarray(Image.open(f"{name}-mask.png")) > 0
    assert np.abs(made - original).max() == report["linf_255"] <= 8
    assert (made[inside] == original[inside]).all()
    told = capsys.readouterr()
    assert told.out.count("\n") == 2
    assert not told.err


def test_a_prompt_too_long_for_the_attacked_editor(tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    how = ["--method", "diffusion", *SHIPPED, "--prompt", "a dog", "--prompt", "a cat " * 60]
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *how]) == 2
    told = capsys.readouterr().err
    assert "prompt: 'a cat a cat" in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
