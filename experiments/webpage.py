"""Makes a page that is a whole network: it downloads the weights, generates the kernels and classifies, in a browser.

    python -m experiments.webpage [RUN] --out FOLDER

RUN is the name of a model that comes with the package, a model file, or the folder of a run, of one depth. The page is
static: any server of files serves it, such as `python -m http.server --directory FOLDER`, and no picture leaves the
browser. The same model gives the same files.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import main, printable, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.webpage`."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = "cifar10-c64-4bit"
    """Model: a name of those that come with the package, a model file, or the folder of a run."""
    out: Path
    """Folder to write the page into; it is made if it is not there."""


def webpage(command: Command) -> None:
    """Carries out the command."""
    import json

    from experiments.runs.puppet import find_model, open_puppet
    from experiments.web.weights import check_puppet, describe, pack

    model = open_puppet(command.run)
    check_puppet(model)
    weights, tensors = pack(find_model(command.run), model)
    described = json.dumps(describe(model) | {"tensors": tensors})
    command.out.mkdir(parents=True, exist_ok=True)
    (command.out / "weights.bin").write_bytes(weights)
    (command.out / "model.js").write_text(f'"use strict";\nconst MODEL = {described};\n')
    for name in ("index.html", "network.js", "page.js"):
        (command.out / name).write_bytes((Path(__file__).parent / "web" / name).read_bytes())
    print(printable(f"{command.out / 'index.html'}: {len(weights):,} bytes of weights"))


if __name__ == "__main__":
    main(run_command, Command, webpage, "experiments.webpage", __doc__)
