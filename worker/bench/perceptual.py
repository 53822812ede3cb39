"""Perceptual metrics, where their real weights are on this machine: nothing is fetched, and no number comes from random
weights.

LPIPS (Zhang et al. 2018) with AlexNet. CLIP-FID: the Fréchet distance (Heusel et al. 2017) between CLIP's image
embeddings of two sets of pictures (Kynkäänniemi et al. 2023).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.models.quiet import quiet

BACKBONE = "alexnet-owt-7be5be79.pth"  # in torch's hub cache
CLIP = "openai/clip-vit-base-patch32"
CLIP_REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"  # its main branch has a pickle and no safetensors
CLIP_SIDE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Perceptual:
    """Both metrics, loaded on first use. `checkpoints`: a folder in place of the one in torch's hub cache; `clip`: a
    folder in place of CLIP_REVISION in the local hub cache."""

    def __init__(self, checkpoints: Path | None = None, clip: Path | None = None) -> None:
        self._checkpoints = checkpoints or Path(torch.hub.get_dir()) / "checkpoints"
        self._clip_source = clip
        self._distance: Any = None
        self._clip: Any = None
        self._loaded = False

    def lpips(self, a: Tensor, b: Tensor) -> list[float] | None:
        """The distance of each pair of pictures (N,3,H,W) in [0,1]; None without its weights."""
        self._load()
        if self._distance is None:
            return None
        with torch.no_grad():
            values: list[float] = self._distance(a.cpu(), b.cpu(), normalize=True).flatten().tolist()
        return values

    def clip_fid(self, a: Tensor, b: Tensor) -> float | None:
        """The distance of two sets of pictures (N,3,H,W) in [0,1]; None without its weights, or for fewer than two."""
        self._load()
        if self._clip is None or min(len(a), len(b)) < 2:
            return None
        return frechet(self._embedded(a), self._embedded(b))

    def missing(self) -> list[str]:
        """A line for each metric that is not measured, which says how it would be."""
        self._load()
        lines = []
        if self._distance is None:
            lines.append(f"LPIPS: weights not present; it needs lpips, and {BACKBONE} in torch's hub cache")
        if self._clip is None:
            fetch = f"hf download {CLIP} config.json model.safetensors --revision {CLIP_REVISION}"
            lines.append(f"CLIP-FID: weights not present; fetch them once with `{fetch}`")
        return lines

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that warn of their own future
            if (self._checkpoints / BACKBONE).exists():
                self._distance = _lpips(self._checkpoints / BACKBONE)
            self._clip = _clip(self._clip_source)

    def _embedded(self, x: Tensor) -> NDArray[np.float64]:
        with torch.no_grad():
            embeds = self._clip(pixel_values=as_clip_sees(x.cpu())).image_embeds
        found: NDArray[np.float64] = embeds.double().numpy()
        return found


def as_clip_sees(x: Tensor) -> Tensor:
    """What CLIP's processor makes of pictures (N,3,H,W) in [0,1]: the shorter side to CLIP_SIDE, the centre square of
    that, normalised."""
    height, width = x.shape[-2:]
    shorter = min(height, width)
    height, width = CLIP_SIDE * height // shorter, CLIP_SIDE * width // shorter
    top, left = (height - CLIP_SIDE) // 2, (width - CLIP_SIDE) // 2
    x = F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_DEVIATION))
    return (x[..., top : top + CLIP_SIDE, left : left + CLIP_SIDE] - mean) / deviation


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mean a - mean b|² + tr(A + B - 2 (A B)^½) of two sets of vectors (n,d), A and B their covariances (Heusel et al.
    2017, equation 6).

    With A = R'R and B = S'S the trace of the root is the sum of the singular values of R S', which stays exact where
    there are fewer vectors than dimensions.
    """
    first, second = _factor(a), _factor(b)
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    roots = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return max(0.0, float(shift + np.square(first).sum() + np.square(second).sum() - 2 * roots))


def _factor(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """R (min(n,d),d) with R'R the covariance."""
    found: NDArray[np.float64] = np.linalg.qr(vectors - vectors.mean(0), mode="r") / np.sqrt(len(vectors) - 1)
    return found


def _lpips(backbone: Path) -> Any:
    try:
        import lpips
        import torchvision
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        made = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # the package would fetch the backbone itself
    network = torchvision.models.alexnet()
    network.load_state_dict(torch.load(backbone, map_location="cpu", weights_only=True))
    slices = [getattr(made.net, f"slice{number}") for number in range(1, made.net.N_slices + 1)]
    for part in slices:
        for name, layer in part.named_children():  # named by their place in the network
            layer.load_state_dict(network.features[int(name)].state_dict())
    return made.eval()


def _clip(folder: Path | None) -> Any:
    from transformers import CLIPVisionModelWithProjection

    clip: Any = CLIPVisionModelWithProjection  # its types know nothing of output_loading_info
    source = CLIP if folder is None else str(folder)
    revision = CLIP_REVISION if folder is None else "main"
    try:
        with quiet():
            model, found = clip.from_pretrained(
                source, revision=revision, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except OSError:
        return None
    return None if found["missing_keys"] else model.eval()  # what is missing would stay random
