"""``vaekit evaluate``: how good a trained model is on held-out data."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.seed import seed
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from vaekit.models import VAE


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit evaluate",
        description="Evaluate a trained model on held-out data: the evidence lower bound, the importance-sampled "
        "log-likelihood with its standard error over observations and the effective sample size, all in nats a cell "
        "or image; the units and codes in use; the agreement of codes (or k-means clusters) with labels.",
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("--split", choices=("train", "val", "test", "all"), help="part of the training data (test)")
    made.add_argument("--data.path", dest="path", metavar="FILE.h5ad", help="evaluate all cells of this file instead")
    made.add_argument(
        "--data.layer",
        dest="layer",
        help="its layer with the counts ('raw' for .raw, 'X' for .X); default: as in training",
    )
    made.add_argument("--data.batch_key", dest="batch_key", help="its column with the batch; default: as in training")
    made.add_argument(
        "--data.label_key", dest="label_key", help="its column with labels; default: as in training, if there"
    )
    made.add_argument("--data.batch_size", dest="batch_size", type=int, default=128, help="observations at a time")
    made.add_argument("--num_samples", type=int, default=1000, help="importance samples an observation (1000)")
    made.add_argument("--seed", type=seed, default=0, help="seed of the samples (0)")
    made.add_argument("--json", action="store_true", help="end with the figures as one line of JSON")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    if options.num_samples < 1 or options.batch_size < 1:
        raise DataError(
            f"--num_samples is {options.num_samples} and --data.batch_size {options.batch_size}; at least 1"
        )
    silence_libraries()

    import torch
    from tqdm.auto import tqdm

    from vaekit.diagnostics import evaluate_model
    from vaekit.models import load

    model = load(options.checkpoint)
    batches, source = held_out(model, options)
    torch.manual_seed(options.seed)
    evaluation = evaluate_model(model, tqdm(batches, desc="evaluating", unit="batch"), options.num_samples)
    print(report(evaluation, source))
    if options.json:
        print(json.dumps(evaluation.to_dict()))


def held_out(model: VAE, options: argparse.Namespace) -> tuple[DataLoader, str]:
    """Return the batches to evaluate, and what they are in words."""
    from torch.utils.data import DataLoader

    from vaekit.analysis import get_data_registry, load_training_data, prepare_query
    from vaekit.analysis.query import obs_of
    from vaekit.data.dataset import identity_collate

    if options.path is None:
        for name in ("layer", "batch_key", "label_key"):
            if getattr(options, name) is not None:
                raise DataError(
                    f"--data.{name} is given without --data.path; the training data are read as in training"
                )
        data = load_training_data(model)
        split = options.split or "test"
        return data.dataloader(split, options.batch_size), f"{data.source}, {split} split"
    label_key = options.label_key or get_data_registry(model)["config"]["init_args"].get("label_key")
    obs, source = obs_of(options.path)
    if options.label_key is None and label_key not in obs:
        label_key = None
    query = prepare_query(model, options.path, options.layer, options.batch_key, label_key)
    if options.split is not None:
        raise DataError(
            f"--split {options.split} is a part of the training data; with --data.path all cells of {source} are "
            "evaluated: leave one of them out"
        )
    return DataLoader(query.dataset, batch_size=options.batch_size, collate_fn=identity_collate), f"{source}, all cells"


def report(evaluation: Any, source: str) -> str:
    """Return the figures as lines for people."""
    likelihood, use, found = evaluation
    count = len(likelihood.elbo)
    rows = [
        ("data", f"{source}: {count} observations"),
        ("ELBO", f"{likelihood.elbo.mean().item():.3f} nats"),
        (
            "log-likelihood",
            f"{likelihood.mean():.3f} nats, standard error {likelihood.standard_error():.3f} over observations"
            if count > 1
            else f"{likelihood.mean():.3f} nats",
        ),
        ("importance samples", f"{likelihood.num_samples}, effective {likelihood.ess.mean().item():.1f}; "
                               f"Monte Carlo error of the mean {likelihood.monte_carlo_error():.3f}"),
    ]  # fmt: skip
    if use.units:
        rows.append(("active units", f"{use.active_units} of {use.units}"))
    for name, usage in use.code_usage.items():
        entropy = -(usage * usage.clamp_min(1e-12).log()).sum(-1).mean().item()
        used = use.used_codes(name)
        why = "" if used else ", as its probabilities depend little on the data"
        rows.append((f"code {name}", f"{used} of {usage.numel()} states in use{why}; perplexity of the mean "
                                     f"probabilities {math.exp(entropy):.1f}"))  # fmt: skip
    if found is not None:
        rows.append(
            (f"{found.clusters} and labels", f"ARI {found.ari:.3f}, NMI {found.nmi:.3f}, accuracy {found.accuracy:.3f}")
        )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
