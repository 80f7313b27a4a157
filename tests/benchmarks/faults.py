"""What is lost when something goes wrong: killed trainings, full disks, hostile and broken files.

  python tests/benchmarks/faults.py            20 trainings killed, and all other faults (about 10 minutes)
  python tests/benchmarks/faults.py --quick    2 trainings killed, and all other faults

A training is a separate process, of `vaekit fit` with a shipped configuration cut short. It is killed by SIGKILL
after a random time, continues by `vaekit fit --ckpt_path last` (or, where killed before its first checkpoint, begins
again), and its weights at the end are compared, bit by bit, with those of a run that was left alone. A checkpoint
is written every 5 steps here, so that some kills fall into its writing, and almost all into the middle of an epoch.
Pictures are omitted, to save time. The processes are forked from one that has imported everything already.

The table reports the fault or input, what happened, and what was lost; the last line holds the same as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"

import pytorch_lightning  # noqa: F401  (before the processes are forked)
import torch
import yaml
from fault_inputs import Result, run_all
from tqdm.auto import tqdm

import vaekit.callbacks
import vaekit.cli.fit
from vaekit.cli.main import main as vaekit_main

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = {"digits_gaussian": 20, "pbmc_mixed": 30}  # and epochs
EVERY = 5  # steps from one checkpoint to the next
START = 0.2  # seconds that a process takes before it trains, at least


def start(arguments: list[str], log: Path) -> int:
    """Begin a process of ``vaekit`` with its output in a file; return its number."""
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        status = vaekit_main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(process: int, seconds: float | None = None) -> int | None:
    """Return a process's exit status (a negative one is a signal's), or None if it still runs after some seconds."""
    end = None if seconds is None else time.perf_counter() + seconds
    while end is None or time.perf_counter() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def configuration(name: str, epochs: int, folder: Path) -> Path:
    """Write a shipped configuration, cut short and with many checkpoints."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    checkpoints = {"class_path": "vaekit.callbacks.RunCheckpoint", "init_args": {"every_n_steps": EVERY}}
    config["trainer"] |= {
        "max_epochs": epochs,
        "callbacks": [checkpoints],
        "logger": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train(config: Path, folder: Path, *more: str) -> int:
    """Begin a run; return the process."""
    arguments = ["fit", "--config", str(config), "--trainer.default_root_dir", str(folder), *more]
    return start(arguments, folder.with_suffix(".log"))


def finish(process: int, folder: Path) -> None:
    """Wait for a run, which must end well."""
    status = wait(process)
    if status != 0:
        raise SystemExit(f"a training ended with status {status}:\n{folder.with_suffix('.log').read_text()[-3000:]}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run's last checkpoint."""
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def kill_one(config: Path, folder: Path, seconds: float, after: float) -> dict[str, Any]:
    """Kill a run after some of the seconds it takes, let it continue, and return what was there to continue from."""
    while True:
        process = train(config, folder)
        if wait(process, after) is None:
            os.kill(process, signal.SIGKILL)
            wait(process)
            break
        after *= 0.7  # it was over already: the machine has become faster
    last = folder / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    parts = len(list(folder.glob(".*.part")))
    process = train(config, folder, *(["--ckpt_path", "last"] if last.exists() else []))
    finish(process, folder)
    left = [path.name for path in folder.glob(".*.part")]
    return {"killed_after": round(after / seconds, 3), "checkpoint_step": step, "while_writing": parts, "left": left}


def kills(count: int, quick: bool, folder: Path, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Kill trainings; return one record each, and how many ended with other weights."""
    generator = random.Random(seed)
    references: dict[str, tuple[Path, float, dict[str, torch.Tensor], int]] = {}
    for name, epochs in MODELS.items():
        config = configuration(name, max(3, epochs // 5) if quick else epochs, folder)
        begun = time.perf_counter()
        alone = folder / f"{name}_alone"
        finish(train(config, alone), alone)
        seconds = time.perf_counter() - begun
        steps = torch.load(alone / "last.ckpt", weights_only=True)["global_step"]
        references[name] = (config, seconds, weights(alone), steps)
    records = []
    for number in tqdm(range(count), desc="killing", unit="run", mininterval=5):
        name = list(MODELS)[number % len(MODELS)]
        config, seconds, expected, steps = references[name]
        own = folder / f"{name}_{number}"
        found = kill_one(config, own, seconds, generator.uniform(START, 0.95 * seconds))
        after = weights(own)
        difference = max((expected[key].double() - after[key].double()).abs().max().item() for key in expected)
        equal = all(expected[key].equal(after[key]) for key in expected) and expected.keys() == after.keys()
        records.append({"model": name, **found, "steps": steps, "equal": equal, "difference": difference})
    return records, sum(not record["equal"] for record in records)


def kill_lines(records: list[dict[str, Any]]) -> list[str]:
    """Return the table of killed trainings."""
    lines = [
        f"{'run':>3} {'model':<16} {'killed at':>9} {'last.ckpt':>15} {'writing':>7} {'max |difference|':>16}  lost"
    ]
    for number, record in enumerate(records, 1):
        where = f"step {record['checkpoint_step']}/{record['steps']}" if record["checkpoint_step"] else "none yet"
        lost = "nothing" if record["equal"] and not record["left"] else "THE WEIGHTS DIFFER"
        lines.append(
            f"{number:>3} {record['model']:<16} {record['killed_after']:>9.0%} {where:>15} "
            f"{'yes' if record['while_writing'] else 'no':>7} {record['difference']:>16.3g}  {lost}"
        )
    return lines


def input_lines(results: list[Result]) -> list[str]:
    """Return the table of the other faults."""
    width = max(len(result.fault) for result in results)
    lines = [f"{'fault or input':<{width}}  {'what happened':<92}  lost"]
    for result in results:
        happened = result.happened if len(result.happened) <= 92 else result.happened[:89] + "..."
        lines.append(f"{result.fault:<{width}}  {happened:<92}  {result.lost}")
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 killed trainings instead of 20")
    parser.add_argument("--runs", type=int, help="killed trainings")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vaekit.callbacks.FigureWriter.on_fit_end = lambda *_: None  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        records, different = kills(
            options.runs or (2 if options.quick else 20), options.quick, Path(folder), options.seed
        )
        results = run_all(Path(folder), start, wait)
    print("\n".join(kill_lines(records)))
    middle = sum(0 < r["checkpoint_step"] < r["steps"] for r in records)
    print(
        f"{len(records)} trainings killed, {middle} with a checkpoint to go on from, "
        f"{sum(bool(r['while_writing']) for r in records)} while one was written; "
        f"{len(records) - different} ended with the weights of one left alone, bit for bit\n"
    )
    print("\n".join(input_lines(results)))
    lost = different + sum(result.lost != "nothing" for result in results)
    print(
        json.dumps(
            {
                "kills": records,
                "kills_with_other_weights": different,
                "lost": lost,
                "inputs": [result._asdict() for result in results],
            }
        )
    )


if __name__ == "__main__":
    main()
