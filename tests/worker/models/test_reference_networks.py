"""The reference inpainters' networks, untrained and small, as the files in which they ship."""

from __future__ import annotations

import pytest
import torch

from worker.editing import edit
from worker.reference.lama import Lama
from worker.reference.mat import Mat

NETWORKS = {
    "lama": (lambda: Lama(4, 1), 8),
    "mat": (lambda: Mat(8, (1, 1, 1, 1, 1)), 32),
}


@pytest.mark.parametrize("shape", [(96, 160), (101, 75)])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_the_network(name, stored, shape, load_torchscript, pictures):
    make, multiple = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = make().eval().to(stored)
    model = load_torchscript(network, {"size": 256}, multiple=multiple)
    x = pictures(2, *shape).requires_grad_()
    mask = torch.zeros(2, 1, *shape)
    mask[..., shape[0] // 2 :, shape[1] // 3 :] = 1  # up to the border
    inside = mask.expand_as(x) > 0
    made = model.edit(x, mask, [""] * 2, [torch.Generator()] * 2)
    assert made.shape == x.shape
    assert torch.equal(made[~inside], x[~inside])
    (gradient,) = torch.autograd.grad((made * mask).square().sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[inside].any()  # hidden from the network
    assert gradient[~inside].any()
    if not (shape[0] % multiple or shape[1] % multiple):
        torch.testing.assert_close(made, network.float()(x, mask), rtol=0, atol=1e-4)
    torch.testing.assert_close(edit(x.detach(), mask, "", model), made.detach())
