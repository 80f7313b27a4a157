"""Errors in a configuration, told by key and nearest valid name instead of by pages of types."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import itertools
import re
from collections.abc import Iterator, Sequence

import pytorch_lightning as pl

from vaekit._core.class_paths import check_class_path
from vaekit._core.components import Component
from vaekit.cli.raw_config import found_class
from vaekit.exceptions import ConfigError, VaekitError, did_you_mean

TOP_LEVEL = ("seed_everything", "trainer", "model", "data", "ckpt_path", "config")

# What jsonargparse says around the one line that matters.
_NOISE = re.compile(
    r"^(- )*(Subtypes: |Errors:|Given value|Does not validate against|Expected a path but "
    r"|Expected a <class 'NoneType'>|Expected a typing.Literal|$)"
)


_EXPECTED = re.compile(r"Expected a (<class|typing.Literal)")
_PACKAGES = ("vaekit.", "pytorch_lightning.", "lightning_fabric.")


@contextlib.contextmanager
def translate_errors(command: str) -> Iterator[None]:
    """Turn parser and trainer errors into :class:`ConfigError`.

    Parameters
    ----------
    command
        Name of the subcommand.
    """
    try:
        yield
    except VaekitError:
        raise
    except (argparse.ArgumentError, ValueError) as error:
        text = getattr(error, "message", None) or str(error)
        if "numpy accepts from" in text:  # Lightning's words on a seed
            raise ConfigError(f"seed_everything: {text}") from None
        if isinstance(error, ValueError) and "Does not validate against" not in text:
            raise
        raise ConfigError(summarize_error(text, command)) from None


def summarize_error(text: str, command: str = "fit") -> str:
    """Reduce an error of jsonargparse to what is wrong, where, and what would work.

    Examples
    --------
    >>> summarize_error("Subcommand 'fit' does not accept option 'trainer.max_epoks'")
    "there is no key 'trainer.max_epoks': did you mean 'max_epochs'?"
    """
    if "Problems parsing config" in text:  # YAML's own account of it, place and all
        return " ".join(text.split())
    if match := re.search(r"Importing '([^']+)' is not allowed", text):
        return _denied(match[1], ".".join(re.findall(r'Parser key "([^"]+)"', text)))
    keys: list[str] = []
    owner: str | None = None
    given = re.search(r"Given value: (.*)", text)
    lines = [raw.strip().removeprefix("- ") for raw in text.splitlines()]
    for i, line in enumerate(lines):
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if match := re.match(r"Problem with given class_path '([^']+)'", line):
            owner = match[1]
            continue
        if not _NOISE.match(line):
            value = re.sub(r"^NestedArg\(key=.*?, val='?(.*?)'?\)$", r"\1", "" if given is None else given[1])[:80]
            return _tell(line, ".".join(keys), owner, value, lines[:i], lines[i + 1 :])
    if given is not None:  # all that was expected is of a fixed set of words
        words = dict.fromkeys(re.findall(r"'([^']+)'", " ".join(re.findall(r"Expected a typing.Literal(.*)", text))))
        return f"{'.'.join(keys)}: {given[1][:80]!r} is not possible. {did_you_mean(given[1], words)}"
    return " ".join(text.split())[:300]


def _tell(
    line: str, key: str, owner: str | None, given: str, before: Sequence[str] = (), after: Sequence[str] = ()
) -> str:
    """Return the message for the one line that matters, among those before and after it."""
    where = f"{key}: " if key else ""
    if match := re.search(r"does not accept option '([^']+)'|[Oo]ption '([^']+)' is not accepted", line):
        return _unknown_key(match[1] or match[2], where, owner)
    if match := re.search(
        r"Expected a dot import path string: (\S+)|has no attribute '([^']+)'|Import path (\S+) does", line
    ):
        name = match[1] or match[2] or match[3]
        return (
            f"{where}there is no class {name!r} to use here. {did_you_mean(name.split('.')[-1], _class_names(before))}"
        )
    if match := re.match(r"Expected a <class '([\w.]+)'>\.?(?: Got value: (.*))?", line):
        return f"{where}expected {_kinds(line, after)}, got {given if match[2] is None else match[2]!r}"
    if match := re.search(r"argument (\S+): expected one argument", line):
        option = match[1]
        return f"{option} or a key below it has no value; one that begins with a hyphen is written as --KEY=VALUE"
    if match := re.search(r"arguments are required: (.*)", line):
        missing = match[1].replace("fit.", "")
        hint = "; pass --config FILE.yaml" if "model" in missing and owner is None else ""
        return f"{where}{owner or 'the configuration'} lacks {missing}{hint}"
    if match := re.search(r"unrecognized arguments: (\S+)", line):
        option = match[1].lstrip("-").partition("=")[0]
        if owner is not None and (_other_place(option, owner) or option.split(".")[0] not in _options(owner)):
            return _unknown_key(option, where, owner)
        return f"there is no argument {match[1]!r}; keys are set by --model.KEY, --data.KEY, --trainer.KEY"
    return (where + line)[:300]


def _kinds(line: str, after: Sequence[str]) -> str:
    """Return all types and words that were expected in the place of a value."""
    found: list[str] = []
    for text in (line, *itertools.takewhile(_EXPECTED.match, after)):
        if match := re.match(r"Expected a typing.Literal\[(.*)\]", text):
            found += match[1].split(", ")
        elif match := re.match(r"Expected a <class '(?:\w+\.)*(\w+)'>", text):
            found.append("list" if match[1] in ("Sequence", "Iterable") else match[1])
    return " or ".join(kind for kind in dict.fromkeys(found) if kind != "NoneType")


def _denied(path: str, key: str) -> str:
    """Return the message for a class path that was not followed."""
    try:
        check_class_path(path, key)
    except ConfigError as error:
        return str(error)
    # allowed by its name, but what it leads to is defined elsewhere
    return f"{key}: class path {path!r} leads to what is defined outside the packages that are allowed"


def _unknown_key(option: str, where: str, owner: str | None) -> str:
    if owner is not None:
        name = option.split(".")[0]
        if other := _other_place(option, owner):
            return f"{where}{owner} has no option {name!r}: {other}"
        if name == "latents" and where == "model: ":
            return (
                f"model.{option}: {owner.split('.')[-1]} has no `latents`, its own arguments make what it has; "
                "MixedVAE and VAE name theirs, as in pbmc_mixed.yaml and pbmc_topics.yaml"
            )
        return f"{where}{owner} has no option {name!r}. {did_you_mean(name, _options(owner))}"
    head, _, rest = option.partition(".")
    if head == "trainer" and rest:
        return (
            f"there is no key {option!r}. {did_you_mean(rest.split('.')[0], inspect.signature(pl.Trainer).parameters)}"
        )
    return f"there is no key {head!r}. {did_you_mean(head, TOP_LEVEL)}"


def _other_place(option: str, owner: str) -> str:
    """Say where a model has an argument of its latents: in itself, or in each latent where they are named."""
    options, parts = _options(owner), option.split(".")
    name = owner.split(".")[-1]
    argument = next((part for part in parts[1:] if part in options), None)
    if parts[0] == "latents" and "latents" not in options and argument is not None:
        return f"{name} takes --model.{argument}"
    if parts[0] == "estimator" and "latents" in options:
        return f"{name} takes --model.latents.NAME.estimator, such as --model.latents.y.estimator"
    return ""


def _components(cls: type = Component) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for sub in subclasses:
        yield sub
        yield from _components(sub)


def _class_names(before: Sequence[str] = ()) -> list[str]:
    """Return the names of the classes that the nearest of the lines above lists, or of all components."""
    own = itertools.takewhile(lambda line: not line.startswith("Parser key"), reversed(before))
    subtypes = next((line for line in own if line.startswith("Subtypes: ")), "")
    bases = [found_class(path) for path in re.findall(r"(?:\w+\.)+[A-Z]\w*", subtypes)]
    bases = [base for base in bases if inspect.isclass(base) and base.__module__.startswith(_PACKAGES)]
    found = {cls for base in bases or [Component] for cls in (base, *_components(base))} - {Component}
    return sorted({cls.__name__ for cls in found if not cls.__name__.startswith("_") and not inspect.isabstract(cls)})


def _options(owner: str) -> list[str]:
    for cls in _components():
        if cls.__name__ == owner.split(".")[-1]:
            return [
                name for name in inspect.signature(cls).parameters if name not in ("adata", "features", "covariates")
            ]
    return []
