"""The prose of the package and its documentation follows the rules of ``voice.py``."""

from pathlib import Path

import pytest
from voice import EXEMPT, findings, prose_files

ROOT = Path(__file__).parents[1]
PROSE = [ROOT / name for name in ("vaekit", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs")]
MAX_FINDINGS_PER_LINE = 1 / 1000
MAX_EXEMPT_LINES = 5


def test_prose_of_the_project():
    violations, num_lines = findings(PROSE)
    num_findings = len(violations)
    assert num_findings <= MAX_FINDINGS_PER_LINE * num_lines, "\n".join(map(str, violations[:100]))


def test_exempt_lines():
    lines = [line for file in prose_files(PROSE) for line in file.read_text().splitlines() if EXEMPT in line]
    assert len(lines) <= MAX_EXEMPT_LINES


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("module.py", '"""Tell whether it is no tensor."""\n', ["Tell", "is no", "tell"]),
        ("module.py", "x = 1  # what the caller asked for\n", ["what the", "asked"]),
        ("module.py", "raise ValueError('there is no such column here')\n", ["no such"]),
        ("module.py", "x = 'no such'\n# `told` at https://told.org\n", []),
        ("module.py", "x = 1  # what the caller asked for; voice: ok\n", []),
        ("page.md", "A share.\n```\na share\n```\nTwo nats a cell\n", ["A share", "nats a cell"]),
    ],
)
def test_rules(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert sorted(finding.text for finding in findings([tmp_path])[0]) == sorted(expected)
