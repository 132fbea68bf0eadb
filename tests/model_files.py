"""Model files read and written without the library, for tests of it."""

import json

import pytest
from helpers import signed
from safetensors import safe_open
from safetensors.numpy import save_file

import puppet_jax as pj


def contents(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["puppet_jax"])


def rewrite(path, change=lambda arrays, description: None):
    """The file with other contents, as someone else would write it."""
    arrays, description = contents(path)
    before = description.get("sha256")
    change(arrays, description)
    if before is not None and description.get("sha256") == before:
        description = signed(description, arrays)
    save_file(arrays, path, metadata={"puppet_jax": json.dumps(description)})


def refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        pj.load_pretrained(path)
    assert str(path) in str(error.value)


def parent(description, field):
    *parents, last = field.split(".")
    for name in parents:
        description = description[name]
    return description, last
