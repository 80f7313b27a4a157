"""Facts about a run that its checkpoint contains, without its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vaekit._core.private_paths import find_directories, hide_directories
from vaekit.models import VAE
from vaekit.models.checkpoint import read_checkpoint
from vaekit.models.resume import run_content

History = Mapping[str, Sequence[tuple[float, float]]]
GENERIC_NAMES = ("last", "best")  # of checkpoints in a run directory


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run.

    Attributes
    ----------
    name : str
        Name of the run directory, or of the checkpoint.
    checkpoint : str
        Name of the checkpoint file; "" for a model in memory.
    epoch, step : int
        Number of epochs and of training steps.
    seed : int or None
        Seed of the training; None if it is not recorded.
    history : Mapping
        Points ``(epoch, value)`` by metric; empty if they are not recorded.
    record : Mapping
        State of :class:`vaekit.callbacks.RunRecord`; empty if the run did not have one.
    model, data : Mapping
        Configurations of the model and its data.
    is_best : bool
        Whether the checkpoint is that of the best validation, which is saved during the training.
    """

    name: str
    checkpoint: str
    epoch: int
    step: int
    seed: int | None
    history: History
    record: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    is_best: bool = False

    @property
    def warnings(self) -> list[str]:
        """Warnings of the run."""
        return list(self.record.get("warnings", ()))

    def shareable(self, text: str) -> str:
        """Return a text of the run without the directories of its author."""
        return hide_directories(text, self._directories)

    def shareable_command(self, command: Sequence[str]) -> list[str]:
        """Return the arguments of a command without directories."""
        return hide_directories(list(command), self._directories)

    @property
    def _directories(self) -> set[str]:
        return find_directories([self.data, self.record])

    @property
    def config(self) -> str:
        """The configuration as YAML, without directories: the complete one if it is recorded, else model and data."""
        config = self.record.get("config") or {"seed_everything": self.seed, "model": self.model, "data": self.data}
        return yaml.safe_dump(hide_directories(config, self._directories), sort_keys=False, allow_unicode=True)

    @property
    def has_config(self) -> bool:
        """Whether the complete configuration is recorded."""
        return bool(self.record.get("config"))

    @property
    def is_interrupted(self) -> bool:
        """Whether the checkpoint is the last one of a run that has not ended."""
        return bool(self.record) and not self.record["finished"] and not self.is_best

    @property
    def state(self) -> str:
        """State of the training in the checkpoint."""
        if self.is_best:
            return f"best validation, at step {self.step:,}"
        return "interrupted" if self.is_interrupted else "finished"


def read_run(model: VAE, checkpoint: str) -> RunFacts:
    """Return the facts about the run of a model.

    Parameters
    ----------
    model : VAE
        The model.
    checkpoint : str
        Path of its checkpoint; "" for a model in memory, whose trainer or record of :func:`vaekit.fit` is used.
    """
    content = read_checkpoint(checkpoint) if checkpoint else _trainer_content(model)
    callbacks = content.get("callbacks", {})
    arguments = dict(content["hyper_parameters"])
    path = Path(checkpoint)
    directory = path.absolute().parent.name
    return RunFacts(
        name=directory if path.stem in GENERIC_NAMES and directory else path.stem or type(model).__name__,
        checkpoint=path.name,
        epoch=content.get("epoch", 0),
        step=content.get("global_step", 0),
        seed=content.get("training", {}).get("seed_everything"),
        history=_find_state(callbacks, "FigureWriter").get("history", {}),
        record=_find_state(callbacks, "RunRecord"),
        model={"class_path": arguments.pop("_class_path"), "init_args": arguments},
        data=(content.get("data_registry") or {}).get("config", {}),
        is_best=path.stem != "last" and bool(_find_state(callbacks, "RunCheckpoint").get("is_best")),
    )


def _find_state(callbacks: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the state of a callback by the name of its class, with which its key begins."""
    return next((state for key, state in callbacks.items() if key.partition("{")[0] == name), {})


def _trainer_content(model: VAE) -> dict[str, Any]:
    """Return the parts of a checkpoint that :func:`read_run` needs, from the model's trainer or from its record."""
    trainer: Any = model._trainer
    run = model.run_content if trainer is None else run_content(trainer, trainer.callbacks)
    return {"hyper_parameters": dict(model.hparams), "data_registry": model.data_registry, **run}
