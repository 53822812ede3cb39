"""The editor's training pictures, and its script end to end on a tiny budget: bank, training, resumption, a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.contracts.catalog import Model
from worker.models.pool import Pool
from worker.reference import editor, samples
from worker.reference.obedience import Judge, case, score
from worker.reference.scenes import COLOURS, GROUNDS, LEAST, THINGS, scene
from worker.reference.words import tokenizer

SIDE = 64


@pytest.mark.parametrize("thing", THINGS)
def test_a_scene_shows_what_it_says(thing: str) -> None:
    made = scene(np.random.default_rng(3), SIDE, colour="red", thing=thing, ground="grass")
    again = scene(np.random.default_rng(3), SIDE, colour="red", thing=thing, ground="grass")
    assert (made.picture == again.picture).all()
    assert made.caption == f"a red {thing} on grass"
    assert made.picture.shape == (SIDE, SIDE, 3)
    assert made.coverage.sum() > 0.3 * (LEAST * SIDE) ** 2
    inside, outside = made.picture[made.coverage > 0.95], made.picture[made.coverage == 0]
    red, green = inside.mean(0)[0], inside.mean(0)[1]
    assert red > green * 1.5
    assert outside.mean(0)[0] < red  # grass is not red


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_ground_is_textured(ground: str) -> None:
    made = scene(np.random.default_rng(4), SIDE, ground=ground)
    assert made.picture[made.coverage == 0].std() > 3


def test_an_orange_thing_takes_its_article() -> None:
    assert scene(np.random.default_rng(0), SIDE, "orange", "cube", "sand").caption == "an orange cube on sand"


def test_samples_are_functions_of_their_number() -> None:
    for index in range(12):
        first, again = samples.sample(index), samples.sample(index)
        assert (first.picture == again.picture).all()
        assert (first.hole == again.hole).all()
        assert first.caption == again.caption
        assert first.hole.any()


def test_a_hole_around_a_thing_holds_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        made = scene(rng, samples.SIZE)
        hole = samples.around(rng, made.coverage)
        covered = made.coverage > 0.5
        assert (hole & covered).sum() > 0.98 * covered.sum()
        assert hole.mean() < 0.6


def test_every_word_can_be_read_and_told_apart() -> None:
    words = tokenizer()
    taught = [*COLOURS, *THINGS, *GROUNDS, "photograph", "background"]
    read = {word: tuple(words(word).input_ids[1:-1]) for word in taught}
    assert len(set(read.values())) == len(taught)
    assert sum(len(tokens) == 1 for tokens in read.values()) > len(taught) / 2
    assert max(len(tokens) for tokens in read.values()) <= 8
    assert words.unk_token_id not in words("zeppelin").input_ids[1:-1]  # falls apart, and is not lost


class Flat:
    """An encoder that needs no training: 32 times the brightness of each 8x8 cell."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x * 2 - 1, 8).mean(1, keepdim=True).expand(-1, 32, -1, -1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what diffusers imports
def test_from_nothing_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor, "WINDOWS", {8: (3, 0.5), 16: (2, 0.5)})
    monkeypatch.setattr(editor, "WIDTHS", (16, 32))
    cpu = torch.device("cpu")
    bank = samples.make_bank(tmp_path / "bank", 6, Flat(), cpu)
    assert len(bank) == 6
    assert bank.latents.shape == bank.blanked.shape == (6, 32, 16, 16)
    inside = np.broadcast_to(bank.holes > 0, bank.blanked.shape)
    assert abs(bank.blanked[inside]).mean() < abs(bank.latents[inside]).mean()  # mid grey is zero
    editor.train(tmp_path, 2, 6, cpu)
    first = torch.load(tmp_path / "editor.pt", weights_only=True)
    assert first["step"] == 2
    editor.train(tmp_path, 4, 6, cpu)
    assert torch.load(tmp_path / "editor.pt", weights_only=True)["step"] == 4
    editor.save(tmp_path, tmp_path / "out")
    entry = Model(name="made", kind="diffusers-inpaint", source=str(tmp_path / "out"), size=128)
    model = Pool({"made": entry}, cpu).get("made")
    x = torch.full((1, 3, 64, 64), 0.4)
    made = model.edit(x, torch.ones(1, 1, 64, 64), ["a red ball on sand"], [torch.Generator().manual_seed(0)])
    assert made.shape == x.shape
    assert made.isfinite().all()


def test_the_judge_is_scored_on_both_words() -> None:
    judge = Judge().eval()
    shares = score(judge, torch.rand(4, 3, 48, 48), torch.zeros(4, 2, dtype=torch.long))
    assert set(shares) == {"colour", "thing", "both"}
    assert 0 <= shares["both"] <= min(shares["colour"], shares["thing"])
    one = case(5, 0)
    assert one.colour != one.scene.colour
    assert one.thing != one.scene.thing
    assert one.prompt.endswith(one.scene.ground)
