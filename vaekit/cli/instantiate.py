"""Model, data and trainer of a configuration, made as ``vaekit fit`` makes them, with nothing run."""

from __future__ import annotations

from vaekit.cli.fit import VaekitCLI, command_line
from vaekit.cli.short_commands import config_of
from vaekit.exceptions import CheckpointError, ConfigError
from vaekit.models import VAE
from vaekit.models.checkpoint import read_checkpoint
from vaekit.models.parameter_groups import match_precision


class InstantiateOnlyCLI(VaekitCLI):
    """A command line that stops before it would train."""

    writes = False

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def instantiate(arguments: list[str], checkpoint: str | None = None) -> InstantiateOnlyCLI:
    """Make what a configuration describes.

    Parameters
    ----------
    arguments
        Options of ``vaekit fit``.
    checkpoint
        Weights of the model; without a ``--config`` its configuration is taken as well. None: the model is as it
        would be at the start of its training.

    Raises
    ------
    ConfigError
        If the configuration cannot be used, or there is none.
    CheckpointError
        If the checkpoint cannot be read, or does not fit the model.
    """
    if "--config" not in {argument.partition("=")[0] for argument in arguments}:
        if checkpoint is None:
            raise ConfigError("which model? pass --config FILE.yaml, or --ckpt_path FILE.ckpt of a trained one")
        arguments = ["--config", config_of(checkpoint), *arguments]
    cli = command_line(["fit", *arguments], InstantiateOnlyCLI)
    assert isinstance(cli, InstantiateOnlyCLI)
    if checkpoint is None:
        cli.model.networks.init_from_data(cli.datamodule.statistics)
    else:
        load_weights(cli.model, checkpoint)
    return cli


def load_weights(model: VAE, path: str) -> None:
    """Give a model the weights of a checkpoint; its estimators may be others than in the training.

    Raises
    ------
    CheckpointError
        If the weights do not fit.
    """
    try:
        weights = read_checkpoint(path)["state_dict"]
        match_precision(model, weights)
        found = model.load_state_dict(weights, strict=False)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: its weights do not fit the model of the configuration: {error}") from error
    keys = (*found.missing_keys, *found.unexpected_keys)
    if wrong := [key for key in keys if "estimator" not in key.split(".")]:
        raise CheckpointError(
            f"{path}: its weights do not fit the model of the configuration: {', '.join(wrong[:4])} in one of them only"
        )
