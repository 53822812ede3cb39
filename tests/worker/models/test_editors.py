"""Every family of editors against diffusers' own pipeline, and what we add to it: gradients, memory, kept texts."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from tests.worker.models.families import FAMILIES
from worker.models import pipelines
from worker.models.abilities import Decodes, Denoises, EditOptions, Edits, Encodes
from worker.models.pool import Pool

CPU = torch.device("cpu")
PROMPTS = ["a red cat on grass", "a dog"]
STEPS = 3
OPTIONS = EditOptions(steps=STEPS, guidance=3.0)
MASKED = [name for name, family in FAMILIES.items() if family.mask_channels]
STOCK = [name for name, family in FAMILIES.items() if family.stock]


def generators(count=2, first=0):
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


@pytest.fixture(scope="module")
def load(pipeline_folder):
    """load(family, **fields): the editor of such an entry, by the ordinary path."""
    kept = {}

    def loaded(name, **fields):
        key = name, *fields.items()
        if key not in kept:
            family = FAMILIES[name]
            folder = str(pipeline_folder(family.folder))
            kept[key] = Pool({"some": Model(name="some", kind=family.kind, source=folder, **fields)}, CPU).get("some")
        return kept[key]

    return loaded


@pytest.fixture(scope="module")
def stock(pipeline_folder):
    """stock(family, **options): diffusers' own pipeline of that class on the same folder."""
    kept = {}

    def loaded(name):
        if name not in kept:
            family = FAMILIES[name]
            maker = getattr(importlib.import_module("diffusers"), family.stock)
            kept[name] = maker.from_pretrained(pipeline_folder(family.folder), low_cpu_mem_usage=False)
            kept[name].set_progress_bar_config(disable=True)
        return kept[name]

    return loaded


@pytest.fixture
def x(pictures):
    return pictures(2, 32, 48)


@pytest.fixture
def mask():
    """Two regions, each in whole cells of the latents and in whole patches of the transformers."""
    made = torch.zeros(2, 1, 32, 48)
    made[0, :, :16, 16:32] = 1
    made[1, :, 16:, :32] = 1
    return made


def asked(name, x, mask, options):
    """What a caller of the stock pipeline would say."""
    family, height, width = FAMILIES[name], x.shape[-2], x.shape[-1]
    given = {"prompt": PROMPTS, "image": x, "generator": generators(), "output_type": "pt"}
    given |= {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    if family.kind == "diffusers-inpaint":
        given |= {"mask_image": mask, "height": height, "width": width}
    if name in ("SD 3 img2img", "FLUX img2img"):
        given |= {"height": height, "width": width}
    if name == "FLUX Kontext":
        given |= {"height": height, "width": width, "max_area": height * width, "_auto_resize": False}
    return given | {key: getattr(options, key) for key in ("strength",) if getattr(options, key) is not None}


def gradient(value, leaf):
    (found,) = torch.autograd.grad(value.square().sum(), leaf)
    assert found.isfinite().all()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_an_editor_has_every_ability(name, load):
    editor = load(name)
    assert all(isinstance(editor, ability) for ability in (Encodes, Decodes, Denoises, Edits))
    assert editor.multiple == FAMILIES[name].multiple
    assert editor.takes_mask == (FAMILIES[name].kind == "diffusers-inpaint")


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", STOCK)
def test_an_edit_is_what_diffusers_makes(name, guidance, load, stock, x, mask):
    options = replace(OPTIONS, guidance=guidance)
    region = mask if load(name).takes_mask else None
    made = load(name).edit(x, region, PROMPTS, generators(), options)
    wanted = stock(name)(**asked(name, x, mask, options)).images
    assert made.shape == x.shape
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)
    assert made.std() > 0.01


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_our_wide_pipeline_is_diffusers_own_where_that_runs(strength, eta, guidance, stock, x, mask):
    from worker.models.wide import WideInpaintPipeline

    theirs = stock("SD 1 inpaint")
    ours = WideInpaintPipeline(**theirs.components, requires_safety_checker=False)
    ours.set_progress_bar_config(disable=True)
    options = EditOptions(steps=STEPS, guidance=guidance, strength=strength)
    made, wanted = (
        pipeline(**asked("SD 1 inpaint", x, mask, options), eta=eta, return_dict=False)[0]
        for pipeline in (ours, theirs)
    )
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_at_the_input_is_not_zero(name, load, x, mask):
    x.requires_grad_()
    for ask in (load(name).edit, load(name).predict_noise):
        found = gradient(ask(x, mask, PROMPTS, generators(), OPTIONS), x)
        assert found.flatten(1).abs().amax(1).gt(1e-8).all()


@pytest.mark.parametrize("name", MASKED)
def test_what_is_painted_over_has_no_gradient(name, load, x, mask):
    x.requires_grad_()
    options = replace(OPTIONS, strength=1.0)
    for ask in (load(name).edit, load(name).predict_noise):
        found = gradient(ask(x, mask, PROMPTS, generators(), options), x)
        assert not (found * mask).any()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind == "diffusers-inpaint"])
def test_a_whole_picture_can_be_repainted(name, load, x):
    x.requires_grad_()
    for steps in (2, 3, 4, 5):
        made = load(name).edit(x, None, PROMPTS, generators(), EditOptions(steps=steps))
        assert made.shape == x.shape
        assert gradient(made, x).any()


@pytest.mark.parametrize("name", ["SD 1 img2img", "InstructPix2Pix", "FLUX img2img"])
def test_outside_the_region_a_picture_stays(name, load, x, mask):
    made = load(name).edit(x, mask, PROMPTS, generators(), OPTIONS)
    whole = load(name).edit(x, None, PROMPTS, generators(), OPTIONS)
    torch.testing.assert_close(made, x * (1 - mask) + whole * mask)


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_are_in_the_latents_shape(name, load, x, mask):
    editor = load(name)
    predicted = editor.predict_noise(x, mask, PROMPTS, generators(), OPTIONS)
    assert predicted.shape == editor.encode(x).shape
    assert torch.equal(predicted, editor.predict_noise(x, mask, PROMPTS, generators(), OPTIONS))


@pytest.mark.parametrize("name", FAMILIES)
def test_recomputing_changes_nothing(name, load, x, mask, pipeline_folder, monkeypatch):
    monkeypatch.setattr(pipelines, "RECOMPUTE", 0)
    family = FAMILIES[name]
    entry = Model(name="some", kind=family.kind, source=str(pipeline_folder(family.folder)))
    sparing = Pool({"some": entry}, CPU).get("some")
    x.requires_grad_()
    for method in ("edit", "predict_noise"):
        kept, again = (
            getattr(editor, method)(x, mask, PROMPTS, generators(), OPTIONS) for editor in (load(name), sparing)
        )
        torch.testing.assert_close(again, kept, rtol=0, atol=1e-5)
        wanted = gradient(kept, x)
        torch.testing.assert_close(gradient(again, x), wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_through_the_last_steps_alone(name, load, x, mask, monkeypatch):
    editor, graphs = load(name), []
    denoise = editor._denoise

    def watched(*args, **kwargs):
        graphs.append(torch.is_grad_enabled())
        return denoise(*args, **kwargs)

    monkeypatch.setattr(editor, "_denoise", watched)
    x.requires_grad_()
    whole = editor.edit(x, mask, PROMPTS, generators(), OPTIONS)
    calls = len(graphs)
    assert calls > 1
    assert all(graphs)
    wanted = gradient(whole, x)
    for last in range(1, calls + 1):
        graphs.clear()
        made = editor.edit(x, mask, PROMPTS, generators(), replace(OPTIONS, gradient_steps=last))
        torch.testing.assert_close(made, whole, rtol=0, atol=1e-6)
        assert graphs == [False] * (calls - last) + [True] * last
        found = gradient(made, x)
        assert found.any()
        if last == calls:
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_picture_depends_on_those_beside_it(name, load, x, mask):
    options = replace(OPTIONS, eta=0.5)
    for ask in (load(name).edit, load(name).predict_noise):
        both = ask(x, mask, PROMPTS, generators(), options)
        for index, prompt in enumerate(PROMPTS):
            own = slice(index, index + 1)
            alone = ask(x[own], mask[own], [prompt], generators(1, index), options)
            torch.testing.assert_close(both[own], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_counts(name, load, x, mask):
    first, second = (load(name).edit(x, mask, [told] * 2, generators(), OPTIONS) for told in PROMPTS)
    assert (first - second).abs().max() > 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_are_shifted_and_scaled(name, load, pipeline_folder, x):
    diffusers = importlib.import_module("diffusers")
    folder = pipeline_folder(FAMILIES[name].folder)
    editor = load(name)
    maker = diffusers.AutoencoderTiny if name == "wide inpaint" else diffusers.AutoencoderKL
    vae = maker.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        coded = vae.encode(x * 2 - 1)
    raw = coded.latents if name == "wide inpaint" else coded.latent_dist.mean
    wanted = (raw - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(editor.encode(x), wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        seen = vae.decode(raw).sample.add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(editor.decode(wanted), seen, rtol=1e-4, atol=1e-4)
    assert seen.shape == x.shape


@pytest.mark.parametrize("name", ["SD 1 inpaint", "SDXL inpaint", "SD 3 img2img", "FLUX img2img"])
def test_every_text_is_read_once(name, load, x, mask, pipeline_folder):
    family = FAMILIES[name]
    entry = Model(name="some", kind=family.kind, source=str(pipeline_folder(family.folder)))
    editor, read = Pool({"some": entry}, CPU).get("some"), {}
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        encoder = getattr(editor._pipeline, part, None)
        if encoder is not None:
            read[part] = []
            for module in encoder.modules():
                if getattr(module, "num_embeddings", None) == encoder.config.vocab_size:
                    module.register_forward_hook(lambda _, given, __, told=read[part]: told.extend(given[0].tolist()))
    for _ in range(2):
        editor.edit(x, mask, PROMPTS, generators(), OPTIONS)
        editor.edit(x, mask, PROMPTS[::-1], generators(), OPTIONS)
        editor.edit(x[:1], mask[:1], PROMPTS[:1], generators(1), OPTIONS)
    for texts in read.values():
        assert len(texts) in (len(PROMPTS), len(PROMPTS) + 1)  # and the empty one, for guidance
        assert len({tuple(text) for text in texts}) == len(texts)


def test_only_so_many_texts_are_kept(load, x, mask, monkeypatch):
    from worker.models import texts

    monkeypatch.setattr(texts, "KEPT", 2)
    editor = load("SD 1 inpaint")
    first = editor.predict_noise(x, mask, PROMPTS, generators(), OPTIONS)
    editor.predict_noise(x, mask, ["a", "b"], generators(), OPTIONS)
    editor.predict_noise(x, mask, ["c", "d"], generators(), OPTIONS)
    assert torch.equal(editor.predict_noise(x, mask, PROMPTS, generators(), OPTIONS), first)


@pytest.mark.parametrize(
    ("name", "fits", "longest"), [("SD 1 inpaint", 75, 77), ("SDXL inpaint", 75, 77), ("SD 3 inpaint", 200, 256)]
)
def test_a_prompt_that_is_too_long(name, fits, longest, load, x, mask):
    def ask(words):
        return load(name).predict_noise(x, mask, ["a " * words, ""], generators(), replace(OPTIONS, steps=2))

    assert ask(fits // 2).isfinite().all()
    beyond = longest - 2 + 3 if longest == 77 else (longest - 1 + 3) // 2 + 1
    with pytest.raises(BadField, match=f"tokens longer than the {longest} that some reads; shorten it") as bad:
        ask(beyond)
    assert bad.value.field == "prompt"
    assert bad.value.detail.startswith("prompt: 'a a a")


@pytest.mark.parametrize("name", ["SDXL inpaint", "SD 3 inpaint", "FLUX img2img"])
def test_editing_says_nothing(name, load, x, mask, caplog):
    """Not even of a prompt that only some of the text encoders read to its end."""
    words = 60 if name == "SDXL inpaint" else 100
    load(name).edit(x, mask, ["a " * words] * 2, generators(), OPTIONS)
    assert not caplog.records


@pytest.mark.parametrize(("height", "width"), [(36, 48), (32, 44)])
@pytest.mark.parametrize("name", ["SD 1 inpaint", "InstructPix2Pix", "FLUX img2img"])
def test_sides_that_do_not_divide(name, height, width, load, pictures):
    multiple = FAMILIES[name].multiple
    with pytest.raises(BadField, match=f"takes sides that divide by {multiple}, not {width}x{height}"):
        load(name).edit(pictures(2, height, width), None, PROMPTS, generators(), OPTIONS)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind != "diffusers-instruct"])
def test_a_strength_that_leaves_no_step(name, load, x, mask):
    strength = 0.4 if FAMILIES[name].multiple == 8 else 0.0  # transformers round the steps up
    with pytest.raises(BadField, match=f"steps: 2 at strength {strength:g} leave some no denoising step") as bad:
        load(name).edit(x, mask, PROMPTS, generators(), EditOptions(steps=2, strength=strength))
    assert bad.value.field == "steps"
    options = EditOptions(steps=2, strength=strength + 0.1)
    assert load(name).edit(x, mask, PROMPTS, generators(), options).isfinite().all()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind != "diffusers-instruct"])
def test_one_step_is_too_few_where_the_whole_picture_is_repainted(name, load, x):
    with pytest.raises(BadField, match="steps: some needs more than 1 of denoising here, since it skips") as bad:
        load(name).edit(x, None, PROMPTS, generators(), EditOptions(steps=1))
    assert bad.value.field == "steps"
    assert load(name).edit(x, None, PROMPTS, generators(), EditOptions(steps=4)).isfinite().all()


def test_a_first_step_that_does_not_see_the_picture(load, x, mask):
    x.requires_grad_()
    with pytest.raises(BadField, match="strength: at 1 some begins with noise alone") as bad:
        load("SD 1 as inpaint").predict_noise(x, mask, PROMPTS, generators(), replace(OPTIONS, strength=1.0))
    assert bad.value.field == "strength"


def test_the_entrys_steps_and_guidance_are_the_defaults(load, x, mask):
    told = load("SD 1 inpaint", steps=3, guidance=2.0).edit(x, mask, PROMPTS, generators())
    asked = load("SD 1 inpaint").edit(x, mask, PROMPTS, generators(), EditOptions(steps=3, guidance=2.0))
    torch.testing.assert_close(told, asked)


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision(name, load, x, mask):
    editor = load(name, dtype="bfloat16")
    x.requires_grad_()
    made = editor.edit(x, mask, PROMPTS, generators(), OPTIONS)
    assert made.dtype == torch.float32
    assert gradient(made, x).any()
    assert gradient(editor.predict_noise(x, mask, PROMPTS, generators(), OPTIONS), x).any()
    latents = editor.encode(x)
    assert F.cosine_similarity(latents.flatten(), load(name).encode(x).flatten(), dim=0) > 0.99
    assert editor.decode(latents).dtype == torch.float32
    own = torch.float32 if name == "SDXL inpaint" else torch.bfloat16
    assert {parameter.dtype for parameter in editor._pipeline.vae.parameters()} == {own}


def test_an_autoencoder_that_overflows_in_half_precision_is_read_in_float32(load):
    editor = load("SDXL inpaint", dtype="float16")
    assert {parameter.dtype for parameter in editor._pipeline.vae.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in editor._pipeline.unet.parameters()} == {torch.float16}
