"""Configuration of the documentation: ``make docs`` builds it with warnings as errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from api_pages import inherited_methods, top_level_names

import vaekit

project = "vaekit"
author = "vaekit developers"
copyright = author
version = release = vaekit.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    # in docs/_ext
    "docstrings",
    "generated_sections",
    "mathml",
    "notebooks",
]
suppress_warnings = ["config.cache"]  # functions of autosummary_context are not pickled
exclude_patterns = ["_build", "_ext"]
nitpicky = True
# Other projects' objects: their sites cannot be reached from every machine that builds this one.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|anndata|collections|lightning|numpy|pandas|pytorch_lightning|torch|typing)\..*")
]

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs
nb_merge_streams = True

autodoc_typehints = "none"  # the docstrings contain types and shapes
autodoc_inherit_docstrings = False  # overrides without a docstring are described by the base class
autodoc_member_order = "bysource"
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autosummary_context = {
    "inherited_methods": inherited_methods,
    "top_level_names": top_level_names,
}
autosummary_filename_map = {"vaekit.analysis.States": "vaekit.analysis.States-class"}  # next to the function `states`
templates_path = ["_templates"]
napoleon_google_docstring = False
napoleon_use_param = False  # types are text with shapes, not references
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]  # not as objects with separate entries

html_theme = "sphinx_book_theme"
html_title = "vaekit"
html_static_path = ["_static"]
html_css_files = ["vaekit.css"]
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "footer_content_items": "copyright",
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader prefers
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
