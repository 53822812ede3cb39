"""Stable Diffusion inpainting for latents of any number of channels.

`StableDiffusionInpaintPipeline` loads such a folder, but runs networks of 4 or 9 input channels only. For those with
noisy latents, mask and the blanked picture's latents (2*C+1 channels) this one runs the same steps in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor


class WideInpaintPipeline(StableDiffusionInpaintPipeline):
    @torch.no_grad()
    def __call__(
        self: Any,  # its parts are set when it runs
        prompt: list[str],
        image: Tensor,
        mask_image: Tensor,
        height: int,
        width: int,
        strength: float = 1.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        eta: float = 0.0,
        generator: list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,  # noqa: ARG002 - a tuple is all that is asked for
    ) -> tuple[Any]:
        device, count = self._execution_device, len(prompt)
        self._guidance_scale, self._clip_skip, self._cross_attention_kwargs = guidance_scale, None, None
        guided = self.do_classifier_free_guidance
        text, untold = self.encode_prompt(prompt, device, 1, guided)
        context = torch.cat([untold, text]) if guided else text
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps, _ = self.get_timesteps(num_inference_steps, strength, device)
        picture = self.image_processor.preprocess(image, height=height, width=width).float()
        hole = self.mask_processor.preprocess(mask_image, height=height, width=width)
        channels = self.vae.config.latent_channels
        latents, _ = self.prepare_latents(
            count, channels, height, width, context.dtype, device, generator, image=picture,
            timestep=timesteps[:1].repeat(count), is_strength_max=strength == 1.0, return_noise=True,
        )  # fmt: skip
        known = self.prepare_mask_latents(
            hole, picture * (hole < 0.5), count, height, width, context.dtype, device, generator, guided
        )
        extra = self.prepare_extra_step_kwargs(generator, eta)
        self._num_timesteps = len(timesteps)
        for step in timesteps:
            doubled = torch.cat([latents] * 2) if guided else latents
            seen = torch.cat([self.scheduler.scale_model_input(doubled, step), *known], 1)
            predicted = self.unet(seen, step, encoder_hidden_states=context, return_dict=False)[0]
            if guided:
                plain, told = predicted.chunk(2)
                predicted = plain + guidance_scale * (told - plain)
            latents = self.scheduler.step(predicted, step, latents, **extra, return_dict=False)[0]
        made = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return (self.image_processor.postprocess(made, output_type=output_type),)
