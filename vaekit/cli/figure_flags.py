"""Flags of the figures: ``--color`` and ``--figure`` become arguments of the run's FigureWriter, and so are saved."""

from __future__ import annotations

from jsonargparse import Namespace

from vaekit.callbacks.figure_writer import FigureWriter

WRITER = "vaekit.callbacks.FigureWriter"


def move_figure_flags(config: Namespace) -> None:
    """Remove the flags from a configuration of ``fit``, and set them as arguments of its FigureWriter."""
    flags = {name: value for name in ("color", "figure") if (value := config.pop(name, None))}
    if not flags:
        return
    callbacks = config.trainer.callbacks
    callbacks = [] if callbacks is None else callbacks if isinstance(callbacks, list) else [callbacks]
    names = (WRITER, f"{FigureWriter.__module__}.{FigureWriter.__name__}")
    writer = next((each for each in callbacks if each.class_path in names), None)
    if writer is None:
        writer = Namespace(class_path=WRITER, init_args=Namespace(dirpath=None, epochs=None))
        callbacks = [*callbacks, writer]
    for name, value in flags.items():
        writer.init_args[name] = value
    config.trainer.callbacks = callbacks
