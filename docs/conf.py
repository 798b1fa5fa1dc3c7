"""Configuration of Sphinx; ``make docs`` builds the pages into ``docs/_build/html``."""

import inspect
import shutil
from pathlib import Path

from numpydoc.docscrape_sphinx import SphinxDocString
from sphinx_gallery.scrapers import figure_rst
from sphinx_gallery.sorting import ExplicitOrder

import riskvae

project = "riskvae"
author = "The riskvae developers"
project_copyright = f"2026, {author}"
version = release = riskvae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "results/*/cache"]
templates_path = ["_templates"]
# Other projects' pages are not asked where their names are: the build needs no network.
nitpick_ignore_regex = [("py:.*", r"(functools|matplotlib|numpy|pandas|sklearn|skorch|torch)\..*")]
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions, which cannot be pickled

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = f"riskvae {version}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "header_links_before_dropdown": 6}

# ------------------------------------------------------------------------------------------------------- API reference

autodoc_typehints = "none"  # docstrings have them
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # torch's would be shown as ours
autosummary_generate = True
numpydoc_show_class_members = False  # autodoc documents them below the class

# An attribute that is a property is told as the class tells it, not by the first sentence of the property.
process_param = SphinxDocString._process_param
SphinxDocString._process_param = lambda self, param, desc, summarize: process_param(self, param, desc, False)


def leave_out(app, what, name, obj, skip, options):
    """Leave out members that scikit-learn and torch document, and those that the class itself lists as attributes."""
    member = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
    foreign = not str(getattr(member, "__module__", None)).startswith("riskvae")
    fitted = isinstance(obj, property) and name.endswith("_")
    return True if foreign or fitted else None


# ------------------------------------------------------------------------------------------------------------- gallery


def written_figures(block, block_vars, gallery_conf):
    """Figures that an example wrote to its folder, ``demo`` beside it."""
    folder, moved = Path(block_vars["src_file"]).parent / "demo", []
    for path in sorted(folder.glob("*.png")):
        moved.append(next(block_vars["image_path_iterator"]))
        shutil.move(path, moved[-1])
    if moved:
        folder.rmdir()
    return figure_rst(moved, gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": ExplicitOrder(
        ["plot_quickstart.py", "plot_groups.py", "plot_robustness.py", "plot_anomalies.py", "plot_table.py"]
    ),
    "ignore_pattern": r"__init__\.py|grid_on_cluster|train_together|score_rows",
    "remove_config_comments": True,
    "image_scrapers": (written_figures,),
    "backreferences_dir": "api/generated/examples",
    "doc_module": ("riskvae",),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
}


def setup(app):
    """Connect what is not a setting."""
    app.connect("autodoc-skip-member", leave_out)
