"""Sections with the warnings of a run, and with the commands that reproduce it."""

from __future__ import annotations

import shlex

from vaekit.analysis.report.page import Code, Element, Facts, Items, Paragraph, Section, Table
from vaekit.analysis.report.subject import Subject
from vaekit.data.fingerprint import fingerprint
from vaekit.data.splits import SPLITS
from vaekit.diagnostics.package_versions import package_versions

MAX_LINE = 70  # characters of a command


def find_warnings(subject: Subject) -> list[str]:
    """Return the warnings of the run and of its data, without directories."""
    unstarted = [
        f"latent {name!r}: training ended before k-means set the components of its prior, so that all observations "
        "have the same probabilities of the categories. Resume the run."
        for name, latent in subject.model.latents.items()
        if latent.pending_start is not None
    ]
    texts = [subject.facts.shareable(text) for text in (*subject.facts.warnings, *subject.warnings)]
    return list(dict.fromkeys([*texts, *([] if any("before k-means" in text for text in texts) else unstarted)]))


def warning_section(subject: Subject) -> Section:
    """Return the section on warnings."""
    texts = find_warnings(subject)
    elements: list[Element] = [Items(texts)] if texts else []
    if not subject.facts.record:
        elements.append(Paragraph("The checkpoint does not record the warnings of its training."))
    elif not texts:
        elements.append(Paragraph("Neither the data nor the training caused a warning."))
    return Section("Warnings", elements)


def reproduction_section(subject: Subject) -> Section:
    """Return the section with commands, seeds, split and versions."""
    elements: list[Element] = [Code(_commands(subject)), Facts(_identity(subject))]
    current, trained = package_versions(), subject.facts.record.get("versions", {})
    rows = [
        [name, trained.get(name, "not recorded"), current.get(name, "not installed")]
        for name in dict.fromkeys([*trained, *current])
    ]
    elements.append(Table("Versions", ["Package", "Training", "This report"], rows, frozenset({0, 1, 2})))
    text = (
        "The same command, data, seed and versions give the same result on the same kind of device. Commands that need "
        "the data find them at their path; otherwise pass it (see --help of each)."
    )
    return Section("How to reproduce", [Paragraph(text), *elements])


def _commands(subject: Subject) -> str:
    facts = subject.facts
    checkpoint = shlex.quote(facts.checkpoint or "model.ckpt")
    lines = []
    if command := facts.record.get("command"):
        lines += ["# the run", _one_flag_per_line(shlex.join(["vaekit", *facts.shareable_command(command)]))]
    if facts.has_config:
        lines += ["# the same from the complete configuration above, saved as config.yaml",
                  "vaekit fit --config config.yaml"]  # fmt: skip
    if not facts.checkpoint:
        lines.append("# in Python: vaekit.save(model, 'model.ckpt')")
    lines += ["# numbers and figures of this report", f"vaekit evaluate {checkpoint}"]
    if subject.has_counts:
        lines.append(f"vaekit embed {checkpoint} -o embedded.h5ad")
        if subject.labeled_latents:
            latent = f" --latent {shlex.quote(subject.labeled_latents[0])}" if len(subject.labeled_latents) > 1 else ""
            lines.append(f"vaekit markers {checkpoint}{latent} -o markers.csv")
        lines.append(f"vaekit ppc {checkpoint} -o ppc.csv")
    lines.append(f"vaekit report {checkpoint} -o report.html")
    return "\n".join(lines)


def _one_flag_per_line(command: str) -> str:
    """Return a command with a line for each of its flags, unless it is short."""
    return command if len(command) <= MAX_LINE else command.replace(" --", " \\\n    --")


def _identity(subject: Subject) -> list[tuple[str, str]]:
    """Return the seeds, and the hashes of data and split."""
    facts, registry = subject.facts, subject.registry
    rows = [("Seed of the training", "not recorded" if facts.seed is None else str(facts.seed))]
    if registry:
        split = [registry["split_indices"][name].numpy() for name in SPLITS]
        sizes = " / ".join(f"{len(part):,} {name}" for part, name in zip(split, SPLITS, strict=True))
        rows += [
            ("Seed of the split", str(registry["config"]["init_args"].get("seed", "not recorded"))),
            ("Split", f"{sizes}; fingerprint {fingerprint(split)}"),
            ("Fingerprint of the data", str(registry["fingerprint"])),
        ]
    return [*rows, ("Seed of this report", str(subject.seed))]
