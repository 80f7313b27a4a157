"""``vaekit embed``: latents of cells, written into an .h5ad file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.atomic import written
from vaekit.cli.cells import add, cells_of, write_h5ad, written_copy
from vaekit.cli.output import quiet
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = argparse.ArgumentParser(
        "vaekit embed",
        description="Write the latents of cells into a copy of their .h5ad file: posterior means of the continuous "
        'latents in obsm["X_vaekit"], each discrete latent in obs["vaekit_NAME"] with its probabilities in '
        'obsm["vaekit_NAME_probabilities"], where they come from in uns["vaekit"]. Genes are matched by name.',
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("data", metavar="DATA.h5ad", nargs="?", help="cells; without it, those the model was trained on")
    made.add_argument("-o", "--output", metavar="OUT.h5ad", required=True, help="file to write")
    made.add_argument("--layer", help="layer with the counts ('raw' for .raw, 'X' for .X); default: as in training")
    made.add_argument("--batch_key", help="column of obs with the batch; default: as in training")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.h5ad if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    output = Path(options.output)
    check_output(output, options.data, options.overwrite)
    quiet()

    from vaekit.analysis import latent_fields, query_for
    from vaekit.models import load

    model = load(options.checkpoint)
    source, layer = cells_of(model, options.checkpoint, options.data, options.layer)
    query = query_for(model, source, layer, options.batch_key)
    fields = latent_fields(query, model, progress=True, checkpoint=str(options.checkpoint))
    with written_copy(query, output) as file:
        for place, values in fields._asdict().items():
            add(file, place, values)
    shape = list(fields.obsm["X_vaekit"].shape)
    codes = "".join(f', obs["{key}"] ({codes.categories.size} codes in use)' for key, codes in fields.obs.items())
    print(f'wrote {output}: {shape[0]} cells, obsm["X_vaekit"] {shape}{codes}')


def check_output(output: Path, data: str | None, overwrite: bool) -> None:
    """Raise an error if writing ``output`` would lose something, or cannot work; before any long work.

    Raises
    ------
    DataError
        If it is the input, exists, or its folder does not or cannot be written to.
    """
    if data is not None and output.exists() and Path(data).exists() and output.samefile(data):
        raise DataError(f"the output {output} is the input: choose another name, the input is never changed")
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists: choose another name, or pass --overwrite")
    if not output.parent.is_dir():
        raise DataError(f"the folder {output.parent} of the output does not exist")
    if not os.access(output.parent, os.W_OK):
        raise DataError(f"the folder {output.parent} of the output cannot be written to")


def write_atomically(adata: AnnData, output: Path) -> None:
    """Write an .h5ad file under a temporary name and rename it, so that no half-written file is left.

    Raises
    ------
    OutputError
        If it cannot be written: on a full disk say, or as it holds what .h5ad files cannot.
    """
    with written(output) as temporary:
        write_h5ad(adata, temporary, output)
