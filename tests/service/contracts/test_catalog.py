"""The catalog: methods and presets, and the registry of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.contracts.catalog import DEFAULT_MODEL, KINDS, METHODS, load_models
from service.contracts.errors import BadField
from service.contracts.torchscript import inpaint_options

ENTRY = 'kind = "diffusers-vae"\nsource = "/somewhere"\n'
FILE = 'kind = "torchscript-inpaint"\nsource = "/some/where.pt"\n'
RANGES = "expected [0, 1], [-1, 1] or [0, 255]"
WRONG = {
    "not toml": ("[a\n", "is not TOML"),
    "unknown kind": ('[a]\nkind = "pickle"\nsource = "x"\n', "[a] kind 'pickle' is not one of diffusers-vae"),
    "unknown key": (f"[a]\n{ENTRY}colour = 1\n", "[a] colour:"),
    "no kind": ('[a]\nsource = "x"\n', "[a] kind:"),
    "no source": ('[a]\nkind = "diffusers-vae"\n', "[a] source:"),
    "empty source": ('[a]\nkind = "diffusers-vae"\nsource = ""\n', "[a] source:"),
    "name in capitals": (f"[Model]\n{ENTRY}", "[Model] name:"),
    "name with a comma": (f'["a,b"]\n{ENTRY}', "[a,b] name:"),
    "name given twice": (f'[a]\n{ENTRY}name = "b"\n', "[a] name:"),
    "outside a table": ('kind = "diffusers-vae"\n', "kind stands outside a [table]"),
    "size too small": (f"[a]\n{ENTRY}size = 4\n", "[a] size:"),
    "size a word": (f'[a]\n{ENTRY}size = "big"\n', "[a] size:"),
    "dtype": (f'[a]\n{ENTRY}dtype = "float8"\n', "[a] dtype:"),
    "steps": (f"[a]\n{ENTRY}steps = 0\n", "[a] steps:"),
    "guidance": (f"[a]\n{ENTRY}guidance = -1.0\n", "[a] guidance:"),
    "abilities of a kind that has its own": (f'[a]\n{ENTRY}abilities = ["edits"]\n', "are for kind python"),
    "options of a kind that takes none": (f"[a]\n{ENTRY}options = {{ width = 3 }}\n", "are for kind python"),
    "abilities of a torchscript file": (f'[a]\n{FILE}abilities = ["edits"]\n', "[a] abilities are for kind python"),
    "steps of a torchscript file": (f"[a]\n{FILE}steps = 4\n", "[a] steps and guidance are for kinds that are told"),
    "guidance of a torchscript file": (f"[a]\n{FILE}guidance = 4.0\n", "[a] steps and guidance are for"),
    "a repository without the file in it": (
        '[a]\nkind = "torchscript-inpaint"\nsource = "org/name"\n',
        "[a] subfolder names the file in a hub id's repository; a path begins with",
    ),
    **{
        f"torchscript options {options}": (f"[a]\n{FILE}options = {{ {options} }}\n", f"[a] {told}")
        for options, told in {
            "colour = 1": "options.colour: ",
            "range = [0, 2]": f"options.range: {RANGES}",
            "range = 1": f"options.range: {RANGES}",
            "range = [0, 1, 1]": f"options.range: {RANGES}",
            "output_range = [1, 0]": f"options.output_range: {RANGES}",
            'range = "[0, 1]"': f"options.range: {RANGES}",
            'mask = "white"': "options.mask: ",
            "mask = 1": "options.mask: ",
            "multiple = 0": "options.multiple: ",
            "multiple = 8.0": "options.multiple: ",
            "multiple = 2000": "options.multiple: ",
            'blank = "yes"': "options.blank: ",
            "random = 1": "options.random: ",
            "square = true": "options.square: say the size of these squares",
            "range = { low = 0 }": "options.range",
        }.items()
    },
    "squares that do not divide": (
        f"[a]\n{FILE}size = 72\noptions = {{ square = true, multiple = 32 }}\n",
        "[a] options.multiple: 32 does not divide the size 72",
    ),
    "python without abilities": ('[a]\nkind = "python"\nsource = "a.b:c"\n', "says what the model can do: abilities"),
    "an ability that is none": (
        '[a]\nkind = "python"\nsource = "a.b:c"\nabilities = ["flies"]\n',
        "[a] abilities.0:",
    ),
    **{
        f"python from {source!r}": (
            f'[a]\nkind = "python"\nsource = "{source}"\nabilities = ["edits"]\n',
            "package.module:factory",
        )
        for source in ("module", "/a/b.py:c", "a.b:c.d", "a b:c", ":c", "a:")
    },
    "not UTF-8": (b"\xff\xfe[a]", "is not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_where_and_why(case: str, tmp_path: Path) -> None:
    content, told = WRONG[case]
    file = tmp_path / "mine.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadField) as caught:
        load_models(file)
    assert caught.value.detail.startswith("models file: mine.toml")
    assert told in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadField, match="cannot be read"):
        load_models(tmp_path / name)


def test_the_shipped_registry_holds_the_default_model_and_only_known_kinds() -> None:
    models = load_models()
    assert DEFAULT_MODEL in models
    assert all(model.kind in KINDS and model.abilities and model.name == name for name, model in models.items())


def test_the_operators_file_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'[mine]\n{ENTRY}\n[{DEFAULT_MODEL}]\nkind = "diffusers-vae"\nsource = "/elsewhere"\n')
    models = load_models(file)
    assert set(models) == {*load_models(), "mine"}
    assert models[DEFAULT_MODEL].source == "/elsewhere"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kinds_abilities(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    own = 'source = "vendor.models:make"\nabilities = ["denoises", "edits"]' if kind == "python" else 'source = "/x"'
    file.write_text(f'[mine]\nkind = "{kind}"\n{own}\n', encoding="utf-8")
    abilities = load_models(file)["mine"].abilities
    assert abilities == (KINDS[kind] or ("denoises", "edits"))
    assert ("edits" in abilities) is (kind != "diffusers-vae")


@pytest.mark.parametrize(
    "lines",
    [
        FILE,
        f"{FILE}size = 512\ndtype = 'float16'\nlicence = 'MIT'\n",
        f"{FILE}options = {{ range = [-1, 1], output_range = [0.0, 255.0], mask = 'known', multiple = 1 }}\n",
        f"{FILE}size = 512\noptions = {{ square = true, blank = true, random = true }}\n",
        'kind = "torchscript-inpaint"\nsource = "org/name"\nsubfolder = "big-lama.pt"\n',
        'kind = "torchscript-inpaint"\nsource = "~/big-lama.pt"\n',
        'kind = "torchscript-inpaint"\nsource = "builtin:lama.pt"\n',
    ],
)
def test_torchscript_files(lines: str, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(f"[mine]\n{lines}", encoding="utf-8")
    model = load_models(tmp_path / "models.toml")["mine"]
    assert model.abilities == ("edits",)
    assert not model.takes_words
    assert all(model.takes_words for model in load_models().values() if model.kind != "torchscript-inpaint")


def test_the_conventions_of_a_torchscript_file_have_defaults() -> None:
    made = inpaint_options({}, None)
    assert (made.range, made.output_range, made.mask, made.multiple) == ((0, 1), None, "hole", 8)
    assert (made.square, made.blank, made.random) == (False, False, False)


def test_options_of_kind_python_may_be_lists(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    options = "options = { sizes = [1, 2], names = ['a'], share = 0.5, deep = true }"
    file.write_text(f"[mine]\nkind = 'python'\nsource = 'a.b:c'\nabilities = ['edits']\n{options}\n", encoding="utf-8")
    given = load_models(file)["mine"].options
    assert given == {"sizes": [1, 2], "names": ["a"], "share": 0.5, "deep": True}
    assert given["deep"] is True


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_can_be_asked_for_with_the_shipped_models(method) -> None:  # type: ignore[no-untyped-def]
    assert method.presets
    assert method.ability in load_models()[method.default_model].abilities
    assert len({preset.name for preset in method.presets}) == len(method.presets)
    for preset in method.presets:
        assert preset.epsilon > 0
        assert method.preset(preset.name) is preset
    assert method.preset(None) is method.presets[0]


def test_what_the_contract_promises_is_there() -> None:
    assert {"encoder", "diffusion", "backdoor", "noise"} <= set(METHODS)
    assert {"fast", "robust", "paper", "photoguard"} <= {preset.name for preset in METHODS["encoder"].presets}
    assert {"fast", "early", "paper", "photoguard"} <= {preset.name for preset in METHODS["diffusion"].presets}
    assert {"fast", "paper"} <= {preset.name for preset in METHODS["backdoor"].presets}
    for method in (METHODS["encoder"], METHODS["diffusion"], METHODS["backdoor"]):
        assert {"gray", "farthest", "inverted"} <= set(method.targets)


@pytest.mark.parametrize("field", ["denoising_steps", "gradient_steps", "repeats", "masks"])
def test_a_preset_says_what_its_method_takes(field: str) -> None:
    for method in METHODS.values():
        for preset in method.presets:
            assert (getattr(preset, field) is not None) is (field in method.takes), (method.name, preset.name)


def test_a_presets_numbers_go_together() -> None:
    for method in METHODS.values():
        for preset in method.presets:
            assert 1 <= (preset.gradient_steps or 1) <= (preset.denoising_steps or 1)
            assert (preset.repeats or 1) >= 1


def test_the_backdoor_alone_needs_a_mask() -> None:
    assert [method.name for method in METHODS.values() if method.needs_mask] == ["backdoor"]
    assert METHODS["backdoor"].also_alone
    assert {preset.epsilon for preset in METHODS["backdoor"].presets} == {6}  # the paper's
