"""Kind torchscript-inpaint: what inpainters of every convention make of pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from service.contracts.errors import BadField, OutOfMemory
from tests.worker.models import exports
from worker.editing import edit
from worker.memory import enough_memory
from worker.models.abilities import Decodes, Denoises, Edits, Encodes
from worker.models.torchscript import reflected

RANGES = ([0, 1], [-1, 1], [0, 255])
SHAPES = ((24, 32), (23, 41), (8, 8), (7, 3), (1, 1), (1, 50), (65, 9))


def hole(height, width, count=1):
    """A region in the lower right, up to the border."""
    mask = torch.zeros(count, 1, height, width)
    mask[..., height // 2 :, width // 3 :] = 1
    return mask


def painted(model, x, mask, seeds=None):
    seeds = seeds or [0] * len(x)
    return model.edit(x, mask, [""] * len(x), [torch.Generator().manual_seed(seed) for seed in seeds])


def test_it_edits_and_no_more(load_torchscript):
    model = load_torchscript(exports.Paints(), {"size": 64})
    assert isinstance(model, Edits)
    assert not isinstance(model, Encodes | Decodes | Denoises)
    assert (model.name, model.size, model.multiple) == ("some", 64, 1)
    assert load_torchscript(exports.Paints()).size is None


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("given", [None, *RANGES])
@pytest.mark.parametrize("taken", [None, *RANGES])
def test_every_convention_gives_the_same_picture(taken, given, known, load_torchscript, pictures):
    x, mask = pictures(2, 24, 32), hole(24, 32, 2)
    options = {"range": taken, "output_range": given, "mask": "known" if known else None}
    network = exports.Exported(taken or [0, 1], given or taken or [0, 1], known)
    model = load_torchscript(network, **{name: value for name, value in options.items() if value})
    torch.testing.assert_close(painted(model, x, mask), x * (1 - mask) + exports.Paints()(x, mask) * mask)


@pytest.mark.parametrize("sense", ["hole", "known"])
def test_what_a_mask_tells(sense, load_torchscript, pictures):
    x, mask = pictures(1, 24, 32), hole(24, 32)
    made = painted(load_torchscript(exports.Told(), mask=sense), x, mask)
    assert torch.equal(made, torch.where(mask > 0, torch.tensor(float(sense == "hole")), x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("network", [exports.Paints, exports.Beyond, exports.Echo])
def test_outside_of_the_region_nothing_changes(network, shape, load_torchscript, pictures):
    x, mask = pictures(2, *shape), hole(*shape)
    mask = torch.cat([mask, 1 - mask])
    made = painted(load_torchscript(network(), range=[-1, 1]), x, mask)
    assert torch.equal(made[mask.expand_as(x) == 0], x[mask.expand_as(x) == 0])
    assert made.shape == x.shape
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 1


def test_one_mask_for_all(load_torchscript, pictures):
    x, mask, model = pictures(3, 24, 32), hole(24, 32), load_torchscript(exports.Paints())
    assert torch.equal(painted(model, x, mask), painted(model, x, mask.expand(3, -1, -1, -1)))


def test_words_and_options_do_not_count(load_torchscript, pictures):
    x, mask, model = pictures(1, 24, 32), hole(24, 32), load_torchscript(exports.Paints())
    assert torch.equal(edit(x, mask, "a cat", model, seed=1), edit(x, mask, "", model, seed=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_any_size(multiple, shape, load_torchscript, pictures):
    """`Mean` takes multiples of 8; what the padding adds must not tell it of the hole."""
    x, mask = pictures(1, *shape), hole(*shape)
    if bool(mask.all()):  # nothing is known then
        mask = torch.zeros_like(mask)
    model = load_torchscript(exports.Mean(), multiple=multiple)
    if multiple == 1 and (shape[0] % 8 or shape[1] % 8):
        with pytest.raises(BadField, match="see that dtype, size, square and multiple"):
            painted(model, x, mask)
        return
    made, other = (painted(model, seen, mask) for seen in (x, torch.where(mask > 0, 1 - x, x)))
    assert made.shape == x.shape
    assert torch.equal(made, other)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, 5), (8, 10), (1, 1)])
def test_padding_is_reflection(down, right, pictures):
    x = pictures(2, 9, 11)
    assert torch.equal(reflected(x, down, right), F.pad(x, (0, right, 0, down), mode="reflect"))


@pytest.mark.parametrize(("down", "right"), [(9, 0), (9, 12), (40, 3), (7, 11)])
def test_padding_of_what_is_too_small_repeats_its_last(down, right, pictures):
    x = pictures(1, 9, 11)
    made = reflected(x, down, right)
    assert made.shape == (1, 3, 9 + down, 11 + right)
    assert torch.equal(made[..., :9, :11], x)
    if down >= 9:
        assert torch.equal(made[..., 9:, :11], x[..., -1:, :].expand(1, 3, down, 11))
    if right >= 11:
        assert torch.equal(made[..., :9, 11:], x[..., -1:].expand(1, 3, 9, right))


@pytest.mark.parametrize(("range", "shown"), [([0, 1], 0), ([-1, 1], 0.5), ([0, 255], 0)])
def test_blank(range, shown, load_torchscript, pictures):
    x, mask = pictures(1, 24, 32), hole(24, 32)
    made = painted(load_torchscript(exports.Echo(), range=range, blank=True), x, mask)
    torch.testing.assert_close(made, torch.where(mask > 0, torch.tensor(shown).float(), x))
    torch.testing.assert_close(painted(load_torchscript(exports.Echo(), range=range), x, mask), x)


def test_random_is_the_generators_alone(load_torchscript, pictures):
    x, mask, model = pictures(3, 24, 32), hole(24, 32), load_torchscript(exports.Noise(), random=True)
    before = torch.random.get_rng_state()
    first, again, other = (painted(model, x, mask, seeds) for seeds in ([1, 1, 2], [1, 1, 2], [3, 4, 5]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    inside = mask[0, 0] > 0
    assert torch.equal(first[0][:, inside], first[1][:, inside])
    assert not torch.equal(first[0][:, inside], first[2][:, inside])
    assert not torch.equal(first, other)
    assert torch.equal(painted(model, x[2:], mask, [2]), first[2:])  # whoever else is in the batch
    generator = torch.Generator().manual_seed(1)
    drawn = [model.edit(x[:1], mask, [""], [generator]) for _ in range(2)]
    assert not torch.equal(*drawn)


def test_one_at_a_time_each_has_its_mask(load_torchscript, pictures):
    x, mask = pictures(2, 24, 32), torch.cat([hole(24, 32), 1 - hole(24, 32)])
    assert torch.equal(painted(load_torchscript(exports.Told(), random=True), x, mask), x * (1 - mask) + mask)


@pytest.mark.parametrize("shape", [(32, 32), (23, 41), (200, 120), (1, 1), (5, 300)])
@pytest.mark.parametrize("traced", [False, True])
def test_square(traced, shape, load_torchscript, pictures, tmp_path):
    network = exports.Square()
    file = exports.save_traced(network, tmp_path / "traced.pt", 32) if traced else network
    model = load_torchscript(file, {"size": 32}, square=True)
    assert model.size is None  # so that nobody resizes before it does
    x, mask = pictures(2, *shape).requires_grad_(), hole(*shape, 2)
    made = painted(model, x, mask)
    assert made.shape == x.shape
    assert torch.equal(made[mask.expand_as(x) == 0], x[mask.expand_as(x) == 0])
    if shape == (32, 32):
        torch.testing.assert_close(made, x * (1 - mask) + network(x, mask) * mask)
    if shape != (1, 1):
        (gradient,) = torch.autograd.grad((made * mask).sum(), x)
        assert gradient.any()
    assert edit(x.detach(), mask, "", model).shape == x.shape


def test_a_thin_hole_is_not_lost_in_a_square(load_torchscript):
    x, mask = torch.full((1, 3, 96, 96), 0.4), torch.zeros(1, 1, 96, 96)
    mask[..., 40:41] = 1
    made = painted(load_torchscript(exports.Told(), {"size": 32}, square=True), x, mask)
    assert (made[..., 40] > 0.8).all()


def test_an_export_as_mats(load_torchscript, pictures, tmp_path):
    """Of one size and one picture, in [-1,1], told what is known, and it drops features at random all the time."""
    file = exports.save_traced(exports.Styled(), tmp_path / "mat.pt", 32)
    model = load_torchscript(file, {"size": 32}, range=[-1, 1], mask="known", square=True, random=True)
    x, mask = pictures(2, 48, 64).requires_grad_(), hole(48, 64)
    first, again, other = (painted(model, x, mask, seeds) for seeds in ([1, 2], [1, 2], [3, 4]))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    inside = mask.expand_as(x) > 0
    assert torch.equal(first[~inside], x[~inside])
    (gradient,) = torch.autograd.grad((first * mask).square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient[~inside].any()


def test_a_square_is_the_whole_picture(load_torchscript):
    """A gradient from left to right comes back as one, and the hole where it was."""
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 40, 96)
    made = painted(load_torchscript(exports.Echo(), {"size": 32}, square=True), ramp, hole(40, 96))
    torch.testing.assert_close(made, ramp, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_float32_goes_in_and_comes_out_however_it_is_stored(stored, dtype, load_torchscript, pictures):
    x, mask = pictures(1, 24, 32), hole(24, 32)
    model = load_torchscript(exports.Paints().to(stored), {"dtype": dtype})
    rounded = exports.Paints().to(stored).float()
    made, wanted = painted(model, x, mask), x * (1 - mask) + rounded(x, mask) * mask
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, wanted, **({} if dtype == "float32" else {"rtol": 0, "atol": 0.05}))


@pytest.mark.parametrize("options", [{}, {"blank": True}, {"random": True}, {"multiple": 32}, {"range": [0, 255]}])
@pytest.mark.parametrize("shape", [(24, 32), (23, 41)])
def test_the_gradient_at_the_input(shape, options, load_torchscript, pictures):
    x, mask = pictures(2, *shape).requires_grad_(), hole(*shape)
    model = load_torchscript(
        exports.Exported(options.get("range", [0, 1]), options.get("range", [0, 1]), False), **options
    )
    (gradient,) = torch.autograd.grad((painted(model, x, mask) * mask).square().sum(), x)
    assert gradient.isfinite().all()
    inside = mask.expand_as(x) > 0
    assert not gradient[inside].any()  # hidden from the network
    assert gradient[~inside].any()
    (gradient,) = torch.autograd.grad((painted(model, x, mask) * (1 - mask)).sum(), x)
    assert torch.equal(gradient, (1 - mask).expand_as(x))  # and nothing of it outside


def test_what_is_beyond_white_still_has_a_gradient(load_torchscript, pictures):
    x, mask = pictures(1, 24, 32).requires_grad_(), hole(24, 32)
    made = painted(load_torchscript(exports.Beyond()), x, mask)
    (gradient,) = torch.autograd.grad(made.sum(), x)
    assert set(made[mask.expand_as(x) > 0].tolist()) > {0.0, 1.0}
    torch.testing.assert_close(gradient, (1 + 19 * mask).expand_as(x))


def test_the_file_is_frozen(load_torchscript):
    """Its weights are constants of its graph; how many bytes they were is remembered."""
    model = load_torchscript(exports.Paints())
    assert not list(model._network.parameters())
    assert model.memory_bytes == 4 * sum(weight.numel() for weight in exports.Paints().parameters())


def test_a_file_that_was_exported_detached_can_be_attacked(load_torchscript, pictures):
    """Freezing drops what is there for training alone."""
    x, mask = pictures(1, 24, 32).requires_grad_(), hole(24, 32)
    (gradient,) = torch.autograd.grad((painted(load_torchscript(exports.Detached()), x, mask) * mask).sum(), x)
    torch.testing.assert_close(gradient, 0.5 * mask.expand_as(x))


def test_the_same_every_time(load_torchscript, pictures):
    """Whatever TorchScript would do after it has seen a network run a few times."""
    model, mask = load_torchscript(exports.Paints()), hole(24, 32)
    made = []
    for _ in range(4):
        x = pictures(1, 24, 32).requires_grad_()
        edited = painted(model, x, mask)
        made.append((edited.detach(), *torch.autograd.grad(edited.square().sum(), x)))
    assert all(torch.equal(*pair) for later in made[1:] for pair in zip(later, made[0], strict=True))


def test_a_file_that_writes_into_what_it_is_given(load_torchscript, pictures):
    x, mask = pictures(1, 24, 32).requires_grad_(), hole(24, 32)
    before = x.detach().clone(), mask.clone()
    made = painted(load_torchscript(exports.Writes()), x, mask)
    assert torch.equal(x, before[0])
    assert torch.equal(mask, before[1])
    assert torch.equal(made, x * (1 - mask))


def test_a_third_argument_with_a_default(load_torchscript, pictures):
    x, mask = pictures(1, 24, 32), hole(24, 32)
    assert torch.equal(painted(load_torchscript(exports.Further()), x, mask), x * (1 - mask) + x * 0.5 * mask)


WRONG = {
    "forward of one": (exports.One, r"forward\(image: Tensor\); an inpainter has forward\(image, mask\)"),
    "forward of three": (exports.Three, r"forward\(image: Tensor, mask: Tensor, noise: Tensor\); an inpainter has"),
    "a mask that is a number": (exports.Number, r"forward\(image: Tensor, mask: float\); an inpainter has"),
    "no forward": (exports.NoForward, r"forward\(\); an inpainter has"),
    "smaller": (exports.Halved, r"gives \(2, 3, 12, 16\) for images \(2, 3, 24, 32\)"),
    "grey": (exports.Grey, r"gives \(2, 1, 24, 32\) for images"),
    "two tensors": (exports.Pair, "gives tuple for images"),
    "error of its own": (exports.Raises, "some cannot run on 32x24 pictures in torch.float32, .* exported for"),
    "another size": (exports.Square, "some cannot run on 32x24 pictures"),
    "no gradients": (exports.Bytes, "exported with gradients turned off"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_do_what_its_entry_says(case, load_torchscript, pictures):
    network, told = WRONG[case]
    with pytest.raises(BadField, match=f"^models: .*{told}") as error:
        painted(load_torchscript(network()), pictures(2, 24, 32).requires_grad_(), hole(24, 32))
    assert "secret" not in error.value.detail
    assert "\n" not in error.value.detail
    assert error.value.field == "models"


def test_without_gradients_asked_for_none_are_needed(load_torchscript, pictures):
    x = pictures(1, 24, 32)
    made = edit(x, hole(24, 32), "", load_torchscript(exports.Bytes()))
    assert torch.equal(made[..., :12, :], x[..., :12, :])


def test_it_needs_a_mask(load_torchscript, pictures):
    with pytest.raises(BadField, match="mask: some is an inpainter: it needs a mask") as error:
        edit(pictures(1, 24, 32), None, "", load_torchscript(exports.Paints()))
    assert error.value.field == "mask"


@pytest.mark.parametrize("network", [exports.Huge, exports.Full])
def test_memory_that_runs_out(network, load_torchscript, pictures):
    with pytest.raises(OutOfMemory, match="ran out of memory"), enough_memory():
        painted(load_torchscript(network()), pictures(1, 24, 32), hole(24, 32))
