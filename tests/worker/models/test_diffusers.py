"""Our networks against diffusers' own, which takes seconds to import: all such tests are in this file."""

from __future__ import annotations

import importlib

import pytest
import torch

from service.contracts.catalog import Model
from worker.models.pool import Pool

CPU = torch.device("cpu")
TINY = {
    "four stages": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1),
    },
    "as the reference": {
        "encoder_block_out_channels": (16,) * 4,
        "decoder_block_out_channels": (16,) * 4,
        "num_encoder_blocks": (0, 1, 2, 3),
        "num_decoder_blocks": (3, 2, 1, 1),
        "latent_channels": 32,
    },
    "two widths": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (12,) * 4,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 2, 1, 1),
        "latent_channels": 16,
    },
    "three stages": {
        "encoder_block_out_channels": (8,) * 3,
        "decoder_block_out_channels": (8,) * 3,
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
    },
    "scaled and shifted": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
        "scaling_factor": 0.7,
        "shift_factor": 0.2,
    },
}
KL = {
    "stable diffusion": {"scaling_factor": 0.18215},
    "shifted": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "one stage more": {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
}
KL_BASE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


@pytest.fixture(scope="module")
def diffusers():
    return importlib.import_module("diffusers")


def saved(network, folder, **options):
    """The network in a folder, and as we load it."""
    network.save_pretrained(folder, **options)
    model = Model(name="some", kind="diffusers-vae", source=str(folder))
    return Pool({"some": model}, CPU).get("some")


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_tiny_is_diffusers_own(name, diffusers, tmp_path, pictures):
    """diffusers takes and gives [-1,1], and leaves scale and shift to whoever calls."""
    theirs = seeded(lambda: diffusers.AutoencoderTiny(**TINY[name]))
    ours, x = saved(theirs, tmp_path), pictures(2, 40, 48)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor
    assert ours.multiple == 2 ** (len(TINY[name]["num_encoder_blocks"]) - 1)
    latents = theirs.encode(x * 2 - 1).latents
    torch.testing.assert_close(ours.encode(x), (latents - shift) * scale, rtol=1e-4, atol=1e-5)
    wanted = theirs.decode(latents).sample.add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(ours.decode((latents - shift) * scale), wanted, rtol=1e-4, atol=1e-5)
    big = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)) * 20
    wanted = theirs.decode(big / scale + shift).sample.add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(ours.decode(big), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KL)
def test_kl_honours_scale_and_shift(name, diffusers, tmp_path, pictures):
    theirs = seeded(lambda: diffusers.AutoencoderKL(**KL_BASE | KL[name]))
    ours, x = saved(theirs, tmp_path), pictures(2, 16, 24)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0
    assert ours.multiple == 2 ** (len(theirs.config.block_out_channels) - 1)
    with torch.no_grad():
        mean = theirs.encode(x * 2 - 1).latent_dist.mean
        torch.testing.assert_close(ours.encode(x), (mean - shift) * scale, rtol=1e-4, atol=1e-5)
        wanted = ((theirs.decode(mean).sample + 1) / 2).clamp(0, 1)
        torch.testing.assert_close(ours.decode(ours.encode(x)), wanted, rtol=1e-4, atol=1e-4)
    leaf = x.requires_grad_()
    (gradient,) = torch.autograd.grad(ours.encode(leaf).square().mean((1, 2, 3)).sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.ne(0).all()


@pytest.mark.parametrize(("kind", "config"), [("AutoencoderKL", KL_BASE), ("AutoencoderTiny", {})])
def test_half_precision_weights_under_their_own_name_are_read(kind, config, diffusers, tmp_path, pictures):
    theirs = seeded(lambda: getattr(diffusers, kind)(**config))
    half = saved(theirs.half(), tmp_path / "half", variant="fp16")
    whole = saved(theirs.float(), tmp_path / "whole")
    assert [path.name for path in (tmp_path / "half").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    torch.testing.assert_close(half.encode(pictures(1, 16, 24)), whole.encode(pictures(1, 16, 24)))


def test_no_weight_asks_for_a_gradient(diffusers, tmp_path):
    ours = saved(seeded(lambda: diffusers.AutoencoderKL(**KL_BASE)), tmp_path)
    assert not any(parameter.requires_grad for parameter in ours._network.parameters())
