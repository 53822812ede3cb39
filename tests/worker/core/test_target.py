"""Target pictures, as a table."""

from __future__ import annotations

import pytest
import torch

from worker.core.target import PICTURES, target_picture


def flat(*colours: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.float32).view(-1, 3, 1, 1).expand(-1, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "colours", "targets"),
    [
        ("gray", [(0.1, 0.2, 0.3), (1, 0, 0)], [(0.5, 0.5, 0.5)]),
        ("inverted", [(0.1, 0.2, 0.3), (1, 0, 0)], [(0.9, 0.8, 0.7), (0, 1, 1)]),
        # furthest from red of red, green and blue: either of the others; from a reddish yellow, blue
        ("farthest", [(0.9, 0.6, 0.1), (0.1, 0.9, 0.6), (0.6, 0.1, 0.9)], [(0, 0, 1), (1, 0, 0), (0, 1, 0)]),
    ],
)
def test_targets(name, colours, targets):
    made = target_picture(name, flat(*colours))
    assert made.shape[-2:] == (4, 5)
    torch.testing.assert_close(made.expand(len(targets), 3, 4, 5), flat(*targets))


def test_noise_is_uniform_and_always_the_same():
    x = torch.zeros(2, 3, 40, 50)
    made = target_picture("noise", x)
    assert made.shape == (1, 3, 40, 50)
    assert torch.equal(made, target_picture("noise", x[:1] + 0.7))
    assert 0 <= made.min() < 0.01
    assert 0.99 < made.max() <= 1
    assert made.mean() == pytest.approx(0.5, abs=0.02)
    assert made.std() == pytest.approx(12**-0.5, abs=0.02)
    assert target_picture("noise", x.double()).dtype == torch.float64


def test_every_listed_name_is_one():
    assert all(target_picture(name, flat((0.2, 0.3, 0.4))).shape == (1, 3, 4, 5) for name in PICTURES)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'mauve'.*gray, farthest, inverted"):
        target_picture("mauve", flat((0, 0, 0)))
