"""Names of vaekit in the pages of the documentation exist."""

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
FILES = ("yaml", "ckpt", "h5ad", "png", "svg")  # endings of file names such as vaekit.svg


def find_names(text: str) -> set[str]:
    """Return dotted names such as ``vaekit.analysis.embed``."""
    names = re.findall(r"(?<![\w./-])vaekit(?:\.[A-Za-z_]\w*)+", text)
    return {name for name in names if name.rpartition(".")[2] not in FILES}


def resolves(name: str) -> bool:
    """Return whether a dotted name leads to a module or an object of the package."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_names_exist(page):
    assert not [name for name in sorted(find_names(page.read_text(encoding="utf-8"))) if not resolves(name)]


def test_a_wrong_name_is_found():
    assert find_names("`vaekit.analysis.embedd(adata)` and vaekit.svg") == {"vaekit.analysis.embedd"}
    assert not resolves("vaekit.analysis.embedd")
    assert resolves("vaekit.analysis.embed")
