"""Inpainters are measured in the hole alone, beside OpenCV's; none of OpenCV's sees what was in it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from worker.bench.protection import centred
from worker.images import to_tensor
from worker.reference import inpainting
from worker.reference.inpainting import CLASSICAL, classical, main, measure, spread


class Filler:
    """Fills the hole with one value and ruins everything around it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def edit(self, x, mask, prompts, *_):
        assert prompts == [""] * len(x)
        return self.value * mask + (1 - x) * (1 - mask)


@pytest.fixture
def ramp():
    """Pictures (2,3,64,64) that a good inpainter continues into the hole: gray ones, brighter to the right."""
    line = torch.linspace(0.25, 0.75, 64).expand(3, 64, 64)
    return torch.stack([line, line.flip(2)])


def figures(cell: object) -> tuple[float, float]:
    mean, _, error = str(cell).split()
    return float(mean), float(error)


@pytest.mark.parametrize("kind", CLASSICAL.values(), ids=CLASSICAL)
def test_classical_fills_the_hole_alone_and_unseen(ramp, kind):
    mask = centred(64, 16)
    ramp = (ramp * 255).round() / 255
    made = classical(ramp, mask, kind)
    assert torch.equal(made * (1 - mask), ramp * (1 - mask))
    assert torch.equal(made, classical(ramp * (1 - mask), mask, kind))
    assert (made - ramp).abs().max() < 0.1


def test_the_hole_alone_counts(ramp):
    mask = centred(64, 16)
    flat = torch.full_like(ramp, 0.5) * mask + ramp * (1 - mask)
    head, *rows = measure(flat, mask, {"right": Filler(0.5), "wrong": Filler(0.6)})
    assert [row[0] for row in rows] == ["Telea", "Navier-Stokes", "right", "wrong"]
    assert len(head) == 3
    found = {row[0]: row[1:] for row in rows}
    assert figures(found["right"][0]) == (100, 0)
    assert figures(found["wrong"][0]) == (20, 0)
    assert figures(found["right"][1]) == (1, 0)
    assert figures(found["wrong"][1])[0] < 1


def test_a_good_inpainter_is_better_than_gray(ramp):
    rows = measure(ramp, centred(64, 16), {"gray": Filler(0.5)})
    telea, gray = rows[1], rows[3]
    assert figures(telea[1])[0] > figures(gray[1])[0]
    assert figures(telea[2])[0] > figures(gray[2])[0]


def test_spread():
    assert spread([1.0, 2.0, 3.0], 3) == "2.000 ± 0.577"
    assert spread([1.0], 2) == "1.00 ± 0.00"


def test_command(tmp_path, monkeypatch, capsys, ramp):
    class Models:
        def __init__(self, *_: object) -> None: ...

        def get(self, name: str) -> Filler:
            return Filler({"dark": 0.0, "gray": 0.5}[name])

    monkeypatch.setattr(inpainting, "Pool", Models)
    for number, picture in enumerate(ramp):
        Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    assert torch.allclose(to_tensor(Image.open(tmp_path / "0.png"))[0], ramp[0], atol=1 / 255)
    main(["--images", str(tmp_path), "--model", "dark", "gray", "--size", "64", "--hole", "16"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["Telea", "Navier-Stokes", "dark", "gray"]


@pytest.mark.parametrize("hole", ["0", "-3", "65"])
def test_a_hole_that_does_not_fit(tmp_path, hole, capsys):
    with pytest.raises(SystemExit):
        main(["--images", str(tmp_path), "--size", "64", "--hole", hole])
    assert "--hole" in capsys.readouterr().err
