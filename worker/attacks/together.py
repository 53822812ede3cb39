"""Attacks of several kinds at once: one perturbation against the encoder of one model and the edits of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from worker.core.objective import Balanced, Objective, Parallel
from worker.core.view import largest_size


class Attack(Protocol):
    """What every attack has. One whose chances are drawn anew at each evaluation also has `training(x, mask)`, which is
    what is optimised, while `objective` is what is reported."""

    def objective(self, x: Tensor, mask: Tensor | None = None) -> Objective: ...


def training(attack: Attack, x: Tensor, mask: Tensor | None) -> Objective:
    """What is optimised."""
    own = getattr(attack, "training", attack.objective)
    made: Objective = own(x, mask)
    return made


def stages(attack: Attack, x: Tensor, mask: Tensor | None) -> list[Objective]:
    """What is optimised one after the other; most attacks have one stage."""
    own = getattr(attack, "stages", None)
    return [training(attack, x, mask)] if own is None else own(x, mask)


class Together:
    """All of these attacks, each gradient of the same size."""

    def __init__(self, attacks: Sequence[Attack]) -> None:
        self._attacks = tuple(attacks)

    @property
    def size(self) -> int | None:
        return largest_size(self._attacks)

    def objective(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        return Parallel([attack.objective(x, mask) for attack in self._attacks])

    def training(self, x: Tensor, mask: Tensor | None = None) -> Objective:
        return Balanced([training(attack, x, mask) for attack in self._attacks])
