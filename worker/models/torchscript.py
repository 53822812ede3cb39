"""Inpainters from TorchScript files, `forward(image, mask) -> image`, as `Edits`. LaMa and MAT are passed around so.

The file knows the network, the entry's options (`service.contracts.torchscript`) the conventions: they stay in here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from service.contracts.torchscript import InpaintOptions, inpaint_options
from worker.core.view import TOUCHED, pad, resize
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions
from worker.models.latent import DTYPES
from worker.models.reading import reading

log = logging.getLogger(__name__)


class Inpainter:
    """A loaded file on its device, in `dtype`. It is told no words; only the mask says what to paint.

    `multiple` is 1: what the network's sides must divide by is made up in here, by reflection, so that the hole goes on
    beyond the border too. Where the network takes squares alone `size` is None, so that nothing is resized twice.
    """

    multiple = 1

    def __init__(
        self,
        name: str,
        network: Any,
        options: InpaintOptions,
        *,
        size: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.size = name, None if options.square else size
        self._side = size if options.square else None
        self._network = network.to(device, dtype).eval()
        for parameter in self._network.parameters():
            parameter.requires_grad_(False)
        self.memory_bytes = sum(t.numel() * t.element_size() for t in self._network.state_dict().values())
        self._network = _frozen(self._network)
        self._options, self._device, self._dtype = options, device, dtype

    @property
    def random(self) -> bool:
        """Whether another seed gives another edit."""
        return self._options.random

    def edit(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],  # noqa: ARG002 - an inpainter takes none
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,  # noqa: ARG002 - nor these
    ) -> Tensor:
        """The images (N,3,H,W) with the region filled, and outside of it exactly as they were; differentiable in x.

        What the network paints beyond [0,1] is clamped; its gradient is not. Raises BadField where there is no mask,
        and where the file does not do what its entry says.
        """
        if mask is None:
            raise BadField(
                f"mask: {self.name} is an inpainter: it needs a mask, white where it is to paint", field="mask"
            )
        mask = mask.to(x).expand(len(x), -1, -1, -1)
        made = self._at_its_size(x, mask, generators).to(x)
        made = made.detach().clamp(0, 1) + (made - made.detach())
        return x * (1 - mask) + made * mask

    def _at_its_size(self, x: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        shape = x.shape[-2], x.shape[-1]
        if self._side is None or shape == (self._side, self._side):
            return self._padded(x, mask, generators)
        square = self._side, self._side
        hole = (resize(mask, square) > TOUCHED).to(mask)  # what is partly inside counts in, as in core.view
        return resize(self._padded(resize(x, square).clamp(0, 1), hole, generators), shape)

    def _padded(self, x: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        height, width = x.shape[-2:]
        down, right = -height % self._options.multiple, -width % self._options.multiple
        made = self._in_its_range(reflected(x, down, right), reflected(mask, down, right), generators)
        return made[..., :height, :width]

    def _in_its_range(self, x: Tensor, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        options = self._options
        low, high = options.range
        image = x * (high - low) + low
        if options.blank:
            image = image * (1 - mask)
        told = 1 - mask if options.mask == "known" else mask.clone()  # networks may write into what they are given
        image, told = image.to(self._device, self._dtype), told.to(self._device, self._dtype)
        if options.random:
            made = []
            for index, generator in enumerate(generators):
                with seeded(generator, self._device):
                    made.append(self._run(image[index : index + 1], told[index : index + 1]))
            painted = torch.cat(made)
        else:
            painted = self._run(image, told)
        low, high = options.output_range or options.range
        return (painted.float() - low) / (high - low)

    def _run(self, image: Tensor, mask: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        try:
            # Optimised, the first gradients of every shape are up to ten times slower, and the later ones no faster.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                made = self._network(image, mask)
        except (RuntimeError, torch.jit.Error) as error:
            if "out of memory" in str(error):  # TorchScript takes the error's class away
                raise torch.OutOfMemoryError(str(error)) from error
            if "can't allocate memory" in str(error):
                raise
            log.warning("model %s: %s", self.name, error)
            raise BadField(
                f"models: {self.name} cannot run on {width}x{height} pictures in {self._dtype}, which its entry says "
                "it can: see that dtype, size, square and multiple are those that its file was exported for",
                field="models",
            ) from error
        if not isinstance(made, Tensor) or made.shape != image.shape:
            found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise BadField(
                f"models: {self.name} gives {found} for images {tuple(image.shape)}; an inpainter gives one tensor of "
                "the same shape",
                field="models",
            )
        if image.requires_grad and torch.is_grad_enabled() and not made.requires_grad:
            raise BadField(
                f"models: the file of {self.name} was exported with gradients turned off, so it edits, but cannot be "
                "attacked; export it again without no_grad",
                field="models",
            )
        return made


def load_inpainter(model: Model, file: Path, device: torch.device) -> Inpainter:
    """The inpainter in a file that `registry.locate` found; its code is run. Raises BadField."""
    with reading(model.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated; inpainters are passed around as such
        network = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
    _check_signature(model.name, network)
    return Inpainter(
        model.name,
        network,
        inpaint_options(model.options, model.size),
        size=model.size,
        device=device,
        dtype=DTYPES[model.dtype],
    )


def _frozen(network: Any) -> Any:
    """The network with its weights as constants and its batch norms folded into its convolutions: a sixth less memory
    for a gradient, and half the time. One that cannot be frozen stays as it is."""
    if not isinstance(network, torch.jit.ScriptModule):
        return network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, as above
        try:
            return torch.jit.freeze(network)
        except RuntimeError:
            return network


def _check_signature(name: str, network: Any) -> None:
    taken = network.forward.schema.arguments[1:] if hasattr(network, "forward") else []
    tensors = [str(argument.type) == "Tensor" for argument in taken[:2]]
    if tensors != [True, True] or not all(argument.has_default_value() for argument in taken[2:]):
        told = ", ".join(f"{argument.name}: {argument.type}" for argument in taken)
        raise BadField(
            f"models: {name} has forward({told}); an inpainter has forward(image, mask), both tensors", field="models"
        )


def reflected(x: Tensor, down: int, right: int) -> Tensor:
    """x with `down` rows and `right` columns more, by reflection, or of its last again where it is too small for that.

    (torch's own reflection has no fixed-order gradient on a GPU; this has.)
    """
    height, width = x.shape[-2:]
    if down >= height:
        x = pad(x, down, 0)
    elif down:
        x = torch.cat([x, x[..., -1 - down : -1, :].flip(-2)], -2)
    if right >= width:
        x = pad(x, 0, right)
    elif right:
        x = torch.cat([x, x[..., -1 - right : -1].flip(-1)], -1)
    return x


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generator is seeded by a draw from `generator`; afterwards it is as it was before."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
