"""The package as a user installs it: outside of the source tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOKE = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
import puppet_jax as pj

assert "site-packages" in pj.__file__ and pj.__version__ != "0.0.0"
print(pj.load_pretrained("cifar10-c64-4bit").predictor()(np.zeros((1, 32, 32, 3), np.uint8)).shape)
net = nnx.Sequential(nnx.Conv(3, 16, (3, 3), rngs=nnx.Rngs(0)), nnx.relu, nnx.Conv(16, 16, (3, 3), rngs=nnx.Rngs(1)))
x = jnp.ones((2, 8, 8, 3))
puppet = pj.puppetize(net, x, max_channels=8)
optimizer = nnx.Optimizer(puppet, optax.adam(1e-2), wrt=nnx.Param)

@nnx.jit
def step(puppet, optimizer):
    loss, grads = nnx.value_and_grad(lambda puppet: jnp.square(puppet(x) - 1).mean())(puppet)
    optimizer.update(puppet, grads)
    return loss

losses = [step(puppet, optimizer) for _ in range(5)]
assert losses[-1] < losses[0]
print("works")
"""


def test_importing_leaves_the_solver_and_the_pictures_alone():
    """They take as long to import as all the rest."""
    code = (
        "import sys, puppet_jax; print([m for m in ('diffrax', 'matplotlib', 'puppet_jax.extras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"puppet_jax"}
    assert any(name.endswith(".safetensors") for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_wheel_works_in_an_empty_environment(version, wheel, tmp_path):
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no python{version}")
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True)
    own = tmp_path / "env" / "bin" / "python"
    subprocess.run([own, "-m", "pip", "install", "-q", wheel], check=True)
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # those of the tests' own JAX
    done = subprocess.run([own, "-c", SMOKE], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(1, 10)", "works"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_the_readme_to_a_puppet_of_ones_own_in_five_commands(tmp_path):
    """What a newcomer types; `own.py` is the README's model, pasted."""
    (block,) = [
        text for text in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "class" in text
    ]
    (tmp_path / "own.py").write_text(block)
    commands = [
        f"git clone -q {ROOT} puppet",
        "python3 -m venv env",
        "env/bin/pip install -q ./puppet",
        "env/bin/python own.py",
    ]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    losses, shape = done.stdout.splitlines()
    losses = json.loads(losses)
    assert losses[-1] < losses[0] and shape == "(4, 10)"
