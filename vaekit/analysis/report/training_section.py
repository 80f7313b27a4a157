"""Section on the training: steps, time, curves and their last values."""

from __future__ import annotations

from vaekit.analysis.report.page import Element, Facts, Fold, Paragraph, Picture, Section, Table, number
from vaekit.analysis.report.run_facts import History, RunFacts
from vaekit.analysis.report.subject import Subject
from vaekit.plotting import model_figures

MIN_VALIDATIONS = 10  # for a statement on the end of the curve
LAST_FRACTION = 0.1  # of the validations, whose change is stated
TERMS = ("elbo", "reconstruction")  # first rows of the table


def training_section(subject: Subject) -> Section:
    """Return the section on the training."""
    facts = subject.facts
    elements: list[Element] = []
    if facts.is_interrupted:
        planned = facts.record["total_steps"]
        elements.append(
            Paragraph(
                f"This checkpoint was saved before the end of the training, at step {facts.step:,}"
                + (f" of {planned:,}" if planned else "") + ". Resume the run with --ckpt_path last."
            )
        )  # fmt: skip
    elements.append(Facts(_facts(facts)))
    if not facts.history:
        elements.append(Paragraph("The checkpoint does not contain curves of the training."))
        return Section("Training", elements)
    if text := _convergence(facts.history):
        elements.append(Paragraph(text))
    elements += [_curves(facts.history), _last_values(facts.history)]
    if any(name.startswith("train/temperature_") for name in facts.history) or _varies(facts.history):
        alt = "Line plots of the KL weight, and of temperatures if there are any, over the epochs."
        picture = Picture.from_figure(model_figures.schedules(facts.history), alt, "KL weight and temperatures.")
        elements.append(Fold("Schedules", [picture]))
    return Section("Training", elements)


def _facts(facts: RunFacts) -> list[tuple[str, str]]:
    record = facts.record
    steps = f"{facts.step:,}"
    if planned := record.get("total_steps"):
        steps += f" of {planned:,} planned"
    rows = [("Steps", steps), ("Epochs", f"{facts.epoch:,}")] if facts.step else [("Steps", "not recorded")]
    if record:
        rows += [
            ("State", facts.state),
            ("Time", duration(record["seconds"])),
            ("Device", record["device"] or "unknown"),
        ]
    if "batch_size" in (arguments := facts.data.get("init_args", {})):
        rows.append(("Mini-batch", f"{arguments['batch_size']} observations"))
    return [*rows, ("Seed", "not recorded" if facts.seed is None else str(facts.seed))]


def duration(seconds: float) -> str:
    """Return a time as text.

    Examples
    --------
    >>> duration(4.2), duration(75), duration(7500)
    ('4.2 s', '1 min 15 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _convergence(history: History) -> str:
    """Return a sentence on the end of the validation curve; "" without one."""
    values = [value for _, value in history.get("val/elbo", ())]
    if len(values) < MIN_VALIDATIONS:
        return ""
    best = max(range(len(values)), key=values.__getitem__)
    start = len(values) - max(2, round(LAST_FRACTION * len(values)))
    change = values[-1] - values[start]
    return (
        f"Over the last {len(values) - start} validations the ELBO changed by {number(change, 2)} nats. Its highest "
        f"value, {number(values[best], 2)}, was that of validation {best + 1} of {len(values)}; the last one is "
        f"{number(values[-1], 2)}."
    )


def _curves(history: History) -> Picture:
    train, val = (history.get(f"{split}/elbo", ()) for split in ("train", "val"))
    parts = [
        f"{name} data from {number(points[0][1])} to {number(points[-1][1])} nats"
        for name, points in (("training", train), ("validation", val))
        if points
    ]
    alt = f"Line plots over epochs. ELBO: {', '.join(parts)}. KL divergence of each latent."
    caption = (
        "Left: the ELBO, a lower bound of the log-likelihood; higher is better. Right: KL divergence of each latent, "
        "the information that it carries about an observation, in nats. Training values are means over the "
        "steps of an epoch, with dropout if there is any, and may therefore be lower than those of validation data."
    )
    return Picture.from_figure(model_figures.curves(history), alt, caption)


def _last_values(history: History) -> Table:
    """Return the last values of the ELBO and its terms."""
    names = [name.partition("/")[2] for name in history if name.startswith(("train/", "val/"))]
    divergences = [name for name in dict.fromkeys(names) if name.startswith("kl_") and name != "kl_weight"]
    rows = []
    for name in (*TERMS, *divergences):
        values = [history.get(f"{split}/{name}") for split in ("train", "val")]
        if any(values):
            title = "ELBO" if name == "elbo" else name.replace("kl_", "KL of ").capitalize().replace("Kl", "KL")
            rows.append([title, *(number(points[-1][1], 2) if points else "" for points in values)])
    return Table("Last values, in nats per observation", ["Term", "Training", "Validation"], rows)


def _varies(history: History) -> bool:
    return len({value for _, value in history.get("train/kl_weight", ())}) > 1
