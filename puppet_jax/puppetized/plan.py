"""Which weights of a model are generated, and in which order."""

import dataclasses
from typing import Any

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Generated:
    """A weight that is generated: a kernel, or a stack of kernels as `nnx.scan` runs them.

    Attributes:
        paths: of the parameter: one, or several of modules that share it.
        shape: as the model holds it.
        dtype: likewise.
        hwio: (kh, kw, c_in, c_out) of a kernel, for the generator: the window folded into two axes; a matrix is
            (1, 1, inputs, outputs).
        stack: number of kernels, which lie one behind the other in the trajectory.
        lookup: whether rows are looked up, as in `nnx.Embed`, and not summed.
    """

    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: Any
    hwio: tuple[int, int, int, int]
    stack: int = 1
    lookup: bool = False

    @property
    def name(self) -> str:
        """Paths as code writes them."""
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
        self.altered: set[int] = set()  # used by something other than a convolution
        self.seen: set[Any] = set()


def name_of(path: Path) -> str:
    """The path of a parameter as code writes it, without the last part where that is "kernel"."""
    return ".".join(map(str, path[:-1] if path[-1] == "kernel" else path)) or "the model itself"
