"""Model, data and trainer of a configuration, created as ``vaekit fit`` creates them, without a run."""

from __future__ import annotations

from typing_extensions import override

from vaekit.cli.fit import VaekitCLI
from vaekit.cli.run_parser import with_config
from vaekit.exceptions import CheckpointError
from vaekit.models import VAE
from vaekit.models.checkpoint import read_checkpoint
from vaekit.models.parameter_groups import match_precision


class InstantiateOnlyCLI(VaekitCLI):
    """Command line that stops before the run."""

    writes = False

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass


def instantiate(arguments: list[str], checkpoint: str | None = None) -> InstantiateOnlyCLI:
    """Create the model, data and trainer of a configuration.

    Parameters
    ----------
    arguments : list of str
        Flags of ``vaekit fit``.
    checkpoint : str, optional
        Checkpoint with the weights of the model, and with its configuration if the arguments do not name one.
        None: the weights are initialized as at the start of a run.

    Raises
    ------
    ConfigError
        If the configuration cannot be used, or is missing.
    CheckpointError
        If the checkpoint cannot be read, or does not fit the model.
    """
    cli = InstantiateOnlyCLI(["fit", *(arguments if checkpoint is None else with_config(arguments, checkpoint))])
    if checkpoint is None:
        cli.model.networks.init_from_data(cli.datamodule.statistics, cli.datamodule.draw_training)
    else:
        load_weights(cli.model, checkpoint)
    return cli


def load_weights(model: VAE, path: str) -> None:
    """Load the weights of a checkpoint into a model; its estimators may be others than in the run.

    Raises
    ------
    CheckpointError
        If the weights do not fit.
    """
    try:
        weights = read_checkpoint(path)["state_dict"]
        match_precision(model, weights)
        result = model.load_state_dict(weights, strict=False)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: the weights do not fit the model of the configuration: {error}") from error
    keys = (*result.missing_keys, *result.unexpected_keys)
    if different := [key for key in keys if "estimator" not in key.split(".")]:
        raise CheckpointError(
            f"{path}: the weights do not fit the model of the configuration: only one of them has "
            f"{', '.join(different[:4])}."
        )
