"""Which kernels of a model are generated, and in which order."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from flax import nnx

Path = tuple[Any, ...]
Where = Callable[[Path, nnx.Module], bool]


@dataclasses.dataclass(frozen=True)
class Generated:
    """A kernel that a puppeteer generates.

    Attributes:
        paths: of the convolutions that use it: one, or several that share it.
        shape: (*window, c_in / groups, c_out), as the convolution holds it.
        dtype: as the convolution held it.
    """

    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def hwio(self) -> tuple[int, int, int, int]:
        """The shape with the window's axes folded into two."""
        *window, c_in, c_out = self.shape
        return math.prod(window[:-1]), window[-1], c_in, c_out

    @property
    def name(self) -> str:
        """Paths of the convolutions."""
        return " = ".join(map(name_of, self.paths))

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


class Plan:
    """Which kernel is read from which step. Filled by the first trace, compared with by all later ones.

    One object for a puppetized model and all its copies (`nnx.split` and `nnx.merge` carry it along), so that they
    agree. It holds no arrays.
    """

    def __init__(self, kernels: tuple[Generated, ...]):
        self.kernels = kernels
        self.order: tuple[int, ...] | None = None
        self.zero: tuple[int, ...] = ()  # whose factors are `zero_gains`
        self.altered: set[int] = set()  # used by something other than a convolution
        self.seen: set[Any] = set()


def name_of(path: Path) -> str:
    """A path as code writes it."""
    return ".".join(map(str, path)) or "the model itself"
