"""The engine's commands, in this process: what they write, and one plain line for every wrong thing."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli import main
from service.contracts.catalog import load_models
from tests import tagged
from tests.helpers import encoded, opened, png

QUICK = ("--model", "tiny", "--steps", "3", "--seed", "5")


@pytest.fixture(autouse=True)
def _deployment(models_file, monkeypatch, tmp_path):
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(models_file))
    monkeypatch.setenv("IMMUNIZE_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photo(photograph, tmp_path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(png(photograph))
    return path


def bomb() -> bytes:
    """A PNG whose header claims 60000×60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def test_image(photo, photograph, tmp_path, capsys):
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *QUICK]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    delivered = opened((tmp_path / "out.png").read_bytes())
    moved = np.asarray(delivered).astype(int) - np.asarray(photograph).astype(int)
    assert np.abs(moved).max() == report["linf_255"] == 8
    assert report["loss_final"] < report["loss_initial"]
    assert (report["models"], report["steps"], report["seed"], report["target"]) == (["tiny"], 3, 5, "gray")
    told = capsys.readouterr()
    assert told.out.startswith("out.png: 96x80, largest change 8/255")
    assert told.out.count("\n") == 1
    assert not told.err  # no progress bar in a pipe
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "out.png", "r.json"}


@pytest.mark.parametrize(
    "options",
    [
        ["--target", "inverted"],
        ["--target", "other.jpg"],
        ["--mask", "mask.png"],
        ["--preset", "photoguard"],
        ["--method", "noise"],
        ["--model", "tiny", "reference-autoencoder"],
        ["--model", "tiny", "--model", "reference-autoencoder"],
        ["--method", "diffusion", "--model", "painter"],
        ["--method", "diffusion", "--model", "painter", "tiny", "--preset", "early", "--prompt", "a cat"],
        ["--norm", "l2", "--epsilon", "200"],
        ["--epsilon", "7.65"],
        ["--method", "backdoor", "--model", "painter", "--mask", "mask.png"],
        ["--method", "backdoor", "--model", "tiny", "--mask", "mask.png", "--losses", "implant,hide"],
        ["--method", "backdoor", "--model", "painter", "tiny", "--mask", "mask.png", "--order", "sequential"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "JPEG"])
def test_image_options(suffix, options, photo, tmp_path, capsys):
    (tmp_path / "other.jpg").write_bytes(encoded(Image.new("RGB", (50, 30), "red"), "JPEG"))
    (tmp_path / "mask.png").write_bytes(png(Image.linear_gradient("L").resize((96, 80))))
    steps = [] if "noise" in options else ["--steps", "2"]
    model = [] if "--model" in options else ["--model", "tiny"]
    assert main(["image", "photo.png", "-o", f"out.{suffix}", "--report", "r.json", *options, *steps, *model]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert opened((tmp_path / f"out.{suffix}").read_bytes()).size == (96, 80)
    assert report["mask"] is ("--mask" in options)
    assert report["target"] == {"--target": "image" if "other.jpg" in options else "inverted"}.get(
        options[0], None if {"noise", "early"} & set(options) else "farthest" if "backdoor" in options else "gray"
    )
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == (suffix.lower() in {"jpg", "jpeg"})
    assert all(line.startswith("immunize: JPEG") for line in warnings)


def test_a_file_as_it_was_asked_for(photograph, tmp_path, capsys):
    (tmp_path / "phone.jpg").write_bytes(tagged.phone(photograph))
    options = ["--quality", "60", "--exif", "keep", "--data-mining", "reserved-except-search"]
    assert main(["image", "phone.jpg", "-o", "out.jpg", "--report", "r.json", *options, *QUICK]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    told = [report[name] for name in ("quality", "exif", "data_mining", "signed", "width", "height")]
    assert told == [60, "keep", "reserved-except-search", False, *photograph.size]
    file = opened((tmp_path / "out.jpg").read_bytes())
    assert (file.size, file.getexif()[0x0112]) == (photograph.size, 1)
    assert b"DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING" in file.info["xmp"]
    assert capsys.readouterr().err.startswith("immunize: JPEG at quality 60")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--quality", "60"], "quality: png is lossless"),
        (["--exif", "some"], "exif: 'some' is not one of strip-location, keep, strip"),
        (["--data-mining", "maybe"], "data_mining: 'maybe' is not one of none, reserved"),
        (["--sign"], "sign: this deployment has no certificate"),
    ],
)
def test_a_file_that_cannot_be_had(options, told, photo, tmp_path, capsys):
    assert main(["image", "photo.png", "-o", "out.png", *options, *QUICK]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_the_same_seed_gives_the_same_bytes(photo, tmp_path):
    for name in ("one.png", "two.png"):
        assert main(["image", "photo.png", "-o", name, *QUICK]) == 0
    assert main(["image", "photo.png", "-o", "three.png", *QUICK, "--seed", "6"]) == 0
    one, two, three = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_without_a_seed_one_is_drawn_and_told(photo, tmp_path):
    seeds = set()
    for _ in range(2):
        assert (
            main(["image", "photo.png", "-o", "out.png", "--report", "r.json", "--model", "tiny", "--steps", "1"]) == 0
        )
        seeds.add(json.loads((tmp_path / "r.json").read_text())["seed"])
    assert len(seeds) == 2


def test_the_input_may_be_the_output(photo, tmp_path):
    assert main(["image", "photo.png", "-o", "other.png", *QUICK]) == 0
    assert main(["image", "photo.png", "-o", "photo.png", *QUICK]) == 0
    assert photo.read_bytes() == (tmp_path / "other.png").read_bytes()


def test_an_existing_output_is_replaced_whole(photo, tmp_path):
    (tmp_path / "out.png").write_bytes(b"x" * 10**6)
    assert main(["image", "photo.png", "-o", "out.png", *QUICK]) == 0
    assert opened((tmp_path / "out.png").read_bytes()).size == (96, 80)


def clutter(folder: Path, photo: bytes) -> None:
    """Every wrong file of the table below, and the folders."""
    for name, data in {
        "truncated.png": photo[: len(photo) // 2],
        "text.png": b"this is no picture\n" * 20,
        "empty.png": b"",
        "bomb.png": bomb(),
        "animated.gif": animation(),
        "plain-file": b"",
        "small-mask.png": png(Image.new("L", (40, 40))),
        "white.png": png(Image.new("L", (96, 80), 255)),
        "black.png": png(Image.new("L", (96, 80))),
        "mask.png": png(Image.linear_gradient("L").resize((96, 80))),
    }.items():
        (folder / name).write_bytes(data)
    for name in ("folder", "folder.png"):
        (folder / name).mkdir()


WRONG = {
    "truncated": (["truncated.png", "-o", "out.png"], "damaged"),
    "text": (["text.png", "-o", "out.png"], "not an image we read"),
    "0 bytes": (["empty.png", "-o", "out.png"], "empty"),
    "bomb": (["bomb.png", "-o", "out.png"], "limit of"),
    "animated": (["animated.gif", "-o", "out.png"], "2 frames"),
    "missing input": (["nowhere.png", "-o", "out.png"], "nowhere.png"),
    "folder as input": (["folder", "-o", "out.png"], "folder"),
    "mask of another size": (
        ["photo.png", "-o", "out.png", "--mask", "small-mask.png"],
        "40x40 but the image is 96x80",
    ),
    "mask of everything": (["photo.png", "-o", "out.png", "--mask", "white.png"], "covers the whole picture"),
    "mask that is no picture": (["photo.png", "-o", "out.png", "--mask", "text.png"], "mask: the file is not an image"),
    "missing mask": (["photo.png", "-o", "out.png", "--mask", "nowhere.png"], "nowhere.png"),
    "method": (["photo.png", "-o", "out.png", "--method", "magic"], "no method 'magic'; there are encoder"),
    "model": (["photo.png", "-o", "out.png", "--model", "magic"], "no model 'magic'; there are"),
    "model that is not here": (["photo.png", "-o", "out.png", "--model", "absent"], "put a diffusers folder"),
    "preset": (["photo.png", "-o", "out.png", "--preset", "magic"], "no preset 'magic'; it has fast"),
    "norm": (["photo.png", "-o", "out.png", "--norm", "l7"], "norm"),
    "norm without epsilon": (["photo.png", "-o", "out.png", "--norm", "l2"], "epsilon"),
    **{
        f"epsilon {value}": (["photo.png", "-o", "out.png", "--epsilon", value], f"epsilon: '{value}'")
        for value in ("0", "-1", "300", "nan", "inf", "eight")
    },
    **{
        f"steps {value}": (["photo.png", "-o", "out.png", "--steps", value], f"steps: '{value}'")
        for value in ("0", "-3", "1.5", "1000000", "many")
    },
    **{
        f"seed {value}": (["photo.png", "-o", "out.png", "--seed", value], f"seed: '{value}'")
        for value in ("-1", "x", "99999999999999999999")
    },
    **{
        f"{option} {value!r} of edits": (
            ["photo.png", "-o", "out.png", "--method", "diffusion", "--model", "painter", f"--{option}", value],
            said,
        )
        for option, value, said in (
            ("denoising-steps", "0", "denoising_steps: '0' is not a whole number from 1 to 100"),
            ("gradient-steps", "9", "gradient_steps: 9 of 4 denoising steps"),
            ("repeats", "many", "repeats: 'many' is not a whole number from 1"),
            ("masks", "drawn", "masks: 'drawn' is not one of given, random"),
            ("prompt", "x" * 1001, "prompt: at most 32 prompts"),
            ("target", "zero", "target: 'zero' is not one of gray, noise, farthest, inverted"),
            ("preset", "robust", "diffusion has no preset 'robust'; it has fast, early"),
        )
    },
    "edits by an encoder": (["photo.png", "-o", "out.png", "--method", "diffusion"], "does not fit method diffusion"),
    "repeats without edits": (["photo.png", "-o", "out.png", "--repeats", "2"], "encoder takes none; leave"),
    "backdoor without a mask": (
        ["photo.png", "-o", "out.png", "--method", "backdoor"],
        "mask: this method protects one region and needs it; send a mask",
    ),
    "backdoor with a black mask": (
        ["photo.png", "-o", "out.png", "--method", "backdoor", "--mask", "black.png"],
        "mask: it is black everywhere",
    ),
    "backdoor with a white mask": (
        ["photo.png", "-o", "out.png", "--method", "backdoor", "--mask", "white.png"],
        "mask: it covers the whole picture, and edits elsewhere are to go on",
    ),
    **{
        f"{option} {value!r} of the backdoor": (
            ["photo.png", "-o", "out.png", "--method", "backdoor", "--mask", "mask.png", f"--{option}", value],
            said,
        )
        for option, value, said in (
            ("losses", "explode", "losses: 'explode' is not one of implant, incomplete, hide"),
            ("losses", "", "losses: '' is not one of implant, incomplete, hide"),
            ("order", "both", "order: 'both' is not one of parallel, sequential"),
            ("repeats", "2", "repeats: backdoor takes none; leave the field out"),
            ("masks", "random", "masks: backdoor takes none"),
            ("target", "zero", "target: 'zero' is not one of farthest, inverted, gray, noise"),
            ("preset", "early", "backdoor has no preset 'early'; it has fast, paper"),
        )
    },
    "losses without a backdoor": (["photo.png", "-o", "out.png", "--losses", "hide"], "encoder takes none; leave"),
    "order without a backdoor": (["photo.png", "-o", "out.png", "--order", "parallel"], "encoder takes none; leave"),
    "steps of noise": (["photo.png", "-o", "out.png", "--method", "noise", "--steps", "5"], "noise takes no steps"),
    "target": (["photo.png", "-o", "out.png", "--target", "magic"], "'magic' is neither"),
    "target that is no picture": (["photo.png", "-o", "out.png", "--target", "text.png"], "target: the file is not"),
    "folder as target": (["photo.png", "-o", "out.png", "--target", "folder"], "folder"),
    "suffix": (["photo.png", "-o", "out.tiff"], "out.tiff must end in"),
    "no suffix": (["photo.png", "-o", "out"], "out must end in"),
    "missing folder": (["photo.png", "-o", "nowhere/out.png"], "cannot be written"),
    "folder that is a file": (["photo.png", "-o", "plain-file/out.png"], "cannot be written"),
    "folder as output": (["photo.png", "-o", "folder.png"], "it is a folder"),
    "report in a missing folder": (["photo.png", "-o", "out.png", "--report", "nowhere/r.json"], "cannot be written"),
    "folder as report": (["photo.png", "-o", "out.png", "--report", "folder"], "it is a folder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line_and_leaves_nothing(name, photo, tmp_path, capsys):
    clutter(tmp_path, photo.read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments, said = WRONG[name]
    given = [] if "--model" in arguments else ["--model", "tiny"]
    assert main(["image", *arguments, *given]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("immunize: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["image", "reconstruct"])
def test_a_folder_that_may_not_be_written(command, photo, tmp_path, capsys):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        pass
    else:
        pytest.skip("whoever runs this may write everywhere")
    assert main([command, "photo.png", "-o", "locked/out.png", "--model", "tiny"]) == 2
    assert "locked/out.png: it cannot be written" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_failure_while_writing_keeps_the_old_output(photo, tmp_path, monkeypatch, capsys):
    (tmp_path / "out.png").write_bytes(b"old")
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["image", "photo.png", "-o", "out.png", *QUICK]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "out.png"}


def test_an_interrupt_leaves_nothing(photo, tmp_path, monkeypatch, capsys):
    from worker import immunization

    def interrupted(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(immunization, "descend", interrupted)
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *QUICK]) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png"}


@pytest.mark.parametrize("arguments", [["image"], ["image", "photo.png"], ["image", "photo.png", "-o"], ["magic"], []])
def test_bad_usage_is_one_line_and_status_2(arguments, photo, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("immunize")
    assert told.err.count("\n") == 1


def test_prompts_and_all_else_of_edits_are_in_the_report(photo, tmp_path):
    how = ["--method", "diffusion", "--model", "painter", "--steps", "2", "--seed", "1", "--denoising-steps", "6"]
    how += ["--gradient-steps", "2", "--repeats", "3", "--masks", "random", "--prompt", "a  cat\n", "--prompt", ""]
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *how, "--target", "noise"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    told = {"prompts": ["a cat", ""], "denoising_steps": 6, "gradient_steps": 2, "repeats": 3, "masks": "random"}
    assert report | told | {"target": "noise", "gradient_evaluations": 6} == report


def test_losses_and_order_of_the_backdoor_are_in_the_report(photo, photograph, tmp_path):
    (tmp_path / "mask.png").write_bytes(png(Image.linear_gradient("L").resize((96, 80))))
    how = ["--method", "backdoor", "--model", "painter", "tiny", "--steps", "4", "--seed", "1", "--mask", "mask.png"]
    how += ["--losses", "hide,implant", "--order", "sequential", "--prompt", "a cat", "--target", "inverted"]
    assert main(["image", "photo.png", "-o", "out.png", "--report", "r.json", *how]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    told = {"losses": ["implant", "hide"], "order": "sequential", "prompts": ["a cat"], "target": "inverted"}
    told |= {"steps": 4, "gradient_evaluations": 6, "mask": True, "epsilon": 6.0, "repeats": None, "masks": None}
    assert report | told == report
    moved = np.asarray(opened((tmp_path / "out.png").read_bytes())).astype(int) - np.asarray(photograph).astype(int)
    assert np.abs(moved).max() == report["linf_255"] == 6
    assert moved[60:].any()  # where the mask is white
    assert moved[:20].any()


def test_models(capsys, models_file):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert set(load_models(models_file)) <= set(rows)
    assert rows["tiny"].split() == ["tiny", "diffusers-vae", "encodes,", "decodes", "64", "yes", "Apache-2.0"]
    assert any(line.startswith("absent: put a diffusers folder") for line in lines)
    assert rows["painter"].split() == ["painter", "python", "encodes,", "denoises,", "edits", "64", "yes", "unknown"]
    columns = {name: lines[0].index(name) for name in ("kind", "abilities", "size", "here", "licence")}
    for name in load_models(models_file):
        assert all(rows[name][column - 2 : column] == "  " != rows[name][column] for column in columns.values())


def test_models_as_json(capsys, models_file):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(load_models(models_file))
    assert rows["tiny"]["present"] is True
    assert rows["tiny"]["kind"] == "diffusers-vae"
    assert rows["tiny"]["abilities"] == ["encodes", "decodes"]
    assert rows["absent"]["present"] is False
    assert all(("how_to_get" in row) is not row["present"] for row in rows.values())


@pytest.mark.parametrize("size", [(96, 80), (33, 47), (200, 150), (1, 1)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reconstruct(suffix, size, photograph, tmp_path, capsys):
    (tmp_path / "in.png").write_bytes(png(photograph.resize(size)))
    assert main(["reconstruct", "in.png", "-o", f"out.{suffix}", "--model", "tiny"]) == 0
    assert opened((tmp_path / f"out.{suffix}").read_bytes()).size == size
    assert not capsys.readouterr().err


def test_reconstruct_keeps_alpha(photograph, tmp_path):
    picture = photograph.copy()
    picture.putalpha(Image.linear_gradient("L").resize(photograph.size))
    (tmp_path / "in.png").write_bytes(png(picture))
    assert main(["reconstruct", "in.png", "-o", "out.png", "--model", "tiny"]) == 0
    made = opened((tmp_path / "out.png").read_bytes())
    assert made.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photo.png", "-o", "out.png", "--model", "magic"], "no model 'magic'"),
        (["photo.png", "-o", "out.png", "--model", "absent"], "put a diffusers folder"),
        (["photo.png", "-o", "out.tiff"], "must end in"),
        (["photo.png", "-o", "nowhere/out.png"], "cannot be written"),
        (["nowhere.png", "-o", "out.png"], "nowhere.png"),
        (["transparent.png", "-o", "out.jpg"], "alpha"),
    ],
)
def test_reconstruct_of_what_is_wrong(arguments, said, photo, photograph, tmp_path, capsys):
    picture = photograph.copy()
    picture.putalpha(Image.linear_gradient("L").resize(photograph.size))
    (tmp_path / "transparent.png").write_bytes(png(picture))
    before = sorted(tmp_path.rglob("*"))
    assert main(["reconstruct", *arguments]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("immunize: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("IMMUNIZE_DEVICE", "nonsense"), ("IMMUNIZE_MODELS_FILE", "nowhere.toml"), ("IMMUNIZE_NOTHING", "1")],
)
def test_wrong_settings(name, value, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert main(["image", "photo.png", "-o", "out.png", *QUICK]) == 2
    told = capsys.readouterr().err
    assert told.startswith("immunize: ")
    assert told.count("\n") == 1
    assert value in told or name in told
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png"}
