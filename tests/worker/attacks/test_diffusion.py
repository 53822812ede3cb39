"""The diffusion attack on small editors: every preset, target and mask; what it draws, and what it must not touch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.contracts.catalog import METHODS, Preset
from service.contracts.errors import BadField
from service.contracts.plan import make_plan
from worker.attacks import diffusion
from worker.attacks.diffusion import FRESH, MEASURED, DiffusionAttack
from worker.attacks.encoder import EncoderAttack
from worker.attacks.together import Together
from worker.core.budget import L2, Linf
from worker.core.objective import Balanced
from worker.core.pgd import Outcome
from worker.core.region import sides, unforeseen
from worker.core.target import target_picture
from worker.core.view import WorkingSize, resize
from worker.immunization import immunize, make_attack
from worker.models.abilities import Denoises, EditOptions, Edits
from worker.recipes import FAST, RECIPES, ROBUST

PRESETS = {preset.name: preset for preset in METHODS["diffusion"].presets}
PICTURE = torch.rand((1, 3, 11, 45), generator=torch.Generator().manual_seed(9))
TARGETS = {"gray": "gray", "noise": "noise", "farthest": "farthest", "inverted": "inverted", "picture": PICTURE}
PROMPTS = ("a man in prison", "", "two dogs")
STEPS = 8


def box(height: int = 24, width: int = 32) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


def attack_of(preset: Preset, model: object, **changed: object) -> DiffusionAttack:
    recipe = RECIPES["diffusion", preset.name]
    options = EditOptions(
        steps=preset.denoising_steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=preset.gradient_steps
    )
    fields = {"options": options, "kind": recipe.kind, "repeats": preset.repeats, "distance": recipe.distance}
    return DiffusionAttack(model, **fields | {"masks": preset.masks} | changed)


def run(preset: Preset, model: object, x: Tensor, mask: Tensor | None, steps: int = STEPS, **changed) -> Outcome:
    attack, size = attack_of(preset, model, **changed), preset.epsilon / 255
    budget = Linf(size) if preset.norm == "linf" else L2(size)
    recipe = RECIPES["diffusion", preset.name]
    return immunize(x, attack=attack, budget=budget, steps=steps, seed=3, mask=mask, recipe=recipe)


def levels(images: Tensor, x: Tensor, norm: float) -> Tensor:
    return torch.linalg.vector_norm(((images - x) * 255).round(), norm, dim=(1, 2, 3))


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name, masked, size, editor, pictures):
    preset, x, mask = PRESETS[name], pictures(2), box() if masked else None
    model = editor(size=size)
    out = run(preset, model, x, mask)
    assert (out.loss_final < out.loss_initial).all()
    assert torch.equal((out.images * 255).round() / 255, out.images)
    moved = levels(out.images, x, torch.inf if preset.norm == "linf" else 2)
    assert (moved > 0).all()
    assert (moved <= preset.epsilon).all()
    assert out.gradient_evaluations.tolist() == [STEPS * preset.repeats] * 2
    if masked:
        inside = mask.bool().expand_as(x)
        assert torch.equal(out.images[inside], x[inside])
    objective = attack_of(preset, model).objective(x, mask)
    torch.testing.assert_close(out.loss_final, objective.loss(out.images))
    torch.testing.assert_close(out.loss_initial, objective.loss(x))


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_bytes(name, editor, pictures):
    x = pictures(1)
    first, again = (run(PRESETS[name], editor(), x, box(), prompts=PROMPTS).images for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("masks", ["none", "one for all", "one each"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_pictures_result_does_not_depend_on_those_beside_it(name, masks, editor, pictures):
    """But for the last bit of a convolution, which a sign may turn into one grid level."""
    x = pictures(3)
    mask = None if masks == "none" else box() if masks == "one for all" else torch.cat([box(), box().flip(-1), box()])
    if masks == "one each":
        mask[2, :, :20, :28] = 1
    together = run(PRESETS[name], editor(), x, mask, prompts=PROMPTS, target="farthest")
    for index in range(3):
        own = mask if mask is None or len(mask) == 1 else mask[index : index + 1]
        alone = run(PRESETS[name], editor(), x[index : index + 1], own, prompts=PROMPTS, target="farthest")
        torch.testing.assert_close(alone.loss_final[0], together.loss_final[index], rtol=1e-3, atol=1e-5)
        assert (alone.images[0] != together.images[index]).float().mean() < 0.01


@pytest.mark.parametrize("shape", [(24, 32), (1, 1), (3, 50), (70, 33), (8, 8)])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_and_shape(target, shape, editor, pictures):
    x = pictures(2, *shape)
    out = run(PRESETS["fast"], editor(size=32), x, None, target=TARGETS[target], steps=12)
    assert out.images.shape == x.shape
    assert (levels(out.images, x, torch.inf) <= 8).all()
    if shape != (1, 1):  # where a pixel is all there is, what two draws of the region measure is chance
        assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize("distance", ["squared", "norm"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_the_distance_of_the_finished_edit_from_the_target(target, distance, editor, pictures):
    x, mask, model = pictures(2, 40, 48), box(40, 48), editor(size=32)
    view = WorkingSize(32, 8)
    goal = resize(PICTURE, (40, 48)) if target == "picture" else target_picture(target, x)
    losses = []
    for number in range(MEASURED):
        generators = [torch.Generator().manual_seed(number) for _ in x]
        made = model.edit(view(x).clamp(0, 1), view.region(mask), [PROMPTS[number]] * 2, generators)
        mean_square = (made - view(goal).clamp(0, 1)).square().mean((1, 2, 3))
        losses.append(mean_square if distance == "squared" else mean_square.sqrt())
    attack = DiffusionAttack(model, TARGETS[target], prompts=PROMPTS, distance=distance)
    torch.testing.assert_close(attack.objective(x, mask).loss(x), torch.stack(losses).mean(0))


def test_earlys_loss_is_the_size_of_the_prediction_and_grows(editor, pictures):
    x, mask, model = pictures(2), box(), editor()

    def size(images: Tensor) -> Tensor:
        made = [
            model.predict_noise(images, mask, [""] * 2, [torch.Generator().manual_seed(number) for _ in images])
            for number in range(MEASURED)
        ]
        return torch.stack(made).square().mean((0, 2, 3, 4))

    out = run(PRESETS["early"], model, x, mask, steps=20)
    torch.testing.assert_close(out.loss_initial, -size(x))
    torch.testing.assert_close(out.loss_final, -size(out.images))
    assert (size(out.images) > size(x) * 1.02).all()
    assert {told[0] for told in model.told} == {"predict_noise"}


@pytest.mark.parametrize("kind", ["edit", "early"])
def test_what_the_mask_covers_is_neither_seen_nor_touched(kind, editor, pictures):
    x, mask = pictures(2), torch.cat([box(), box().flip(-1)])
    objective = DiffusionAttack(editor(), kind=kind).objective(x, mask)
    loss, gradient = objective.value_and_grad(x)
    inside = mask.bool().expand_as(x)
    assert not gradient[inside].any()
    assert gradient[~inside].ne(0).float().mean() > 0.9
    assert torch.equal(objective.loss(torch.where(inside, 1 - x, x)), loss)


@pytest.mark.parametrize("kind", ["edit", "early"])
def test_measured_draws_are_not_among_the_optimised(kind, editor, pictures):
    x, model = pictures(2), editor()
    attack = DiffusionAttack(model, kind=kind, repeats=3)
    immunize(x, attack=attack, steps=5, mask=box(), recipe=FAST)
    measured, optimised = model.told[:MEASURED], model.told[MEASURED:-MEASURED]
    assert [told[4] for told in measured] == [[number] * 2 for number in range(MEASURED)]
    assert [told[4] for told in model.told[-MEASURED:]] == [told[4] for told in measured]
    assert [told[4] for told in optimised] == [[FRESH + number] * 2 for number in range(1, 16)]
    assert all(told[5] == attack.options for told in model.told)


def test_prompts_are_cycled(editor, pictures):
    x, model = pictures(2), editor()
    immunize(x, attack=DiffusionAttack(model, prompts=PROMPTS, repeats=2), steps=3, mask=box())
    told = [prompts for _, _, _, prompts, _, _ in model.told[MEASURED:-MEASURED]]
    assert all(len(set(prompts)) == 1 for prompts in told)
    words = [prompts[0] for prompts in told]
    assert sorted(words[:3]) == sorted(PROMPTS)
    assert words[3:] == words[:3]
    assert [prompts for _, _, _, prompts, _, _ in model.told[:MEASURED]] == [[word] * 2 for word in PROMPTS[:MEASURED]]


@pytest.mark.parametrize(
    ("masked", "masks", "varies"), [(True, "given", False), (True, "random", True), (False, "given", True)]
)
def test_regions(masked, masks, varies, editor, pictures):
    x, model, mask = pictures(1, 40, 48), editor(), box(40, 48) if masked else None
    immunize(x, attack=DiffusionAttack(model, masks=masks), steps=12, mask=mask)
    shown = [told[2] for told in model.told]
    measured, optimised = shown[:MEASURED], shown[MEASURED:-MEASURED]
    assert all(region.shape == (1, 1, 40, 48) and 0 < region.mean() < 1 for region in shown)
    assert (len({tuple(region.flatten().tolist()) for region in optimised}) > 3) is varies
    if masked:
        assert all(torch.equal(region, mask) for region in measured)
        assert all(torch.equal(region * mask, mask) or torch.equal(region * mask, region) for region in optimised)
    assert all(torch.equal(one, two) for one, two in zip(measured, shown[-MEASURED:], strict=True))


@pytest.mark.parametrize("masks", ["given", "random"])
@pytest.mark.parametrize("size", [None, 32])
def test_the_given_region_is_made_once_a_size(size, masks, editor, pictures, monkeypatch):
    """Reading its area waits for the GPU, which an evaluation must not."""
    made = []

    def counted(mask: Tensor) -> list[float]:
        made.append(mask)
        return sides(mask)

    monkeypatch.setattr(diffusion, "sides", counted)
    model, mask = editor(size=size), torch.cat([box(40, 48), box(40, 48).flip(-1)])
    objective = DiffusionAttack(model, masks=masks).training(pictures(2, 40, 48), mask)
    shapes = [(40, 48), (20, 24), (40, 48), (20, 24), (21, 29), (40, 48)]
    for shape in shapes:
        objective.value_and_grad(pictures(2, *shape))
    assert len(made) == 3
    for number, (shape, told) in enumerate(zip(shapes, model.told, strict=True), 1):
        region = WorkingSize(size, 8).region(F.interpolate(mask, shape, mode="nearest"))
        generator = torch.Generator().manual_seed(FRESH + number)
        wanted = region if masks == "given" else unforeseen(region, sides(region), generator)
        assert torch.equal(told[2], wanted)


@pytest.mark.parametrize("kind", ["edit", "early"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_editors(count, kind, editor, pictures):
    x, models = pictures(2), [editor(4, 8, None, 0), editor(6, 4, 16, 1), editor(3, 16, None, 2)][:count]
    attack = DiffusionAttack(models, kind=kind, repeats=2, options=EditOptions(steps=2))
    out = immunize(x, attack=attack, steps=STEPS, mask=box(), recipe=RECIPES["diffusion", "fast"])
    assert (out.loss_final < out.loss_initial).all()
    assert out.gradient_evaluations.tolist() == [2 * STEPS] * 2  # of each model
    alone = [DiffusionAttack(model, kind=kind).objective(x, box()).loss(x) for model in models]
    torch.testing.assert_close(out.loss_initial, torch.stack(alone).mean(0))
    assert isinstance(attack.training(x), Balanced) is (count > 1)


@pytest.mark.parametrize("sizes", [[64], [64, 256], [None], [None, 64]])
def test_the_attacks_working_size_is_its_largest_models(sizes, editor):
    largest = None if None in sizes else max(sizes)
    models = [editor(size=size) for size in sizes]
    assert DiffusionAttack(models).size == largest
    assert Together([DiffusionAttack(model) for model in models]).size == largest


@pytest.mark.parametrize("kind", ["edit", "early"])
def test_an_editor_and_an_encoder_together(kind, editor, encoder, pictures):
    x, mask = pictures(2), box()
    painter = DiffusionAttack(editor(), kind=kind, repeats=3)
    reader = EncoderAttack(encoder(6, 4, None, 1))
    both = Together([painter, reader])
    out = immunize(x, attack=both, steps=STEPS, mask=mask, recipe=RECIPES["diffusion", "fast"])
    assert out.gradient_evaluations.tolist() == [STEPS * 3] * 2
    inside = mask.bool().expand_as(x)
    assert torch.equal(out.images[inside], x[inside])
    torch.testing.assert_close(
        out.loss_initial, (painter.objective(x, mask).loss(x) + reader.objective(x, mask).loss(x)) / 2
    )
    for attack in (painter, reader, both):  # both fall, though one slope is far steeper than the other
        objective = attack.objective(x, mask)
        assert (objective.loss(out.images) < objective.loss(x)).all()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", ["edit", "early"])
def test_views_of_any_size(kind, masked, editor, pictures):
    """A recipe with views shows the editor smaller pictures: target and region follow."""
    x = pictures(1, 40, 48)
    attack = DiffusionAttack(editor(size=32), "inverted", kind=kind, masks="random")
    out = immunize(x, attack=attack, steps=6, mask=box(40, 48) if masked else None, recipe=ROBUST)
    assert (out.images != x).any()
    assert out.loss_final.isfinite().all()
    assert out.gradient_evaluations.tolist() == [6]


def test_at_the_target_the_loss_is_zero_and_the_gradient_finite(pictures):
    class Copies:
        def edit(self, x, *_):
            return x

    x = pictures(1)
    for distance in ("squared", "norm"):
        loss, gradient = DiffusionAttack(Copies(), x, distance=distance).objective(x).value_and_grad(x)
        assert loss.max() < 1e-5
        assert gradient.isfinite().all()


def test_any_object_that_edits_will_do(editor, pictures):
    whole = editor()

    class Bare:
        edit = staticmethod(whole.edit)

    assert isinstance(Bare(), Edits)
    assert not isinstance(Bare(), Denoises)
    x = pictures(1, 10, 13)
    out = immunize(x, attack=DiffusionAttack(Bare()), steps=4)
    assert (out.loss_final < out.loss_initial).all()
    with pytest.raises(BadField, match="early needs models that denoise") as bad:
        plan_attack({"preset": "early"}, [Bare()])
    assert bad.value.field == "preset"


def plan_attack(fields: dict[str, str], models: list[object]) -> object:
    from service.contracts.catalog import load_models

    plan = make_plan({"method": "diffusion"} | fields, load_models())
    return make_attack(plan, models, RECIPES["diffusion", plan.preset], plan.target or "gray")


@pytest.mark.parametrize(
    ("fields", "steps", "gradient_steps"),
    [
        ({}, 4, 4),
        ({"preset": "paper"}, 4, 4),
        ({"denoising_steps": "9", "gradient_steps": "2"}, 9, 2),
        ({"denoising_steps": "2"}, 2, 2),
        ({"preset": "early", "prompt": "\n".join(PROMPTS)}, 4, 1),
        ({"preset": "photoguard", "masks": "random"}, 4, 4),
    ],
    ids=str,
)
def test_the_attack_of_a_plan(fields, steps, gradient_steps, editor):
    attack, recipe = plan_attack(fields, [editor()]), RECIPES["diffusion", fields.get("preset", "fast")]
    assert isinstance(attack, DiffusionAttack)
    assert attack.options == EditOptions(
        steps=steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=gradient_steps
    )
    assert attack.prompts == (PROMPTS if "prompt" in fields else ("",))
    assert (attack.kind, attack.distance) == (recipe.kind, recipe.distance)
    assert attack.masks == fields.get("masks", "given")


def test_the_attack_of_a_plan_with_an_encoder(editor, encoder):
    assert isinstance(plan_attack({}, [editor(), encoder()]), Together)
    assert isinstance(plan_attack({}, [encoder(), editor()]), Together)
    assert isinstance(plan_attack({}, [editor(), editor()]), DiffusionAttack)
