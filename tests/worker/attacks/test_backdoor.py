"""The run-time backdoor on small victims of every kind: an inpainter, an editor with words and noise, an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from service.contracts.catalog import METHODS, load_models
from service.contracts.errors import BadField
from service.contracts.plan import make_plan
from worker import BackdoorAttack as Public
from worker.attacks.backdoor import BLANK, DRAWS, FRESH, LOSSES, MEASURED, WEIGHTS, BackdoorAttack
from worker.attacks.together import stages
from worker.core.budget import Linf
from worker.core.objective import Balanced
from worker.core.pgd import Outcome
from worker.core.target import target_picture
from worker.core.trigger import expanded, incomplete, without
from worker.core.view import WorkingSize, resize
from worker.immunization import immunize, make_attack
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions, Edits, Encodes
from worker.recipes import RECIPES, ROBUST

PRESETS = {preset.name: preset for preset in METHODS["backdoor"].presets}
FAST, PAPER = RECIPES["backdoor", "fast"], RECIPES["backdoor", "paper"]
PICTURE = torch.rand((1, 3, 11, 45), generator=torch.Generator().manual_seed(9))
TARGETS = {"farthest": "farthest", "inverted": "inverted", "gray": "gray", "noise": "noise", "picture": PICTURE}
STEPS = 8
HEIGHT, WIDTH = 32, 40


class Inpainter(nn.Module):
    """Fills the hole with a network's picture of what is around it; blind inside. `told`: what each call was given."""

    def __init__(self, size: int | None = None, multiple: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.size, self.multiple = size, multiple
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(4, 12, 9, padding=4), nn.Tanh(), nn.Conv2d(12, 12, 9, padding=4), nn.Tanh(),
                nn.Conv2d(12, 3, 9, padding=4), nn.Sigmoid(),
            )  # fmt: skip
        self.requires_grad_(False)
        self.told: list[tuple[Tensor, Tensor, list[str], list[int], EditOptions, bool]] = []

    def edit(
        self,
        x: Tensor,
        mask: Tensor | None,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        assert mask is not None
        assert mask.shape == (len(x), 1, *x.shape[-2:])
        assert x.shape[-2] % self.multiple == x.shape[-1] % self.multiple == 0
        assert x.min() >= 0
        assert x.max() <= 1
        seeds = [generator.initial_seed() for generator in generators]
        self.told.append((x.detach(), mask, list(prompts), seeds, options, x.requires_grad))
        context = (x * 4 - 2) * (1 - mask)
        return x * (1 - mask) + self.layers(torch.cat([context, mask], 1)) * mask


VICTIMS = ("inpainter", "editor", "encoder")


@pytest.fixture
def victim(editor, encoder):
    """victim(kind, size): a fresh model."""

    def made(kind: str, size: int | None = None) -> object:
        return Inpainter(size) if kind == "inpainter" else {"editor": editor, "encoder": encoder}[kind](size=size)

    return made


def box(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


def run(
    attack: BackdoorAttack, x: Tensor, mask: Tensor | None, steps: int = STEPS, recipe=FAST, **named: object
) -> Outcome:
    named = {"budget": Linf(6 / 255), "seed": 3} | named
    return immunize(x, attack=attack, steps=steps, mask=mask, recipe=recipe, **named)


def alone(model: object, loss: str, x: Tensor, mask: Tensor, images: Tensor, **named: object) -> Tensor:
    """One loss of `images`, on the draws that are reported."""
    with torch.no_grad():
        return BackdoorAttack(model, losses=[loss], weights={loss: 1.0}, **named).objective(x, mask).loss(images)


def levels(images: Tensor, x: Tensor) -> Tensor:
    return ((images - x) * 255).round().abs().amax((1, 2, 3))


def test_it_is_in_the_python_face():
    assert Public is BackdoorAttack


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("kind", VICTIMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_against_every_victim(preset, kind, size, victim, pictures):
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), victim(kind, size)
    attack = BackdoorAttack(model)
    out = run(attack, x, mask, recipe=RECIPES["backdoor", preset], budget=Linf(PRESETS[preset].epsilon / 255))
    assert (out.loss_final < out.loss_initial).all()
    assert torch.equal((out.images * 255).round() / 255, out.images)
    assert (levels(out.images, x) > 0).all()
    assert (levels(out.images, x) <= PRESETS[preset].epsilon).all()
    assert out.gradient_evaluations.tolist() == [STEPS] * 2
    objective = attack.objective(x, mask)
    torch.testing.assert_close(out.loss_final, objective.loss(out.images))
    torch.testing.assert_close(out.loss_initial, objective.loss(x))


@pytest.mark.parametrize("kind", VICTIMS)
@pytest.mark.parametrize("loss", ["implant", "incomplete"])
def test_a_loss_alone_lowers_what_it_is_for(loss, kind, victim, pictures):
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), victim(kind)
    out = run(BackdoorAttack(model, losses=[loss]), x, mask, steps=16)
    assert (alone(model, loss, x, mask, out.images) < alone(model, loss, x, mask, x) * 0.995).all()


@pytest.mark.parametrize("kind", VICTIMS)
def test_hide_alone_undoes_what_a_random_start_does(kind, victim, pictures):
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), victim(kind)
    attack = BackdoorAttack(model, losses=["hide"])
    begun = run(attack, x, mask, steps=0)
    out = run(attack, x, mask, steps=48)
    assert torch.equal(out.loss_initial, torch.zeros(2))
    assert (out.loss_final < begun.loss_final * 0.95).all()


@pytest.mark.parametrize("kind", VICTIMS)
def test_hide_keeps_the_edits_of_the_surroundings(kind, victim, pictures):
    """Which the others alone would move as well."""
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), victim(kind)
    with_it = run(BackdoorAttack(model), x, mask, steps=16).images
    without_it = run(BackdoorAttack(model, losses=["implant", "incomplete"]), x, mask, steps=16).images
    assert (alone(model, "hide", x, mask, with_it) < alone(model, "hide", x, mask, without_it)).all()
    for images in (with_it, without_it):
        assert (alone(model, "implant", x, mask, images) < alone(model, "implant", x, mask, x)).all()


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", VICTIMS)
def test_the_losses_are_the_papers(kind, target, size, victim, pictures):
    """Equations 4, 6 and 8, the mean over what is edited; of an encoder over its latents."""
    x, mask, model = pictures(2, 40, 48), box(40, 48), victim(kind, size)
    view = WorkingSize(size, model.multiple)
    goal = view(resize(PICTURE, (40, 48)).clamp(0, 1) if target == "picture" else target_picture(target, x)).clamp(0, 1)
    trigger = view.region(mask)
    moved = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)

    def made(images: Tensor, region: Tensor, number: int) -> Tensor:
        seen, region = view(images).clamp(0, 1), region.expand(2, -1, -1, -1)
        if kind == "encoder":
            return model.encode(seen * (1 - region) + BLANK * region)
        return model.edit(seen, region, [""] * 2, [torch.Generator().manual_seed(FRESH + number) for _ in x])

    def mean_square(error: Tensor, region: Tensor) -> Tensor:
        region = torch.ones_like(error[:1, :1]) if kind == "encoder" else region
        return (error * region).square().sum((1, 2, 3)) / (region.sum() * error.shape[1])

    goal = model.encode(goal) if kind == "encoder" else goal
    wanted = {loss: torch.zeros(2) for loss in LOSSES}
    for number in MEASURED:
        part = incomplete(expanded(trigger), number, trigger)
        rest = without(part, trigger)
        wanted["implant"] += mean_square(made(moved, trigger, number) - goal, trigger) / len(MEASURED)
        wanted["incomplete"] += mean_square(made(moved, part, number) - goal, part) / len(MEASURED)
        wanted["hide"] += mean_square(made(moved, rest, number) - made(x, rest, number), rest) / len(MEASURED)
    for loss in LOSSES:
        torch.testing.assert_close(alone(model, loss, x, mask, moved, target=TARGETS[target]), wanted[loss])
    total = BackdoorAttack(model, TARGETS[target]).objective(x, mask).loss(moved)
    torch.testing.assert_close(total, sum(WEIGHTS[loss] * wanted[loss] for loss in LOSSES))


def test_the_paper_weighs_hide_twice():
    assert WEIGHTS == {"implant": 1, "incomplete": 1, "hide": 2}


@pytest.mark.parametrize("losses", [("implant",), ("hide", "implant"), ("incomplete",), LOSSES])
def test_losses_can_be_left_out_and_weighed(losses, pictures):
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), Inpainter()
    moved = 1 - x
    each = {loss: alone(model, loss, x, mask, moved) for loss in LOSSES}
    chosen = BackdoorAttack(model, losses=losses).objective(x, mask)
    torch.testing.assert_close(chosen.loss(moved), sum(WEIGHTS[loss] * each[loss] for loss in losses))
    heavier = BackdoorAttack(model, losses=losses, weights={losses[0]: 5.0}).objective(x, mask)
    weights = WEIGHTS | {losses[0]: 5.0}
    torch.testing.assert_close(heavier.loss(moved), sum(weights[loss] * each[loss] for loss in losses))


@pytest.mark.parametrize("losses", [(), ("explode",), ("implant", "Hide"), "implant"])
def test_losses_that_are_none_are_refused(losses):
    with pytest.raises(ValueError, match="take some of implant, incomplete, hide"):
        BackdoorAttack(Inpainter(), losses=losses)


def test_a_loss_that_is_left_out_costs_no_edit(pictures):
    x = pictures(1, HEIGHT, WIDTH)
    for losses, passes in ((("implant",), 1), (("implant", "incomplete"), 2)):
        model = Inpainter()
        BackdoorAttack(model, losses=losses).training(x, box()).value_and_grad(x)
        assert len(model.told) == passes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(32, 40), (3, 50), (70, 33), (9, 9)])
def test_every_target_and_shape(shape, target, pictures):
    x, mask = pictures(2, *shape), torch.zeros(1, 1, *shape)
    mask[..., : shape[0] // 2, : shape[1] // 2] = 1
    out = run(BackdoorAttack(Inpainter(size=32), TARGETS[target]), x, mask)
    assert out.images.shape == x.shape
    assert (levels(out.images, x) <= 6).all()
    assert (out.loss_final < out.loss_initial).all()


def test_a_target_that_is_none_is_refused(pictures):
    with pytest.raises(ValueError, match="no target picture called 'pink'"):
        run(BackdoorAttack(Inpainter(), "pink"), pictures(1, HEIGHT, WIDTH), box())


@pytest.mark.parametrize("kind", ["inpainter", "editor"])
def test_clean_edits_are_made_once_a_draw(kind, victim, pictures, monkeypatch):
    """As many as there are draws, without a graph, however many steps follow; and every step takes three edits more."""
    x, model, graphs = pictures(2, HEIGHT, WIDTH), victim(kind), []
    edit = model.edit
    monkeypatch.setattr(model, "edit", lambda seen, *rest: graphs.append(seen.requires_grad) or edit(seen, *rest))
    objective = BackdoorAttack(model).training(x, box())
    assert not graphs
    for step in range(1, 3 * DRAWS + 1):
        objective.value_and_grad(x)
        assert graphs.count(True) == 3 * step
        assert graphs.count(False) == min(step, DRAWS)


def test_the_targets_latents_are_made_once(victim, pictures, monkeypatch):
    x, model, counts = pictures(2, HEIGHT, WIDTH), victim("encoder"), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda seen: counts.append(len(seen)) or encode(seen))
    objective = BackdoorAttack(model, "gray").training(x, box())
    assert counts == [1]
    for _ in range(2):
        objective.value_and_grad(x)
    assert counts == [1, *[2] * 8]


def test_measured_draws_are_not_among_the_optimised(victim, pictures):
    x, model = pictures(2, HEIGHT, WIDTH), victim("editor")
    run(BackdoorAttack(model, losses=["implant", "incomplete"]), x, box(), steps=2 * DRAWS)
    seeds = [told[4] for told in model.told]
    assert all(len(set(of_the_batch)) == 1 for of_the_batch in seeds)
    numbers = [of_the_batch[0] - FRESH for of_the_batch in seeds]
    measured = [number for number in MEASURED for _ in range(2)]
    assert numbers[:4] == numbers[-4:] == measured
    assert numbers[4:-4] == [number for number in range(DRAWS) for _ in range(2)] * 2
    assert not set(MEASURED) & set(range(DRAWS))


@pytest.mark.parametrize("count", [1, 3, 8, 9, 10, 12, 32])
def test_every_prompt_is_optimised(count, victim, pictures):
    x, model = pictures(1, HEIGHT, WIDTH), victim("editor")
    prompts = [f"{number} cats" for number in range(count)]
    attack = BackdoorAttack(model, losses=["implant"], prompts=prompts)
    objective = attack.training(x, box())
    for _ in range(max(count, DRAWS)):
        objective.value_and_grad(x)
    assert {words for told in model.told for words in told[3]} == set(prompts)
    assert not {told[4][0] - FRESH for told in model.told} & set(MEASURED)


def test_edits_are_those_that_were_asked_for(victim, pictures):
    x, model, options = pictures(1, HEIGHT, WIDTH), victim("editor"), EditOptions(steps=3, guidance=2, gradient_steps=1)
    run(BackdoorAttack(model, options=options, prompts=["a cat"]), x, box(), steps=2)
    assert all(told[3] == ["a cat"] and told[5] is options for told in model.told)


def test_every_cut_is_shown(pictures):
    x, mask, model = pictures(1, HEIGHT, WIDTH), box(), Inpainter()
    objective = BackdoorAttack(model, losses=["incomplete"]).training(x, mask)
    for _ in range(2 * DRAWS):
        objective.value_and_grad(x)
    shown = [told[1] for told in model.told]
    wanted = [incomplete(expanded(mask), number, mask) for number in range(DRAWS)]
    assert all(torch.equal(one, other) for one, other in zip(shown, wanted * 2, strict=True))


def test_an_encoder_sees_the_edited_region_blanked(victim, pictures):
    x, mask, model = pictures(2, HEIGHT, WIDTH), box(), victim("encoder")
    objective = BackdoorAttack(model, losses=["implant"]).objective(x, mask)
    inside = mask.bool().expand_as(x)
    loss, gradient = objective.value_and_grad(x)
    assert not gradient[inside].any()
    assert gradient[~inside].any()
    assert torch.equal(objective.loss(torch.where(inside, 1 - x, x)), loss)


def test_a_model_that_encodes_and_edits_is_attacked_in_its_edits(victim, pictures):
    model = victim("editor")
    assert isinstance(model, Encodes)
    assert isinstance(model, Edits)
    run(BackdoorAttack(model), pictures(1, HEIGHT, WIDTH), box(), steps=1)
    assert {told[0] for told in model.told} == {"edit"}


def test_any_object_that_edits_will_do(pictures):
    whole = Inpainter(multiple=8)

    class Bare:
        edit = staticmethod(whole.edit)

    assert isinstance(Bare(), Edits)
    out = run(BackdoorAttack(Bare()), pictures(1, 30, 45), box(30, 45))
    assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("kind", VICTIMS)
def test_the_gradient_at_the_input_is_not_zero(kind, size, loss, victim, pictures):
    x, model = pictures(2, HEIGHT, WIDTH), victim(kind, size)
    objective = BackdoorAttack(model, losses=[loss]).training(x, torch.cat([box(), box().flip(-1)]))
    moved = (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for _ in range(DRAWS):
        loss_there, gradient = objective.value_and_grad(moved)
        assert loss_there.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.ne(0).float().mean((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", VICTIMS)
def test_the_perturbation_lies_inside_the_trigger_too(kind, preset, victim, pictures):
    x, mask = pictures(2, HEIGHT, WIDTH), box()
    out = run(BackdoorAttack(victim(kind)), x, mask, recipe=RECIPES["backdoor", preset])
    inside, moved = mask.bool().expand_as(x), out.images != x
    assert moved[inside].float().mean() > 0.3
    assert moved[~inside].float().mean() > 0.3


def test_a_budgets_own_region_holds(pictures):
    x, region = pictures(2, HEIGHT, WIDTH), torch.zeros(1, 1, HEIGHT, WIDTH)
    region[..., : WIDTH // 2] = 1
    out = run(BackdoorAttack(Inpainter()), x, box(), budget=Linf(6 / 255, region))
    assert torch.equal(out.images[..., WIDTH // 2 :], x[..., WIDTH // 2 :])
    assert (out.images != x).any()


@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("kinds", [("inpainter",), ("inpainter", "editor"), VICTIMS], ids="+".join)
def test_several_models(kinds, order, victim, pictures):
    x, mask, models = pictures(2, HEIGHT, WIDTH), box(), [victim(kind) for kind in kinds]
    attack, told = BackdoorAttack(models, order=order), []
    out = run(attack, x, mask, on_step=lambda *call: told.append(call[:2]))
    further = STEPS // 2 * (len(models) - 1) if order == "sequential" else 0
    assert out.gradient_evaluations.tolist() == [STEPS + further] * 2
    assert told == [(step, STEPS + further) for step in range(1, STEPS + further + 1)]
    assert (levels(out.images, x) <= 6).all()
    for model in models:  # each falls
        assert (alone(model, "implant", x, mask, out.images) < alone(model, "implant", x, mask, x)).all()
    each = [BackdoorAttack(model).objective(x, mask).loss(x) for model in models]
    torch.testing.assert_close(out.loss_initial, torch.stack(each).mean(0))
    made = stages(attack, x, mask)
    assert len(made) == (len(models) if order == "sequential" else 1)
    assert isinstance(made[0], Balanced) is (len(models) > 1 and order == "parallel")


def test_a_steep_model_does_not_drown_the_others_in_parallel(pictures):
    class Steep(Inpainter):
        def edit(self, x, *rest):
            return super().edit(x, *rest) * 100

    x, mask, gentle = pictures(1, HEIGHT, WIDTH), box(), Inpainter(seed=1)
    out = run(BackdoorAttack([Steep(), gentle]), x, mask, steps=16)
    assert (alone(gentle, "implant", x, mask, out.images) < alone(gentle, "implant", x, mask, x)).all()


@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("masked", ["one for all", "one each"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_pictures_result_does_not_depend_on_those_beside_it(preset, masked, order, victim, pictures):
    """But for the last bit of a convolution, which a sign may turn into one grid level."""
    x, mask = pictures(3, HEIGHT, WIDTH), box()
    if masked == "one each":
        mask = torch.cat([box(), box().flip(-1), box()])
        mask[2, :, :20, :30] = 1

    def attack() -> BackdoorAttack:
        return BackdoorAttack([Inpainter(), victim("editor")], prompts=["a cat", ""], order=order)

    together = run(attack(), x, mask, recipe=RECIPES["backdoor", preset])
    for index in range(3):
        own = mask if len(mask) == 1 else mask[index : index + 1]
        single = run(attack(), x[index : index + 1], own, recipe=RECIPES["backdoor", preset])
        torch.testing.assert_close(single.loss_final[0], together.loss_final[index], rtol=1e-3, atol=1e-5)
        assert (single.images[0] != together.images[index]).float().mean() < 0.01


@pytest.mark.parametrize("kind", VICTIMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_bytes(preset, kind, victim, pictures):
    x, recipe = pictures(1, HEIGHT, WIDTH), RECIPES["backdoor", preset]
    attack = BackdoorAttack(victim(kind))
    first, again = (run(each, x, box(), recipe=recipe).images for each in (attack, BackdoorAttack(victim(kind))))
    assert torch.equal(first, again)
    assert torch.equal(first, run(attack, x, box(), recipe=recipe).images)  # an attack keeps nothing of a run
    other = run(attack, x, box(), recipe=recipe, seed=4).images
    assert torch.equal(first, other) is (not recipe.random_start)


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alive):
        ctx.alive, ctx.counted = alive, x.requires_grad
        if ctx.counted:
            alive.append(alive[-1] + 1)
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        ctx.alive.append(ctx.alive[-1] - 1)
        return gradient, None


@pytest.mark.parametrize("count", [1, 2])
def test_one_edits_graph_is_alive_at_a_time(count, pictures):
    alive = [0]

    class Watching(Inpainter):
        def edit(self, x, *rest):
            return super().edit(_Watched.apply(x, alive), *rest)

    x = pictures(1, HEIGHT, WIDTH)
    BackdoorAttack([Watching() for _ in range(count)]).training(x, box()).value_and_grad(x)
    assert alive == [0] + [1, 0] * 3 * count


@pytest.mark.parametrize("shape", [(40, 48), (61, 90), (200, 30)])
@pytest.mark.parametrize("kind", VICTIMS)
def test_pictures_beyond_the_working_size(kind, shape, victim, pictures):
    """The model sees them reduced; the perturbation is at their own size."""
    x, mask, model = pictures(2, *shape), box(*shape), victim(kind, 24)
    seen = []
    name = "encode" if kind == "encoder" else "edit"
    method = getattr(model, name)
    setattr(model, name, lambda images, *rest: seen.append(tuple(images.shape[-2:])) or method(images, *rest))
    out = run(BackdoorAttack(model), x, mask, steps=12)
    view = WorkingSize(24, model.multiple)
    assert set(seen) == {tuple(view(x).shape[-2:])}
    assert out.images.shape == x.shape
    assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize("sizes", [[64], [64, 256], [None], [None, 64]])
def test_the_attacks_working_size_is_its_largest_models(sizes):
    assert BackdoorAttack([Inpainter(size) for size in sizes]).size == (None if None in sizes else max(sizes))


@pytest.mark.parametrize("kind", VICTIMS)
def test_views_of_any_size(kind, victim, pictures):
    """A recipe with views shows smaller pictures: they are brought back to their own size, where the trigger lies."""
    x = pictures(1, 40, 48)
    for order in ("parallel", "sequential"):
        attack = BackdoorAttack([victim(kind, 32), Inpainter(16)], "inverted", order=order)
        out = run(attack, x, box(40, 48), steps=6, recipe=ROBUST)
        assert (out.images != x).any()
        assert out.loss_final.isfinite().all()
        assert out.gradient_evaluations.tolist() == [6 if order == "parallel" else 9]


@pytest.mark.parametrize("kind", VICTIMS)
def test_without_a_mask_it_says_so(kind, victim, pictures):
    with pytest.raises(BadField, match="mask: the backdoor protects one region and needs it") as bad:
        run(BackdoorAttack(victim(kind)), pictures(1, HEIGHT, WIDTH), None)
    assert bad.value.field == "mask"


@pytest.mark.parametrize(("fill", "said"), [(0.0, "black everywhere"), (1.0, "covers the whole picture")])
@pytest.mark.parametrize("count", [1, 2])
def test_a_mask_with_which_nothing_can_be_done_is_refused(count, fill, said, pictures):
    """Also where it is one of several."""
    mask = torch.cat([box(), torch.full_like(box(), fill)])[-count:]
    with pytest.raises(BadField, match=f"mask: it.*{said}") as bad:
        run(BackdoorAttack(Inpainter()), pictures(2, HEIGHT, WIDTH), mask)
    assert bad.value.field == "mask"


def test_a_region_too_small_for_the_model_to_see_is_refused(pictures):
    x, mask = pictures(1, 400, 400), torch.zeros(1, 1, 400, 400)
    mask[..., 200, 200] = 1
    with pytest.raises(BadField, match="too small for the model to see"):
        run(BackdoorAttack(Inpainter(size=16)), x, mask)
    mask[..., 195:215, 195:215] = 1
    assert run(BackdoorAttack(Inpainter(size=16)), x, mask, steps=1).images.shape == x.shape


@pytest.mark.parametrize("kind", VICTIMS)
def test_a_trigger_with_nothing_around_it_is_protected_still(kind, victim, pictures):
    """All but a corner: its surroundings are that corner, in some cuts not even that."""
    x, mask = pictures(1, HEIGHT, WIDTH), torch.ones(1, 1, HEIGHT, WIDTH)
    mask[..., :2, :2] = 0
    out = run(BackdoorAttack(victim(kind)), x, mask, steps=DRAWS)
    assert out.loss_final.isfinite().all()
    assert (levels(out.images, x) <= 6).all()


def test_at_the_target_the_loss_is_zero_and_the_gradient_finite(pictures):
    class Copies:
        def edit(self, x, *_):
            return x

    x = pictures(1, HEIGHT, WIDTH)
    loss, gradient = BackdoorAttack(Copies(), x).training(x, box()).value_and_grad(x)
    assert loss.max() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {}),
        ({"preset": "paper"}, {}),
        ({"losses": "hide,implant", "order": "sequential"}, {"losses": ("implant", "hide"), "order": "sequential"}),
        ({"prompt": "a cat\na dog"}, {"prompts": ("a cat", "a dog")}),
        ({"denoising_steps": "9", "gradient_steps": "2"}, {"steps": (9, 2)}),
        ({"target": "inverted"}, {"target": "inverted"}),
    ],
    ids=str,
)
def test_the_attack_of_a_plan(fields, wanted, victim):
    plan = make_plan({"method": "backdoor", "models": "sdxl-vae"} | fields, load_models())
    recipe = RECIPES["backdoor", plan.preset]
    attack = make_attack(plan, [victim("encoder"), Inpainter()], recipe, plan.target)
    assert isinstance(attack, BackdoorAttack)
    steps, gradient_steps = wanted.get("steps", (4, 4))
    assert attack._options == EditOptions(
        steps=steps, guidance=recipe.guidance, eta=recipe.eta, gradient_steps=gradient_steps
    )
    assert attack._losses == wanted.get("losses", LOSSES)
    assert attack._order == wanted.get("order", "parallel")
    assert attack._prompts == wanted.get("prompts", ("",))
    assert attack._target == wanted.get("target", "farthest")
