# ruff: noqa: ARG002 - a fake editor ignores what an editor is told
"""`immunize bench backdoor` and `immunize ablate backdoor`: what they print, and whose figures those are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from service.cli import main
from tests.worker.models.exports import Paints, save
from worker.bench import protection
from worker.bench.ablation import EPSILONS, ROUNDS, TRANSFORMS
from worker.bench.perceptual import Perceptual
from worker.bench.pictures import load_crops

ENTRY = """
[{name}]
kind = "torchscript-inpaint"
source = "{file}"
"""
SMALL = ("--device", "cpu", "--size", "48", "--trigger", "16", "--count", "2", "--steps", "3")


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two small inpainters: `reference-lama`, where the shipped one is, and `other`."""
    painters = {"reference-lama": save(Paints(), tmp_path / "a.pt"), "other": save(Paints(12), tmp_path / "b.pt")}
    entries = [ENTRY.format(name=name, file=file) for name, file in painters.items()]
    (tmp_path / "models.toml").write_text("".join(entries), encoding="utf-8")
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(tmp_path / "models.toml"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def size_of(file: str) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_every_model_edits_every_models_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "backdoor", "--model", "reference-lama", "other", *SMALL, "--json", "--sheet", "s.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["table"]
    assert {(row["victim"], row["editor"]) for row in rows} == {
        (a, b) for a in ("reference-lama", "other") for b in ("reference-lama", "other")
    }
    for row in rows:
        assert row["region"] in protection.REGIONS
        for score in (row["benign"], row["immunized"]):
            assert len(score["ssim"]) == len(score["psnr_db"]) == 2
            assert all(math.isfinite(value) for value in score["ssim"] + score["psnr_db"])
    own = [row for row in rows if row["victim"] == row["editor"] and row["region"] == "trigger"]
    assert all(sum(row["immunized"]["psnr_db"]) < sum(row["benign"]["psnr_db"]) for row in own)
    assert [cost["gradients"] for cost in found["cost"]] == [3, 3]
    assert all(cost["bare_seconds"] > 0 and cost["peak_memory_bytes"] > 0 for cost in found["cost"])
    # the pictures, then for each model the immunized ones and four edits
    assert size_of("s.png") == (48 * (1 + 2 * 5), 48 * 2)


def test_tables_say_which_weights_are_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "backdoor", "--model", "other", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "| other" in printed
    assert "difference" in printed
    assert "LPIPS: weights not present" in printed
    assert "CLIP-FID: weights not present" in printed


def test_ablation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "backdoor", *SMALL, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = {part: [row["what"] for row in rows if row["part"] == part] for part in {row["part"] for row in rows}}
    assert names["losses"][0] == names["epsilon"][0] == "benign"
    assert len(names["losses"]) == 5
    assert names["epsilon"][1:] == [f"{epsilon}/255" for epsilon in EPSILONS]
    assert len(names["transforms"]) == 2 * len(TRANSFORMS)
    assert len(names["rounds"]) == 2 * ROUNDS
    by_epsilon = [row["scores"]["trigger"]["psnr_db"] for row in rows if row["part"] == "epsilon"]
    assert sum(by_epsilon[-1]) < sum(by_epsilon[1]) < sum(by_epsilon[0])


def test_ablation_prints_a_table_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "backdoor", *SMALL, "--parts", "transforms,rounds", "--sheet", "s.png"]) == 0
    printed = capsys.readouterr().out
    assert "rotation 90, immunized" in printed
    assert "immunized, after 3 edits elsewhere" in printed
    assert "PSNR without" in printed
    assert size_of("s.png")[1] == 96


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "backdoor", "--parts", "all"), "--parts"),
        (("bench", "backdoor", "--trigger", "48", "--size", "48"), "--trigger"),
        (("bench", "backdoor", "--epsilon", "0"), "--epsilon"),
        (("bench", "backdoor", "--steps", "0"), "--steps"),
        (("bench", "backdoor", "--preset", "robust"), "preset"),
        (("bench", "backdoor", "--target", "pink"), "--target"),
        (("bench", "backdoor", "--model", "reference-autoencoder"), "no model that edits"),
        (("bench", "backdoor", "--architecture", "small-lama"), "big-lama"),
        (("bench", "backdoor", "--sheet", "s.txt"), "--sheet"),
        (("bench", "backdoor", "--sheet", "s.png", "--parts", "cost"), "--sheet"),
        (("ablate", "backdoor", "--parts", "table"), "--parts"),
        (("ablate", "backdoor", "--model", "nobody"), "no model that edits"),
    ],
)
def test_refused(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--device", "cpu", "--count", "1"]) == 2
    assert said in capsys.readouterr().err


def test_a_random_model_is_edited_by_four_times() -> None:
    """The score is the mean over the runs, each with another seed."""
    seeds = []

    class Random:
        random = True

        def edit(self, x, mask, prompts, generators, options=None):  # type: ignore[no-untyped-def]
            seeds.append(generators[0].initial_seed())
            return x * (1 - mask) + mask * float(generators[0].initial_seed()) / 4

    x = load_crops(None, 1, 48)
    trigger = protection.centred(48, 16)
    score, _ = protection.score(x, x, [trigger], Random(), Perceptual(Path("nowhere"), "nowhere"))
    assert seeds == [0, 1, 2, 3]
    by_hand = [float(-10 * ((x - seed / 4)[..., 16:32, 16:32]).square().mean().log10()) for seed in range(4)]
    assert score.psnr_db == pytest.approx([sum(by_hand) / 4], abs=1e-3)
    assert torch.isfinite(torch.tensor(score.ssim)).all()
