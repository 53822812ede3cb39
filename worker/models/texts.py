"""The text encoders of a diffusers pipeline: prompts that they would cut off are refused, and each is read once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from service.contracts.errors import BadField, shown
from worker.models.quiet import quiet

KEPT = 64  # text embeddings, of each text encoder


class Texts:
    """Takes hold of the pipeline's text encoders, so that each reads a prompt once and keeps its answer."""

    def __init__(self, pipeline: Any) -> None:
        asked = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
        self._readers: list[tuple[Any, int]] = []
        for number in ("", "_2", "_3"):
            encoder = getattr(pipeline, f"text_encoder{number}", None)
            if encoder is None:
                continue
            encoder.forward = _remembered(encoder.forward)
            tokenizer = getattr(pipeline, f"tokenizer{number}")
            limits = [tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None)]
            limits += [asked.default] if asked is not None else []
            self._readers.append((tokenizer, min(int(limit) for limit in limits if limit is not None)))

    def check(self, prompts: Sequence[str], name: str) -> None:
        """Refuse what every text encoder of the model `name` would cut off. Raises BadField."""
        for prompt in set(prompts) - {""}:
            with quiet():
                lengths = [(len(reader(prompt).input_ids) - longest, longest) for reader, longest in self._readers]
            over, longest = min(lengths, default=(0, 0))
            if over > 0:
                raise BadField(
                    f"prompt: {shown(prompt)} is {over} tokens longer than the {longest} that {name} reads; shorten it",
                    field="prompt",
                )


def _remembered(forward: Callable[..., Any]) -> Callable[..., Any]:
    answers: dict[str, Any] = {}

    @wraps(forward)
    def call(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        told = []
        for row in range(len(input_ids)):
            given = tree_map(partial(_row, row=row, count=len(input_ids)), (input_ids, args, kwargs))
            key = repr(tree_map(lambda value: value.tolist() if isinstance(value, Tensor) else value, given))
            if key not in answers:
                if len(answers) >= KEPT:
                    del answers[next(iter(answers))]
                text, others, options = given
                with torch.no_grad():
                    answers[key] = forward(text, *others, **options)
            told.append(answers[key])
        return tree_map(lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], *told)

    return call


def _row(value: Any, row: int, count: int) -> Any:
    """One text's share of what a text encoder is given."""
    return value[row : row + 1] if isinstance(value, Tensor) and value.dim() and len(value) == count else value
