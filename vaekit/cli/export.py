"""``vaekit export``: a trained model as safetensors and JSON."""

from __future__ import annotations

from pathlib import Path

from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.overwriting import refuse_inputs


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit export",
        description="Write a trained model as model.safetensors (weights) and model.json (arguments, names of the "
        "data): formats that can hold no code. The folder can be given to evaluate, embed and the other commands, and "
        "to vaekit.load, in the place of a checkpoint; it does not hold what is needed to train on.",
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("-o", "--output", metavar="FOLDER", required=True, help="folder to write; new, or empty")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    refuse_inputs(Path(options.output), (options.checkpoint,), directory=True)
    silence_libraries()

    from vaekit.models import load
    from vaekit.models.checkpoint import read_checkpoint
    from vaekit.models.export import DESCRIPTION, TENSORS, export

    model = load(options.checkpoint)  # what cannot be loaded is not exported
    folder = export(read_checkpoint(options.checkpoint), options.output)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {folder}: {TENSORS} ({count} weights of a {model.hparams['_class_path']}), {DESCRIPTION}")
