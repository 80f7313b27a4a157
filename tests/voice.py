"""Rules for the prose of the project: ``python tests/voice.py PATH...`` prints the violations with better words.

The rules apply to docstrings, comments, messages (string literals of three words or more) and Markdown. They ignore
code: identifiers, text in backticks, doctests, fenced blocks, formulas and URLs. A line with ``voice: ok`` is exempt.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

EXEMPT = "voice: ok"
THIS_FILE = Path(__file__).resolve()
UNITS = (
    "nats|bytes|numbers?|draws|samples|widths?|milliseconds|rows|values|evaluations|outputs|estimates?|one|two|three|"
    "times|layer|norm|seed|tensor|curve|row"
)
THINGS = (
    "cell|gene|draw|step|row|pixel|observation|layer|node|seed|epoch|value|category|estimate|gradient|run|entry|image|"
    "unit|feature|parameter|latent|code|example"
)
BRITISH_STEMS = r"(?<!\bo)(ormalis|tandardis|aximis|inimis|nitialis|ptimis(?!ti)|ummaris|eneralis|ectoris)"

# What to write, and the patterns that it replaces.
REPLACEMENTS: dict[str, list[str]] = {
    # verbs
    "compute, calculate, determine": [r"\b[Ww]ork(s|ed|ing)? out\b"],
    "continue, resume": [r"\b(go|goes|went) on\b"],
    "return, report, indicate": [r"\b[Tt]ell(s|ing)?\b|\b[Tt]old\b"],
    "raise, reject": [r"\b[Rr]efuse[sd]?\b"],
    "requested, needed": [r"\b(asked|wanted)\b"],
    "omit, ignore, exclude": [r"\b(leave|leaves|left|leaving) (\w+ ){0,3}out\b"],
    "support": [r"\b(can|cannot|could) serve\b"],
    "iterate over, pass through": [r"\b(go|goes|gone) through\b"],
    "subtract; predict": [r"\b(take|takes|taken) away\b|\bforese(e|es|en|ing)\b"],
    "determine; avoid": [r"\b[Ss]ettle[sd]?\b|\b[Ss]pare[sd]?\b"],
    "built from, created again": [r"\bmade (of|from|anew|again|ready|to fit)\b|\banew\b"],
    "a docstring that begins with Update, Accumulate or Record": [r"^\s*Take (in|over|note)\b"],
    # nouns
    "fraction, proportion": [r"\b[Aa] share\b|\b[Ss]hares? of\b"],
    "image (data), figure (plot)": [r"\b[Pp]ictures?\b"],
    "directory": [r"\b[Ff]olders?\b"],
    "run, training run": [r"\b(a|another|each|no) training\b(?! (step|run|set|data|loop|batch|epoch|mode|split))"],
    "joint samples, sample dimension": [r"\b[Jj]oint trajector(y|ies)\b|\bax[ei]s of rows\b"],
    "the name of the thing": [r"\b(Return|Say|Keep|Note|Know|Take|Show|Draw|Measure)s? what\b"],
    "a noun instead of the clause": [
        r"\b[Ww]hat (the|it|they|a|an|is|was|each|are|has|must|can|all|both)\b",
    ],
    # grammar
    "'is not a', 'does not have'": [
        r"(?<![Tt]here )\b(is|are|was|were|be) no\b(?! (longer|more|less|fewer|need|better))",
    ],
    "'does not have one'": [r"\b(is|are|has|have) none\b"],
    "the name: column 'x' not found": [r"\bno such\b"],
    "the positive statement": [r"\b[Nn]othing (is|was|of|waits)\b|[;,] (and )?nothing[.;]"],
    "'The default implementation does nothing.'": [r"\b[Hh]ere, (nothing|as|none|never|its)\b"],
    "a full sentence": [
        r"^\s*Of (the|these|each|all|that|this|both|a|one)\b|^\s*(As there|Theirs|Likewise)\b",
    ],
    "the difference only, or no docstring": [r"\(see (the )?base class\)|\(Lightning's hook"],
    "equals, is the same as, belongs to": [r"\bis that of\b|\bare those of\b"],
    # small words
    "per": [rf"\b({UNITS}) an? ({THINGS})\b"],
    "if": [r"\b[Ww]here (there|this|that|they|one|none|all) (is|are|was|were|has|have|can|cannot)\b"],
    "for example, such as": [r", say[,.;:)]|, say$"],
    "except for": [
        r"\bbut for (a|an|the|those|these|what|its|their|one|rounding)\b|, save (where|those|that)\b",
    ],
    "at least N, at most N": [r"\b\d+ at (least|most)\b|\bat the least\b"],
    "regardless of": [r"\b[Ww]hatever\b"],
    "next to, in addition to": [r"\b[Bb]eside\b"],
    "instead of; through": [r"\bin the place of\b|\bby (the )?way of\b"],
    "round-robin; in parallel": [
        r"\bdealt out\b|\b(in|by) turns?\b|\b[Oo]ne after another\b|\b[Ss]ide by side\b",
    ],
    "as text; available": [r"\bin words\b|\bat hand\b|\bto be had\b"],
    "separate, independent": [r"\bof (its|their|one's) own\b"],
    "unchanged": [r"\b(is|are|was|were|left|stays?) as (it|they) (was|were|is|are)\b|\bas it was\b"],
    "American spelling": [
        r"\b([Cc]olour|[Gg]rey|[Nn]eighbour|[Pp]rogramme\b|[Cc]atalogue|[Cc]entred\b)",
        rf"{BRITISH_STEMS}(e|a|i)",
    ],
}
RULES = [(re.compile(pattern), advice) for advice, patterns in REPLACEMENTS.items() for pattern in patterns]

# The first word of a docstring, and the words that it may give way to.
FIRST_WORDS = {
    "begin": "Reset",
    "bring": "Convert",
    "do": "Perform",
    "give": "Return, Assign",
    "go": "Resume, Iterate over",
    "keep": "Store",
    "leave": "Skip",
    "let": "Allow, Set",
    "look": "Check",
    "make": "Create, Build",
    "note": "Record",
    "put": "Move, Set",
    "refuse": "Raise",
    "say": "Log, Print",
    "settle": "Determine",
    "tell": "Return whether",
    "work": "Compute",
    **dict.fromkeys(("all", "how", "nothing", "what", "where", "which"), "a verb, or a noun phrase"),
}
CODE = re.compile(r"``[^`]*``|:\w+(?::\w+)?:`[^`]*`|`[^`]*`|https?://\S+")
NOT_PROSE = re.compile(rf"^\s*(>>>|\.\.\. |#!)|\\[a-z]{{2}}|{EXEMPT}|type: ignore|noqa|fmt: ")


class Finding(NamedTuple):
    """A violation: the place, the text and the words to use instead."""

    file: Path
    line: int
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text!r}: write {self.advice}"


def findings(paths: list[Path]) -> tuple[list[Finding], int]:
    """Return the violations in the Python and Markdown files below the paths, and the number of their lines."""
    violations: list[Finding] = []
    num_lines = 0
    for file in prose_files(paths):
        text = file.read_text(encoding="utf-8", errors="replace")
        num_lines += text.count("\n")
        prose = markdown_prose(text) if file.suffix == ".md" else python_prose(text)
        violations += [Finding(file, line, *match) for line, content in prose for match in matches(content)]
        if file.suffix == ".py":
            violations += [Finding(file, line, *match) for line, match in first_word_matches(text)]
    return violations, num_lines


def prose_files(paths: list[Path]) -> list[Path]:
    """Return the Python and Markdown files below the paths, without this one."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sorted(
        file for file in files if file.suffix in {".py", ".md"} and file.resolve() != Path(__file__).resolve()
    )


def matches(line: str) -> Iterator[tuple[str, str]]:
    """Yield the text and the advice of each violation in a line of prose."""
    if not NOT_PROSE.search(line):
        prose = CODE.sub("x", line)
        yield from ((match[0].strip(), advice) for rule, advice in RULES for match in rule.finditer(prose))


def first_word_matches(text: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the line, the word and the advice for each docstring that begins with a wrong word."""
    for docstring in docstrings(ast.parse(text)):
        words = re.findall(r"\w+", docstring.value)
        word = words[0].lower() if words else ""
        if word in FIRST_WORDS:
            yield docstring.lineno, (word, FIRST_WORDS[word])


def docstrings(tree: ast.Module) -> list[ast.Constant]:
    """Return the docstrings of a module, its classes and its functions."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [node.body[0].value for node in nodes if ast.get_docstring(node, clean=False) is not None]  # type: ignore


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of docstrings, comments and messages."""
    tree = ast.parse(text)
    documentation = docstrings(tree)
    for docstring in documentation:
        yield from enumerate(docstring.value.splitlines(), docstring.lineno)
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in documentation]
    for node in constants:
        if isinstance(node.value, str) and len(node.value.split()) > 2:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def markdown_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of the lines outside fenced code blocks."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def main(paths: list[str]) -> int:
    """Print the violations and return the exit status."""
    violations, num_lines = findings([Path(path) for path in paths or ["."]])
    print(*violations, sep="\n")
    print(
        f"{len(violations)} findings in {num_lines} lines ({1000 * len(violations) / max(num_lines, 1):.1f} per 1,000)"
    )
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
