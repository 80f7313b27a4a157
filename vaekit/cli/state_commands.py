"""Command for the states of cells under several models, also for Python: ``vaekit.cli.state_commands.states(...)``.

The signature and docstring are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported inside
the function, so that the help of the command is fast.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.figure_formats import FigureFormat
from vaekit.cli.analysis_task import CELLS_OR_TABLE, start_task
from vaekit.cli.cell_results import open_result
from vaekit.exceptions import DataError

CELL_BYTES = 200  # approximate size of the fields of a cell


def states(
    runs: list[str],
    *,
    data: list[str] | None = None,
    output: str | Path,
    num_states: int | None = None,
    n_genes: int = 20,
    key_added: str = "vaekit_states",
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    color: list[str] | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Find states of cells on which models of several seeds agree.

    obs["vaekit_states"] contains the state of each cell, obsm["vaekit_states_probabilities"] the probabilities of the
    states, and uns["vaekit_states"] the tree of states, the agreement of the models, the stability of each state,
    marker genes at every level of the tree, and the provenance. A .csv file has a row per cell; a second one with the
    ending _markers.csv has the marker genes.

    Parameters
    ----------
    data, layer, batch_key, overwrite, color, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    runs : list of str
        Checkpoints of models of the same data with a Gaussian latent, trained with different seeds, or the directory of
        vaekit fit --seeds 3.
    output : str or Path
        .h5ad or .csv file to write. The figure has the same name with the ending .png.
    num_states : int, optional
        Number of states. None: the largest one at which the models agree.
    n_genes : int
        Number of marker genes per state.

    Other Parameters
    ----------------
    key_added : str
        Name in obs, obsm and uns.
    seed : int
        Seed of the samples of the latents.
    genes_in
        As for every command.

    Examples
    --------
    vaekit states RUN --data cells.h5ad -o states.h5ad
    """
    from vaekit._core.atomic import atomic_write
    from vaekit.analysis.state_search import find_states
    from vaekit.analysis.states import check_state_fields, load_models, state_provenance, warn_unstable
    from vaekit.cli.output_files import check_output

    check_seed(seed)
    check_minimum(1, n_genes=n_genes, num_states=num_states)
    checkpoints = find_checkpoints(runs)
    markers_file = Path(output).with_name(f"{Path(output).stem}_markers.csv")
    is_table = Path(output).suffix.lower() == ".csv"
    if is_table:
        check_output(markers_file, checkpoints, overwrite)
    task = start_task(
        checkpoints[0], data, output, CELLS_OR_TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite,
        others=checkpoints[1:], figure=figure,
    )  # fmt: skip
    columns = task.input.figure_columns(task.model, task.input.open(task.model), color, batch_key)
    models, _ = load_models(checkpoints)
    queries = [task.input.prepare(model, batch_key) for model in models]
    with open_result(task, queries[0], CELL_BYTES * len(queries[0].dataset)) as result:
        check_state_fields(result.fields, key_added)
        found = find_states(queries, models, num_states, n_genes, progress=True, seed=seed)
        provenance = state_provenance(found, queries, models, checkpoints)
        result.write({**found.fields(key_added), "uns": {key_added: provenance}})
    if is_table:
        with atomic_write(markers_file) as temporary:
            found.markers.to_csv(temporary, index=False)
        print(f"Wrote {markers_file}: {len(found.markers)} rows")
    warn_unstable(found)
    print(found.states.to_string())
    agreement = found.agreement.loc[found.agreement["chosen"], "agreement"].item()
    title = f"{task.title}: {len(found.states)} states"
    agreed = f"agreement of {len(models)} models {agreement:.2f}" if len(models) > 1 else "a single model, no agreement"
    summary = f"{len(found.codes)} cells, {len(found.states)} states, {agreed}"
    task.finish(lambda: found.plot(title, *columns), summary)


def find_checkpoints(runs: Sequence[str]) -> list[str]:
    """Return the checkpoints of runs: a file is one, and a directory of several seeds contains one per finished run.

    Raises
    ------
    DataError
        If a directory does not contain a finished run.
    """
    from vaekit.callbacks.run_archive import SEEDS_TABLE
    from vaekit.callbacks.run_directory import seed_directory

    checkpoints = []
    for run in runs:
        directory = Path(run).expanduser()
        if (directory / SEEDS_TABLE).is_file():
            with (directory / SEEDS_TABLE).open(newline="", encoding="utf-8", errors="replace") as file:
                seeds = sorted({int(row["seed"]) for row in csv.DictReader(file) if str(row.get("seed")).isdecimal()})
            found = [seed_directory(directory, number) / "last.ckpt" for number in seeds]
            checkpoints += [str(path) for path in found if path.is_file()]
            if not any(path.is_file() for path in found):
                raise DataError(
                    f"{run} does not contain a finished run. Continue them: vaekit fit ... --seeds 3 --ckpt_path last"
                )
        elif (directory / "last.ckpt").is_file():
            checkpoints.append(str(directory / "last.ckpt"))
        else:  # a file, or an exported model
            checkpoints.append(str(run))
    return checkpoints
