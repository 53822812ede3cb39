"""Any image-editing pipeline of diffusers as `Encodes`, `Decodes`, `Denoises` and `Edits`.

The pipeline itself runs the edit, so every convention of every family is diffusers' own: latent scale and shift, mask
and conditioning channels, guidance, schedulers, text encoders. What is added here: gradients through it, memory for
them (each network's activations are computed again on the way back instead of kept), steps that carry none, text
embeddings kept from call to call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from service.contracts.errors import BadField
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions
from worker.models.latent import KLAutoencoder, LatentModel, upcast
from worker.models.quiet import quiet
from worker.models.texts import Texts

EVERYTHING = 0.8  # strength with which an inpainting model repaints a whole picture, as img2img pipelines have it


class FirstPrediction(Exception):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class DiffusionEditor:
    """A loaded pipeline, but for its VAE in `dtype`.

    `recompute` trades a third more time for the memory of all activations but one network's.
    """

    def __init__(
        self,
        name: str,
        pipeline: Any,
        *,
        size: int | None,
        device: torch.device,
        dtype: torch.dtype,
        defaults: EditOptions = DEFAULT_OPTIONS,
        recompute: bool = False,
    ) -> None:
        self.name, self.size, self._defaults, self._device = name, size, defaults, device
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline
        denoiser: nn.Module = getattr(pipeline, "unet", None) or pipeline.transformer
        pipeline.to(device)
        self._latent = LatentModel(
            name, KLAutoencoder(pipeline.vae), size=size, device=device, dtype=upcast(pipeline, dtype)
        )
        self.multiple = self._latent.multiple * (1 if hasattr(pipeline, "unet") else 2)  # transformers take 2x2 patches
        self._parameters = inspect.signature(type(pipeline).__call__).parameters
        self._run = inspect.unwrap(type(pipeline).__call__)  # diffusers turns gradients off around it
        self._texts = Texts(pipeline)
        self._call = 0
        self.passes = 0  # of the denoiser, so far
        self._gradient_steps: int | None = None
        self._sees_picture = (
            hasattr(pipeline, "unet") and pipeline.unet.config.in_channels > pipeline.vae.config.latent_channels
        )
        self._first_only = False
        if hasattr(pipeline, "unet"):
            pipeline.unet.to(memory_format=torch.channels_last)
        self._denoise = denoiser.forward
        self._recompute = recompute
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        denoiser.forward = self._stepping()
        if recompute:
            for module in (pipeline.vae.encoder, pipeline.vae.decoder):
                module.forward = _recomputed(module.forward)

    @property
    def takes_mask(self) -> bool:
        """Whether the model repaints a region; the others repaint the whole picture."""
        return "mask_image" in self._parameters

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images (N,3,H,W) in [0,1], in the units in which the diffusion model works."""
        return self._latent.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1]."""
        return self._latent.decode(latents)

    def edit(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """The pipeline's own output for these images (N,3,H,W); the same generators give the same pictures.

        Where the pipeline knows no mask, only the region is taken from its picture. Raises BadField for a prompt that
        is longer than the text encoder reads, or sides that do not divide by `multiple`.
        """
        self._gradient_steps, self._first_only = options.gradient_steps, False
        made = self._made(x, mask, prompts, generators, options)
        if mask is None or self.takes_mask:
            return made
        mask = mask.to(made)
        return x.to(made) * (1 - mask) + made * mask

    def predict_noise(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """What the network says at the first step, unguided: noise, velocity or flow, as it was trained to.

        Raises BadField besides where the strength is such that the network does not see the picture in that step.
        """
        self._gradient_steps, self._first_only = None, True
        try:
            self._made(x, mask, prompts, generators, replace(options, guidance=1.0))
        except FirstPrediction as found:
            predicted = self._unpacked(found.value, x.shape[-2], x.shape[-1])
            if x.requires_grad and torch.is_grad_enabled() and not predicted.requires_grad:
                raise BadField(
                    f"strength: at 1 {self.name} begins with noise alone; ask for less", field="strength"
                ) from None
            return predicted
        raise RuntimeError(f"the pipeline of {self.name} never called its denoiser")

    def _made(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions,
    ) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise BadField(f"images: {self.name} takes sides that divide by {self.multiple}, not {width}x{height}")
        self._texts.check(prompts, self.name)
        self._call = 0
        own = self._defaults
        steps = options.steps or own.steps or self._parameters["num_inference_steps"].default
        strength = options.strength if options.strength is not None else own.strength
        region = x.new_ones(1, 1, height, width) if mask is None else mask.detach()
        asked = {
            "mask_image": region.expand(len(x), -1, -1, -1).to(self._device),
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "guidance_scale": options.guidance if options.guidance is not None else own.guidance,
            "eta": options.eta,
            "strength": self._strength(strength, steps, mask if self.takes_mask else None),
            "max_area": height * width,  # Kontext would make every picture a megapixel
            "_auto_resize": False,
        }
        known = {name: value for name, value in asked.items() if name in self._parameters and value is not None}
        with quiet():  # where one text encoder reads a prompt to its end, it says that another does not
            made: Tensor = self._run(
                self._pipeline,
                prompt=list(prompts),
                image=x.to(self._device),
                generator=list(generators),
                output_type="pt",
                return_dict=False,
                **known,
            )[0]
        return made.float()

    def _stepping(self) -> Callable[..., Any]:
        @wraps(self._denoise)  # a pipeline may look at the signature
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        return call

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        """One call of the denoiser: with gradient if it is among the last steps that carry it."""
        self._call += 1
        self.passes += 1
        carries = self._gradient_steps
        if carries is not None and self._call <= self._pipeline.num_timesteps - carries:
            with torch.no_grad():
                return self._denoise(*args, **kwargs)
        predicted = _recomputed(self._denoise)(*args, **kwargs) if self._recompute else self._denoise(*args, **kwargs)
        if self._first_only:
            raise FirstPrediction((predicted[0] if isinstance(predicted, tuple) else predicted.sample).float())
        return predicted

    def _unpacked(self, predicted: Tensor, height: int, width: int) -> Tensor:
        """(N,C,h,w) also where a transformer speaks in tokens, and of a reference picture's tokens after its own."""
        if predicted.dim() == 4:
            return predicted
        own = predicted[:, : (height // self.multiple) * (width // self.multiple)]
        unpacked: Tensor = self._pipeline._unpack_latents(own, height, width, self._pipeline.vae_scale_factor)
        return unpacked

    def _strength(self, strength: float | None, steps: int, mask: Tensor | None) -> float | None:
        """How much of the picture is given up. Raises BadField where too few steps are left."""
        if "strength" not in self._parameters:
            return None
        asked = strength is not None
        if strength is None:
            strength = self._parameters["strength"].default
            unseen = self._first_only and not self._sees_picture
            if mask is None or unseen:  # a step must be left out, or the picture counts for nothing
                strength = min(strength, EVERYTHING, (steps - 1) / steps)
        left = ceil(steps * strength) if hasattr(self._pipeline, "transformer") else int(steps * strength)
        if left < 1 and not asked:
            raise BadField(
                f"steps: {self.name} needs more than {steps} of denoising here, since it skips the first to keep "
                "something of the picture",
                field="steps",
            )
        if left < 1:
            raise BadField(
                f"steps: {steps} at strength {strength:g} leave {self.name} no denoising step; ask for more of either",
                field="steps",
            )
        return strength


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network that keeps its inputs alone, and computes the rest again when its gradient is asked for."""

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call
