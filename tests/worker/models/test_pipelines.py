"""Pipeline folders that are wrong, each with a sentence that says how, and odd ones that are right."""

from __future__ import annotations

import importlib
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contracts.catalog import Model, load_models
from service.contracts.errors import BadField, ImmunizeError, ModelMissing
from worker.models import folders, registry
from worker.models.abilities import EditOptions
from worker.models.pool import Pool

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


def entry(folder, kind="diffusers-inpaint", **fields):
    return Model(name="some", kind=kind, source=str(folder), **fields)


def loaded(folder, kind="diffusers-inpaint", **fields):
    return Pool({"some": entry(folder, kind, **fields)}, CPU).get("some")


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """copy(name): such a folder, to be changed."""
    return lambda name="sd1-inpaint": shutil.copytree(pipeline_folder(name), tmp_path / name)


def change(file, **values):
    content = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps(content), encoding="utf-8")


def pickled(part):
    def change(folder):
        (file,) = (folder / part).glob("*.safetensors")
        file.rename(file.with_suffix(".bin"))

    return change


MISSING = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "there is no model_index.json"),
    "an index that is no JSON": (
        lambda folder: (folder / "model_index.json").write_text("{"),
        "its model_index.json is not the index of a diffusers pipeline",
    ),
    "an index that is a list": (
        lambda folder: (folder / "model_index.json").write_text("[]"),
        "its model_index.json is not the index of a diffusers pipeline",
    ),
    "an index that is not text": (
        lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe"),
        "its model_index.json is not the index of a diffusers pipeline",
    ),
    "an index of an empty list": (
        lambda folder: change(folder / "model_index.json", vae=[]),
        "its model_index.json is not the index of a diffusers pipeline",
    ),
    "an index without a vae": (
        lambda folder: change(folder / "model_index.json", vae=[None, None]),
        "its model_index.json (StableDiffusionInpaintPipeline) names no vae with a unet or transformer",
    ),
    "a pickle for a unet": (pickled("unet"), "its unet is there as a pickle only, which can run code"),
    "a pickle for a text encoder": (pickled("text_encoder"), "its text_encoder is there as a pickle only"),
    "no text encoder": (lambda folder: shutil.rmtree(folder / "text_encoder"), "its text_encoder is missing"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "its tokenizer is missing"),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "its scheduler is missing"),
    "no unet's weights": (lambda folder: (folder / UNET).unlink(), "its unet holds no safetensors"),
    "a file for a unet": (
        lambda folder: (shutil.rmtree(folder / "unet"), (folder / "unet").write_text("")),
        "its unet is missing",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_folder_that_is_not_complete(case, copy, tmp_path):
    spoil, told = MISSING[case]
    folder = copy()
    spoil(folder)
    model = entry(folder)
    assert registry.locate(model) is None
    for ask in (registry.require, lambda model: Pool({"some": model}, CPU).get("some")):
        with pytest.raises(ModelMissing) as missing:
            ask(model)
        assert missing.value.detail.startswith("models: some is listed, but its weights are not here; ")
        assert told in missing.value.detail
        assert str(tmp_path) not in missing.value.detail
    assert told in registry.how_to_get(model)
    assert "put a diffusers folder (model_index.json and safetensors)" in registry.how_to_get(model)
    assert Pool({"some": model}, CPU).missing() == {"some": registry.how_to_get(model)}


@pytest.mark.parametrize("name", ["sd1-inpaint", "sd3", "flux", "wide"])
def test_a_lone_part_of_a_pipeline_is_none(name, pipeline_folder):
    with pytest.raises(ModelMissing, match="a lone autoencoder is kind diffusers-vae"):
        loaded(pipeline_folder(name) / "vae")


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("sd1-inpaint", "diffusers-instruct", "is a StableDiffusionInpaintPipeline, which takes no instructions"),
        ("flux", "diffusers-instruct", "is a FluxPipeline, which takes no instructions"),
        ("pix2pix", "diffusers-inpaint", "which is no diffusers-inpaint; its kind is diffusers-instruct"),
        ("pix2pix", "diffusers-img2img", "which is no diffusers-img2img; its kind is diffusers-instruct"),
        ("kontext", "diffusers-inpaint", "which is no diffusers-inpaint; its kind is diffusers-instruct"),
        ("sd1-inpaint", "diffusers-img2img", "takes 9 channels; as diffusers-img2img with 4 latent channels it would"),
        ("wide", "diffusers-img2img", "takes 17 channels; as diffusers-img2img with 8 latent channels it would take 8"),
    ],
)
def test_a_pipeline_of_another_kind(name, kind, told, pipeline_folder):
    with pytest.raises(BadField, match=r"^models: (the unet of )?some ") as bad:
        loaded(pipeline_folder(name), kind)
    assert told in bad.value.detail


def test_the_channels_must_fit_the_kind(copy):
    folder = copy("sd1")
    index = folder / "model_index.json"
    change(index, _class_name="StableDiffusionInstructPix2PixPipeline")
    with pytest.raises(
        BadField, match="takes 4 channels; as diffusers-instruct with 4 latent channels it would take 8"
    ):
        loaded(folder, "diffusers-instruct")
    folder = copy("pix2pix")
    change(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    with pytest.raises(BadField, match=r"takes 8 channels; as diffusers-inpaint .* it would take 4 or 9"):
        loaded(folder)


@pytest.mark.parametrize(
    "name", ["NoSuchPipeline", "WuerstchenCombinedPipeline", "NoSuchEditPipeline", None, ["a", "B"]]
)
@pytest.mark.parametrize("kind", ["diffusers-inpaint", "diffusers-instruct"])
def test_a_pipeline_that_nobody_knows(name, kind, copy):
    folder = copy()
    change(folder / "model_index.json", _class_name=name)
    with pytest.raises(BadField, match=r"^models: some "):
        loaded(folder, kind)


def shortened(file):
    file.write_bytes(file.read_bytes()[:-100])


def emptied(file):
    file.write_bytes(b"")


def garbled(file):
    file.write_bytes(b"\xff" * 64)


def other(file):
    """The weights of something else."""
    save_file({"conv_in.weight": torch.zeros(1)}, file)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("spoil", [shortened, emptied, garbled], ids=lambda spoil: spoil.__name__)
def test_weights_that_are_damaged(spoil, part, copy, tmp_path):
    folder = copy()
    for file in (folder / part).glob("*.safetensors"):
        spoil(file)
    with pytest.raises(ImmunizeError, match="some cannot be read: its files are damaged or do not fit together") as bad:
        loaded(folder)
    assert str(tmp_path) not in bad.value.detail


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"],
)
def test_configurations_that_are_damaged(file, copy):
    folder = copy()
    (folder / file).write_text("{")
    with pytest.raises(BadField, match="some cannot be read"):
        loaded(folder)
    assert torch.get_default_dtype() == torch.float32


def test_weights_of_another_network(copy):
    folder = copy()
    other(folder / UNET)
    with pytest.raises(BadField, match="some cannot be read"):
        loaded(folder)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_are_missing(part, copy):
    """They would be whatever the memory held."""
    folder = copy()
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.weight" if part == "unet" else "decoder.conv_out.weight"]
    save_file(weights, file)
    with pytest.raises(BadField, match="some cannot be read"):
        loaded(folder)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("unet", {"down_block_types": ["NoSuchBlock", "DownBlock2D"]}), ("text_encoder", {"hidden_act": "no such thing"})],
)
def test_a_network_that_cannot_be_built_leaves_the_process_as_it_was(part, wrong, copy):
    folder = copy()
    change(folder / part / "config.json", **wrong)
    with pytest.raises(BadField, match="some cannot be read"):
        loaded(folder, dtype="bfloat16")
    assert torch.get_default_dtype() == torch.float32


def test_memory_that_runs_out_is_no_damage(pipeline_folder, monkeypatch):
    diffusers = importlib.import_module("diffusers")

    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "from_pretrained", full)
    with pytest.raises(ImmunizeError, match="does not fit on the device"):
        loaded(pipeline_folder("sd1-inpaint"))


@pytest.mark.parametrize("spoil", [shortened, emptied, garbled, other], ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("name", ["sd1", "wide"])
def test_an_autoencoder_that_is_damaged(name, spoil, copy):
    folder = copy(name) / "vae"
    spoil(folder / folders.AUTOENCODER[0])
    with pytest.raises(BadField, match="some cannot be read: its files are damaged or do not fit together"):
        loaded(folder, "diffusers-vae")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"_class_name": "AutoencoderTiny"}'])
def test_an_autoencoder_whose_configuration_is_wrong(text, copy):
    folder = copy("wide") / "vae"
    (folder / "config.json").write_text(text)
    with pytest.raises(BadField, match=r"^models: some "):
        loaded(folder, "diffusers-vae")


def test_a_vae_that_no_editor_here_has(copy):
    from diffusers import AutoencoderKLQwenImage

    folder = copy("sd1")
    AutoencoderKLQwenImage(base_dim=8, z_dim=4).save_pretrained(folder / "vae")
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderKLQwenImage"])
    with pytest.raises(BadField, match="the vae of some is of class AutoencoderKLQwenImage; an editor is run with"):
        loaded(folder)


@pytest.mark.parametrize("size", [4, 60, 500])
def test_a_working_size_that_is_no_multiple_of_eight(size, tmp_path):
    file = tmp_path / "models.toml"
    file.write_text(f'[some]\nkind = "diffusers-inpaint"\nsource = "/somewhere"\nsize = {size}\n')
    with pytest.raises(BadField, match=r"^models file: models.toml: \[some\] size: "):
        load_models(file)


@pytest.fixture
def shown(pictures):
    """What an editor makes of a picture."""

    def made(editor):
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., 8:24, 8:24] = 1
        generators = [torch.Generator().manual_seed(0)]
        return editor.edit(pictures(1, 32, 32), mask, ["a dog"], generators, EditOptions(steps=2))

    return made


@pytest.mark.parametrize("name", ["sd1", "sdxl-inpaint", "flux"])
def test_a_folder_of_half_precision_alone(name, pipeline_folder, tmp_path, shown):
    """In float32 they are computed with as any others."""
    diffusers = importlib.import_module("diffusers")
    source = pipeline_folder(name)
    index = json.loads((source / folders.INDEX).read_text())
    maker = getattr(diffusers, index["_class_name"])
    whole = maker.from_pretrained(source, low_cpu_mem_usage=False)
    whole.to(torch.float16, silence_dtype_warnings=True).save_pretrained(tmp_path, variant="fp16")
    assert not any(file.name.count(".") == 1 for file in tmp_path.glob("*/*.safetensors"))
    half = loaded(tmp_path)
    assert {parameter.dtype for parameter in _parameters(half)} == {torch.float32}
    torch.testing.assert_close(shown(half), shown(loaded(source)), rtol=0, atol=0.03)


def test_full_precision_is_preferred_where_both_are_there(copy):
    folder = copy("flux")
    assert not folders.half(folder)
    size = folders.size(folder)
    for file in folder.glob("*/*.safetensors"):
        shutil.copy(file, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert not folders.half(folder)
    assert folders.size(folder) == size
    next((folder / "transformer").glob("*model.safetensors")).unlink()
    assert folders.half(folder)


def _parameters(editor):
    parts = [part for part in editor._pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [parameter for part in parts for parameter in part.parameters()]


@pytest.mark.parametrize(("name", "dtype"), [("sd1", "bfloat16"), ("sd1", "float16"), ("flux", "bfloat16")])
def test_every_network_is_in_the_entrys_precision(name, dtype, pipeline_folder):
    assert {str(parameter.dtype) for parameter in _parameters(loaded(pipeline_folder(name), dtype=dtype))} == {
        f"torch.{dtype}"
    }


def test_no_weight_asks_for_a_gradient(pipeline_folder):
    assert not any(parameter.requires_grad for parameter in _parameters(loaded(pipeline_folder("sdxl-inpaint"))))


def test_a_safety_checker_is_not_needed(copy, shown, pipeline_folder):
    folder = copy()
    change(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        requires_safety_checker=True,
    )
    torch.testing.assert_close(shown(loaded(folder)), shown(loaded(pipeline_folder("sd1-inpaint"))))


def test_a_text_encoder_left_out_of_the_index_is_not_missed(copy, shown):
    """Stable Diffusion 3 runs without its largest."""
    folder = copy("sd3")
    shutil.rmtree(folder / "text_encoder_3")
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    assert shown(loaded(folder)).isfinite().all()


def test_loading_says_nothing(pipeline_folder, capfd, caplog):
    before = [importlib.import_module(name).utils.logging.get_verbosity() for name in ("diffusers", "transformers")]
    with caplog.at_level(logging.INFO):
        loaded(pipeline_folder("sd1"))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    after = [importlib.import_module(name).utils.logging.get_verbosity() for name in ("diffusers", "transformers")]
    assert before == after
