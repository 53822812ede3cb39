"""Anybody's encoder from a Python file."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from service.contracts.errors import BadField
from worker.models.external import load_python

SOURCE = """
from dataclasses import dataclass

import torch


class Encoder:
    def encode(self, x):
        return x * 2


class Module(torch.nn.Module):
    def encode(self, x):
        return x * 2


@dataclass
class Data:
    scale: float = 2

    def encode(self, x):
        return x * self.scale


def make():
    return Encoder()


encoder, module = Encoder(), Module()
number = 3


def nothing():
    return None


class Decoder:
    def decode(self, x):
        return x
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "encoders.py"
    path.write_text(SOURCE)
    yield path
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(path)]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["Encoder", "Module", "Data", "make", "encoder", "module"])
def test_classes_functions_and_objects(name, file):
    assert torch.equal(load_python(f"{file}:{name}").encode(torch.ones(1)), torch.tensor([2.0]))


@pytest.mark.parametrize("name", ["number", "nothing", "Decoder", "absent"])
def test_what_cannot_encode_is_refused(name, file):
    with pytest.raises(BadField, match=f"{name} in encoders.py has no encode"):
        load_python(f"{file}:{name}")


@pytest.mark.parametrize(
    "address",
    ["", ":", "encoders.py", "encoders.py:", "{folder}:Encoder", "{folder}/none.py:Encoder", "{text}:Encoder"],
)
def test_what_is_no_address_is_refused(address, file, tmp_path):
    text = tmp_path / "encoders.txt"
    text.write_text(SOURCE)
    with pytest.raises(BadField, match=r"not FILE\.py:NAME"):
        load_python(address.format(folder=tmp_path, text=text))


def test_a_file_named_like_a_library_does_not_replace_it(tmp_path):
    (tmp_path / "json.py").write_text(SOURCE)
    load_python(f"{tmp_path}/json.py:Encoder")
    assert sys.modules["json"] is json
