"""Commands that evaluate or convert a trained model, also for Python: ``vaekit.cli.model_commands.evaluate(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any, Literal

from vaekit.cli.evaluation_report import (
    TRAINING_DATA,
    EvaluationData,
    evaluation_table,
    integration_table,
    integration_values,
    score_integration,
)
from vaekit.cli.output_files import load_model, reject_inputs
from vaekit.cli.values import check_minimum, check_seed


def evaluate(
    checkpoint: str | Path,
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    data: EvaluationData = TRAINING_DATA,
    num_samples: int = 1000,
    seed: int = 0,
    json: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained model on held-out data.

    Prints the ELBO, the log-likelihood by importance sampling with its standard error over observations, and the
    effective sample size, all in nats per cell or image; the active units and the codes in use; and the agreement of
    codes (or k-means clusters) with labels. For cells with labels, scib-metrics then scores how well the latents keep
    cell types apart and mix batches, next to PCA and Harmony, if it is installed: pip install "vaekit[metrics]".

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    split : str, optional
        Split of the training data: train, val, test or all. None: test, and all cells for the integration scores.
    data : EvaluationData
        Cells of a file, evaluated instead of the training data.
    num_samples : int
        Number of importance samples per observation.
    seed : int
        Seed of the samples.
    json : bool
        Print the results as one line of JSON, too.

    Returns
    -------
    dict
        The results by name.
    """
    import torch
    from tqdm.auto import tqdm

    from vaekit.diagnostics import evaluate_model

    check_seed(seed)
    check_minimum(1, **{"num_samples": num_samples, "data.batch_size": data.batch_size})
    model = load_model(checkpoint)
    evaluated = data.load(model, split)
    torch.manual_seed(seed)
    evaluation = evaluate_model(model, tqdm(evaluated.batches, desc="evaluating", unit="batch"), num_samples)
    print(evaluation_table(evaluation, evaluated.source))
    scores, line = score_integration(model, evaluated)
    if line:
        print(line)
    if scores is not None:
        print(integration_table(scores))
    results = {**evaluation.to_dict(), "integration": integration_values(scores)}
    if json:
        print(json_format.dumps(results))
    return results


def export(checkpoint: str | Path, *, output: str | Path) -> None:
    """Write a trained model as model.safetensors (weights) and model.json (arguments and names of the data).

    These formats cannot contain code. All commands for a trained model, and vaekit.load, accept the directory as a
    checkpoint. Training cannot be resumed from it.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    output : str or Path
        Directory to write, new or empty.
    """
    from vaekit.models.checkpoint import read_checkpoint
    from vaekit.models.export import DESCRIPTION, TENSORS
    from vaekit.models.export import export as write_export

    reject_inputs(Path(output), (checkpoint,), allow_directory=True)
    model = load_model(checkpoint)  # a model that cannot be loaded is not exported
    directory = write_export(read_checkpoint(checkpoint), output)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"Wrote {directory}: {TENSORS} ({num_weights} weights of a {model.hparams['_class_path']}), {DESCRIPTION}")
