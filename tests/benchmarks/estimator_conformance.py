"""Every unbiased estimator against exact gradients: each row of the conformance table in each position of a graph.

The cases are in tests/estimators/cases.py, judged to a finer precision than in the tests. One line of the table
is one estimator in one position, the worst of its cases; "mixture" has a different estimator on each node.

  alone       the node alone, one case for each kind of node that the estimator fits
  beside      with an independent node
  below       of a node that has a different estimator, where one fits
  above       of such a node
  in threes   cat->bern->gauss, gauss->bern->cat, and a vector with two children
  in chain    cat->bern->gauss->cat
  shared      drawn once for a batch of the node next to it, or below it
  joint       three joint samples, in the graphs of the last four positions
  numbers     components of gradients and values that were compared
  |z|         the largest over them, |estimate - exact| / standard error
  s.e.        the largest standard error, as a percentage of the norm of the gradient of its node's parameters
  replicates  independent estimates, of all cases together

Of so many numbers some lie beyond 4 standard errors by chance. A case with |z| >= 4 is judged again with other draws,
four times as many, and by these alone; the column "anew" counts such cases, with the |z| that was not kept. A case
whose standard error came out above the precision is drawn again with more draws, regardless of its z.

Exit status 1 if some |z| >= 4 or some standard error is above the precision. Progress goes to stderr, the table to
stdout, and the last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from estimators.cases import Case, Outcome, cases, judge
from estimators.conformance import TABLE
from estimators.zscore import THRESHOLD
from tqdm.auto import tqdm

POSITIONS = ("alone", "beside", "below", "above", "in threes", "in chain", "shared", "joint")
MIXTURE = "mixture"
LIMIT = 200_000_000


class Verdict(NamedTuple):
    """A case with its outcome.

    Attributes
    ----------
    numbers
        Components that were compared, the value included.
    outcome
        What counts.
    dropped
        The |z| that was judged again, or None.
    seconds
        Time taken.
    """

    case: Case
    numbers: int
    outcome: Outcome
    dropped: float | None
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Judge the cases and print the table."""
    options = read_arguments(arguments)
    started = time.perf_counter()
    chosen = [i for i, case in enumerate(cases()) if case.row in options.only and case.position in options.positions]
    verdicts = list(judge_all(chosen, options))
    lines = [line for row in options.only for position in POSITIONS if (line := summary(row, position, verdicts))]
    print_table(lines, options)
    failed = [v.case.id for v in verdicts if not passes(v.outcome, options.precision)]
    record = {
        "precision": options.precision,
        "cases": len(verdicts),
        "numbers": sum(v.numbers for v in verdicts),
        "largest_z": max((v.outcome.z for v in verdicts), default=None),
        "largest_error": max((v.outcome.error for v in verdicts), default=None),
        "judged_anew": [{"case": v.case.id, "dropped_z": v.dropped} for v in verdicts if v.dropped is not None],
        "failed": failed,
        "seconds": round(time.perf_counter() - started, 1),
        "rows": lines,
    }
    print(conclusion(record))
    print(json.dumps(record))
    return 1 if failed else 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = [row.name for row in TABLE if row.unbiased] + [MIXTURE]
    add("--quick", action="store_true", help="a smoke test: a standard error of 3 %%, alone and in chain only")
    add(
        "--precision",
        type=float,
        default=0.003,
        metavar="SHARE",
        help="largest standard error, as a share of the gradient's norm (0.003)",
    )
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"estimators: {', '.join(names)}")
    add("--processes", type=int, default=2, metavar="N", help="cases at a time, one thread each (2)")
    options = parser.parse_args(arguments)
    options.positions = POSITIONS
    if options.quick:
        options.precision, options.positions = max(options.precision, 0.03), ("alone", "in chain")
    if not 0 < options.precision < 1:
        parser.error(f"--precision is {options.precision}, it must lie between 0 and 1")
    if options.processes < 1:
        parser.error(f"--processes is {options.processes}, it must be at least 1")
    return options


def judge_all(chosen: list[int], options: argparse.Namespace) -> Iterator[Verdict]:
    """Judge the cases of these numbers."""
    tasks = [(number, options.precision) for number in chosen]
    bar = tqdm(total=len(tasks), desc="cases", unit="case", file=sys.stderr)
    if options.processes == 1:
        torch.set_num_threads(1)
        for task in tasks:
            yield _judge(task)
            bar.update()
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes, torch.set_num_threads, (1,)) as pool:
            for verdict in pool.imap(_judge_number, tasks):
                yield verdict._replace(case=cases()[verdict.case])
                bar.update()
    bar.close()


def _judge_number(task: tuple[int, float]) -> Verdict:
    """Return the verdict with the case's number in its place: a case holds functions, which do not travel."""
    return _judge(task)._replace(case=task[0])  # type: ignore[arg-type]


def _judge(task: tuple[int, float]) -> Verdict:
    number, precision = task
    case, started, dropped = cases()[number], time.perf_counter(), None
    outcome = judge(case, precision, limit=LIMIT)
    if outcome.error > precision:  # the pilot was small, or unlike the rest
        outcome = judge(case, 0.8 * precision**2 / outcome.error, attempt=2, limit=LIMIT)
    if outcome.z >= THRESHOLD:
        dropped, outcome = outcome.z, judge(case, precision / 2, attempt=1, limit=LIMIT)
    numbers = 1 + sum(p.numel() for p in case.graph.parameters().values())
    return Verdict(case, numbers, outcome, dropped, time.perf_counter() - started)


def passes(outcome: Outcome, precision: float) -> bool:
    """Return whether an outcome meets the criterion."""
    return outcome.z < THRESHOLD and outcome.error <= precision


def summary(row: str, position: str, verdicts: list[Verdict]) -> dict[str, Any] | None:
    """Return the figures of one line: the worst of the cases of this row in this position."""
    found = [v for v in verdicts if (v.case.row, v.case.position) == (row, position)]
    if not found:
        return None
    return {
        "estimator": row,
        "position": position,
        "cases": len(found),
        "numbers": sum(v.numbers for v in found),
        "z": max(v.outcome.z for v in found),
        "error": max(v.outcome.error for v in found),
        "replicates": sum(v.outcome.replicates for v in found),
        "dropped_z": [v.dropped for v in found if v.dropped is not None],
        "seconds": round(sum(v.seconds for v in found), 1),
    }


def print_table(lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the lines."""
    print(f"unbiased estimators against exact gradients, to a standard error of {100 * options.precision:g} %\n")
    print(f"{'estimator':<20}{'position':<11}{'cases':>6}{'numbers':>9}{'|z|':>7}{'s.e. %':>8}{'replicates':>13}  anew")
    for line in lines:
        dropped = line["dropped_z"]
        anew = f"{len(dropped)} ({', '.join(f'{z:.2f}' for z in dropped)})" if dropped else "-"
        print(
            f"{line['estimator']:<20}{line['position']:<11}{line['cases']:>6}{line['numbers']:>9}{line['z']:>7.2f}"
            f"{100 * line['error']:>8.3f}{line['replicates']:>13,}  {anew}"
        )


def conclusion(record: dict[str, Any]) -> str:
    """Return the last words."""
    if not record["cases"]:
        return "\nno case chosen"
    anew = len(record["judged_anew"])
    return (
        f"\n{record['cases']} cases, {record['numbers']} numbers: largest |z| {record['largest_z']:.2f}, largest "
        f"standard error {100 * record['largest_error']:.3f} %; {anew} case{'s' * (anew != 1)} judged anew with other "
        f"draws\nbeyond |z| = {THRESHOLD:g} or the precision: {', '.join(record['failed']) or 'none'} "
        f"({record['seconds']:.0f} s)"
    )


if __name__ == "__main__":
    sys.exit(main())
