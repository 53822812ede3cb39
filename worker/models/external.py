"""Anybody's encoder from a Python file, for benchmarks: `FILE.py:NAME`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from service.contracts.errors import BadField
from worker.models.abilities import Encodes


def load_python(address: str) -> Encodes:
    """The object `NAME` of `FILE.py`, called if it is a class or a function. It must have `encode(x)`.

    The file is run: only ever give one of your own.
    """
    path, _, name = address.rpartition(":")
    file = Path(path)
    if not name or file.suffix != ".py" or not file.is_file():
        raise BadField(f"encoder: {address!r} is not FILE.py:NAME with an existing file", field="encoder")
    module_name = f"external_{file.stem}"  # so that a file called random.py does not become everybody's random
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    finished = isinstance(found, Encodes) and not isinstance(found, type)  # a module object can be called too
    made = found() if callable(found) and not finished else found
    if not isinstance(made, Encodes):
        raise BadField(f"encoder: {name} in {file.name} has no encode(x)", field="encoder")
    return made
