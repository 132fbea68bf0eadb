"""A page on which an image is dropped: its complexity, and the depth, the kernels and the answer that it gets.

    python -m experiments.explore [RUN ...] [--host HOST] [--port PORT]

RUN is the name of a model that comes with the package, a model file, or the folder of a run; the first two are shown
beside each other. A slider moves the complexity, and step, depth, kernels and classes follow. The page is served to
this computer alone, unless --host says otherwise, and asks nothing of other servers.
"""

import dataclasses
from typing import Annotated

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.explore`."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ("cifar10-adaptive",)
    """Models: names of those that come with the package, model files, or folders of runs."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets the whole network in, without a password."""
    port: int | None = None
    """Port to listen at; the first free one from 7860 if not given."""

    def __post_init__(self):
        """Refuses what is no port."""
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"--port must be in [1, 65535], got {self.port}.")


def explore(command: Command) -> None:
    """Carries out the command."""
    import os
    import signal
    import tempfile
    from pathlib import Path

    from experiments.devices import start_jax
    from experiments.errors import UsageError
    from experiments.explorer.images import write_examples

    check_address(command.host, command.port)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # gradio reads it when it is imported: what is dropped goes at the end
        try:
            from experiments.explorer.page import make_page, serve
        except ImportError as error:
            raise UsageError(f"the page needs gradio ({error}); run `pip install 'puppet-jax[explore]'`.") from None
        start_jax()
        page = make_page(command.runs, write_examples(Path(folder)))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the page ends in order, and its folder goes
        serve(page, command.host, command.port)


def check_address(host: str, port: int | None) -> None:
    """Raises a UsageError if nothing can listen at this address."""
    import socket

    from experiments.errors import UsageError

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise UsageError(
            f"nothing can listen at {where} ({error.strerror}); choose another --host or --port."
        ) from None


if __name__ == "__main__":
    main(run_command, Command, explore, "experiments.explore", __doc__)
