"""One job's work without the job: the delivered file, and a report whose every figure is true of that file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from service.contracts.catalog import load_models
from service.contracts.errors import BadField, OutOfMemory
from service.contracts.pictures import Picture, read_picture
from service.contracts.plan import make_plan
from tests.helpers import opened, png
from worker.attacks.encoder import EncoderAttack
from worker.delivery import deliver
from worker.images import to_tensor
from worker.immunization import make_attack
from worker.models.pool import Pool
from worker.recipes import RECIPES

CPU = torch.device("cpu")
REPORT = {
    *("method", "preset", "models", "norm", "epsilon", "steps", "seed", "target", "mask", "width", "height"),
    *("linf_255", "psnr_db", "ssim", "loss_initial", "loss_final", "gradient_evaluations"),
    *("seconds", "device", "version"),
}
BASE = {"models": "tiny", "steps": "6", "seed": "3"}


@pytest.fixture
def models(models_file):
    return load_models(models_file)


@pytest.fixture
def pool(models):
    return Pool(models, CPU)


@pytest.fixture
def run(models, pool):
    def run(picture: Picture, mask=None, goal=None, **fields):
        plan = make_plan(BASE | fields, models, target_image=goal is not None)
        return deliver(picture, mask, goal, plan, [pool.get(name) for name in plan.models], CPU)

    return run


@pytest.fixture
def picture(photograph):
    return read_picture(png(photograph), max_pixels=10**6)


def region(size: tuple[int, int], *box: int) -> Image.Image:
    mask = Image.new("L", size)
    if box:
        mask.paste(255, box)
    return mask


def difference(original: Picture, data: bytes) -> np.ndarray:
    return np.asarray(opened(data).convert("RGB")).astype(int) - np.asarray(original.pixels).astype(int)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target": "inverted"},
        {"target": "zero", "preset": "photoguard"},
        {"preset": "paper"},
        {"epsilon": "7.65"},
        {"epsilon": "7.9995"},
        {"epsilon": "0.5"},
        {"epsilon": "1"},
        {"epsilon": "255"},
        {"norm": "l2", "epsilon": "300"},
        {"norm": "l2", "epsilon": "0.5"},
        {"models": "tiny,reference-autoencoder"},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_report_is_true_of_the_file(masked, format, fields, run, pool, picture):
    mask = region(picture.size, 20, 10, 50, 60) if masked else None
    delivery = run(picture, mask, format=format, **fields)
    report, moved = delivery.report, difference(picture, delivery.data)
    assert opened(delivery.data).format == format.upper()
    assert delivery.content_type == f"image/{format}"
    assert (report.width, report.height) == picture.size == opened(delivery.data).size
    assert report.linf_255 == np.abs(moved).max()
    assert report.l2_255 == pytest.approx(np.linalg.norm(moved), abs=1e-3)
    if moved.any():
        assert report.psnr_db == pytest.approx(10 * np.log10(255**2 / np.square(moved).mean()), abs=0.01)
    else:
        assert report.psnr_db is None
    if format != "jpeg":
        assert (report.l2_255 if report.norm == "l2" else report.linf_255) <= report.epsilon
        assert not report.warnings
        if masked:
            assert not moved[10:60, 20:50].any()
    else:
        assert "JPEG" in report.warnings[0]

    attack = EncoderAttack(
        [pool.get(name) for name in report.models], report.target, RECIPES["encoder", report.preset].distance
    )
    objective = attack.objective(to_tensor(picture.pixels), None if mask is None else to_tensor(mask))
    delivered = to_tensor(opened(delivery.data).convert("RGB"))
    with torch.no_grad():
        assert report.loss_initial == pytest.approx(objective.loss(to_tensor(picture.pixels)).item(), rel=1e-5)
        assert report.loss_final == pytest.approx(objective.loss(delivered).item(), rel=1e-5)
    if fields.get("epsilon") not in {"0.5", "255"}:  # nothing to move by; a start that six steps do not undo
        assert report.loss_final < report.loss_initial


def test_the_report_has_the_contracts_keys(run, picture):
    report = run(picture, region(picture.size, 0, 0, 9, 9)).report
    told = report.model_dump(mode="json")
    assert set(told) >= REPORT
    assert (report.method, report.preset, report.models) == ("encoder", "fast", ["tiny"])
    assert (report.norm, report.epsilon, report.steps, report.seed) == ("linf", 8, 6, 3)
    assert (report.target, report.mask, report.device) == ("gray", True, "cpu")
    assert report.gradient_evaluations == 6
    assert report.seconds >= 0
    assert report.ssim is not None


def test_the_same_seed_gives_the_same_bytes(run, picture):
    assert run(picture).data == run(picture).data
    assert run(picture).data != run(picture, seed="4").data


def test_a_picture_as_the_target(run, picture):
    target = Image.new("RGB", (31, 70), (200, 20, 20))
    delivery = run(picture, goal=target)
    assert delivery.report.target == "image"
    assert delivery.report.loss_final < delivery.report.loss_initial
    assert delivery.data != run(picture).data


def test_noise_takes_no_gradient(models, pool, picture):
    plan = make_plan({"method": "noise", "models": "tiny", "seed": "1"}, models)
    delivery = deliver(picture, None, None, plan, [pool.get("tiny")], CPU)
    report, moved = delivery.report, difference(picture, delivery.data)
    assert (report.gradient_evaluations, report.steps, report.target) == (0, 0, None)
    assert report.linf_255 == 8
    assert set(range(-8, 9)) == set(np.unique(moved))
    assert np.abs(moved.mean()) < 0.3


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_and_profile_are_kept(format, run, photograph):
    alpha = Image.linear_gradient("L").resize(photograph.size)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Picture(photograph, alpha, profile)
    made = opened(run(picture, format=format).data)
    assert made.mode == "RGBA"
    assert made.getchannel("A").tobytes() == alpha.tobytes()
    assert made.info["icc_profile"] == profile
    assert difference(picture, run(picture, format=format).data).any()


def test_a_profile_is_kept_in_a_jpeg_but_alpha_cannot_be(run, photograph):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert opened(run(Picture(photograph, None, profile), format="jpeg").data).info["icc_profile"] == profile
    with pytest.raises(BadField, match="alpha"):
        run(Picture(photograph, Image.new("L", photograph.size, 7)), format="jpeg")


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (70, 33), (200, 9)])
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_any_shape(size, format, run, photograph):
    picture = Picture(photograph.resize(size))
    report = run(picture, format=format).report
    assert (report.width, report.height) == size
    assert (report.ssim is None) is (min(size) < 7)


def test_a_mask_that_covers_everything_is_refused(run, picture):
    with pytest.raises(BadField, match="covers the whole picture"):
        run(picture, Image.new("L", picture.size, 255))


def test_a_mask_with_nothing_in_it_is_no_mask(run, picture):
    with_black = run(picture, region(picture.size))
    assert with_black.report.mask is True
    assert with_black.data == run(picture).data


def test_a_mask_that_leaves_one_pixel(run, picture):
    mask = Image.new("L", picture.size, 255)
    mask.putpixel((40, 30), 0)
    moved = difference(picture, run(picture, mask).data)
    assert moved[30, 40].any()
    moved[30, 40] = 0
    assert not moved.any()


@pytest.mark.parametrize("flat", [0, 127, 128, 255])
def test_flat_pictures(flat, run):
    picture = Picture(Image.new("RGB", (40, 24), (flat,) * 3))
    report = run(picture, target="inverted").report
    assert report.linf_255 <= 8


class Stopped(Exception):
    pass


def test_what_on_step_raises_comes_through(models, pool, picture):
    def on_step(step, steps, losses):
        raise Stopped

    with pytest.raises(Stopped):
        deliver(picture, None, None, make_plan(BASE, models), [pool.get("tiny")], CPU, on_step)


EDITS = {"method": "diffusion", "models": "painter"}
EDITED = ("prompts", "denoising_steps", "gradient_steps", "repeats", "masks")
BACKDOOR = {"method": "backdoor", "models": "painter"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"preset": "early"},
        {"preset": "paper"},
        {"preset": "photoguard", "repeats": "2"},
        {"target": "noise", "prompt": "a cat\na dog"},
        {"masks": "random", "denoising_steps": "1"},
        {"norm": "l2", "epsilon": "300"},
        {"models": "painter,tiny"},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", ["png", "jpeg"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_report_of_an_attack_on_edits_is_true_of_the_file(masked, format, fields, run, models, pool, picture):
    mask = region(picture.size, 20, 10, 50, 60) if masked else None
    fields = EDITS | fields
    delivery = run(picture, mask, format=format, **fields)
    report, moved = delivery.report, difference(picture, delivery.data)
    assert report.linf_255 == np.abs(moved).max() > 0
    if format == "png":
        assert (report.l2_255 if report.norm == "l2" else report.linf_255) <= report.epsilon
        if masked:
            assert not moved[10:60, 20:50].any()
    plan = make_plan(BASE | fields | {"format": format}, models)
    assert [getattr(report, name) for name in EDITED] == [
        list(plan.prompts),
        *(getattr(plan, name) for name in EDITED[1:]),
    ]
    assert report.gradient_evaluations == 6 * plan.repeats
    assert (report.models, report.mask) == (list(plan.models), masked)

    loaded, recipe = [pool.get(name) for name in plan.models], RECIPES["diffusion", plan.preset]
    objective = make_attack(plan, loaded, recipe, plan.target).objective(
        to_tensor(picture.pixels), None if mask is None else to_tensor(mask)
    )
    delivered = to_tensor(opened(delivery.data).convert("RGB"))
    with torch.no_grad():
        assert report.loss_initial == pytest.approx(objective.loss(to_tensor(picture.pixels)).item(), rel=1e-5)
        assert report.loss_final == pytest.approx(objective.loss(delivered).item(), rel=1e-5)
    if format == "png":
        assert report.loss_final < report.loss_initial


def test_a_picture_as_the_target_of_edits(run, picture):
    delivery = run(picture, goal=Image.new("RGB", (31, 70), (200, 20, 20)), **EDITS, masks="random")
    assert delivery.report.target == "image"
    assert delivery.report.loss_final < delivery.report.loss_initial


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (70, 33), (200, 150)])
def test_any_shape_of_edits(size, run, photograph):
    report = run(Picture(photograph.resize(size)), **EDITS).report
    assert (report.width, report.height) == size


def test_attacks_without_edits_say_nothing_of_them(run, picture):
    report = run(picture).report
    assert [getattr(report, name) for name in EDITED] == [[], *[None] * 4]
    assert (report.losses, report.order) == ([], None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"preset": "paper"},
        {"models": "tiny"},
        {"models": "painter,tiny"},
        {"models": "tiny,painter", "order": "sequential"},
        {"losses": "implant"},
        {"losses": "hide,incomplete", "target": "noise", "prompt": "a cat\na dog"},
        {"norm": "l2", "epsilon": "300", "denoising_steps": "1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_the_report_of_a_backdoor_is_true_of_the_file(format, fields, run, models, pool, picture):
    mask, fields = region(picture.size, 20, 10, 50, 60), BACKDOOR | fields
    delivery = run(picture, mask, format=format, **fields)
    report, moved = delivery.report, difference(picture, delivery.data)
    assert report.linf_255 == np.abs(moved).max() > 0
    if format == "png":
        assert (report.l2_255 if report.norm == "l2" else report.linf_255) <= report.epsilon
    assert moved[10:60, 20:50].any()  # unlike the other attacks
    moved[10:60, 20:50] = 0
    assert moved.any()
    plan = make_plan(BASE | fields | {"format": format}, models)
    assert (report.losses, report.order) == (list(plan.losses), plan.order)
    assert (report.prompts, report.denoising_steps) == (list(plan.prompts), plan.denoising_steps)
    assert (report.repeats, report.masks, report.mask) == (None, None, True)
    assert report.gradient_evaluations == (9 if plan.order == "sequential" else 6)

    loaded, recipe = [pool.get(name) for name in plan.models], RECIPES["backdoor", plan.preset]
    objective = make_attack(plan, loaded, recipe, plan.target).objective(to_tensor(picture.pixels), to_tensor(mask))
    delivered = to_tensor(opened(delivery.data).convert("RGB"))
    with torch.no_grad():
        assert report.loss_initial == pytest.approx(objective.loss(to_tensor(picture.pixels)).item(), rel=1e-5)
        assert report.loss_final == pytest.approx(objective.loss(delivered).item(), rel=1e-5)
    if format == "png" and "implant" in plan.losses:
        assert report.loss_final < report.loss_initial


@pytest.mark.parametrize(
    ("box", "said"),
    [(None, "needs it"), ((), "black everywhere"), ((0, 0, 96, 80), "covers the whole picture")],
)
def test_a_backdoor_without_a_region_is_refused(box, said, run, picture):
    with pytest.raises(BadField, match=said) as caught:
        run(picture, None if box is None else region(picture.size, *box), **BACKDOOR)
    assert caught.value.field == "mask"


@pytest.mark.parametrize("size", [(2, 1), (3, 50), (70, 33), (200, 150)])
@pytest.mark.parametrize("name", ["painter", "tiny"])
def test_any_shape_of_a_backdoor(name, size, run, photograph):
    picture = Picture(photograph.resize(size))
    mask = region(size, 0, 0, (size[0] + 1) // 2, (size[1] + 1) // 2)
    report = run(picture, mask, **BACKDOOR | {"models": name}).report
    assert (report.width, report.height) == size
    assert report.linf_255 <= 6


def test_a_picture_as_the_target_of_a_backdoor(run, picture):
    mask, goal = region(picture.size, 20, 10, 50, 60), Image.new("RGB", (31, 70), (200, 20, 20))
    delivery = run(picture, mask, goal=goal, **BACKDOOR)
    assert delivery.report.target == "image"
    assert delivery.report.loss_final < delivery.report.loss_initial


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the device ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine ran out of memory"),
    ],
)
def test_memory_that_runs_out_in_the_middle_is_told_and_the_next_job_works(
    error, told, run, pool, picture, monkeypatch
):
    wanted, painter, calls = run(picture, **EDITS).data, pool.get("painter"), []

    def edit(*given):
        calls.append(given)
        if len(calls) == 5:
            raise error
        return type(painter).edit(painter, *given)

    monkeypatch.setattr(painter, "edit", edit, raising=False)
    with pytest.raises(OutOfMemory, match=f"{told}; send a smaller picture") as caught:
        run(picture, **EDITS)
    assert caught.value.status == 500
    assert run(picture, **EDITS).data == wanted
