"""Configuration of Sphinx; ``make docs`` builds the pages into ``docs/_build/html``."""

import importlib
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

myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = f"riskvae {version}"
html_static_path = ["_static"]
html_css_files = ["riskvae.css"]
html_favicon = "_static/logo.svg"
html_search_scorer = str(Path(__file__).parent / "_static" / "scorer.js")
html_context = {"default_mode": "auto"}  # light or dark, as the system is
mathjax_path = "mathjax/tex-svg.js"  # MathJax 3.2.2, Apache-2.0: pages load nothing from elsewhere
html_sidebars = {"index": [], "changelog": [], "contributing": [], "decisions": []}  # these have no pages below them
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# The list of contents names members alone: "fit()", not "RiskAwareVAE.fit()".
toc_object_entries_show_parents = "hide"

# ------------------------------------------------------------------------------------------------------- API reference

autodoc_typehints = "none"  # docstrings have them
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # torch's would be shown as ours
autosummary_generate = True
numpydoc_show_class_members = False  # autodoc documents them below the class

# An attribute that is a property is told as the class tells it, not by the first sentence of the property.
process_param = SphinxDocString._process_param
SphinxDocString._process_param = lambda self, param, desc, summarize: process_param(self, param, desc, False)


def left_out(name, obj):
    """Whether scikit-learn or torch documents a member, or the class itself lists it as an attribute."""
    member = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
    foreign = not str(getattr(member, "__module__", None)).startswith("riskvae")
    return foreign or (isinstance(obj, property) and name.endswith("_"))


def leave_out(app, what, name, obj, skip, options):
    """Leave members out of the page of their class."""
    return True if left_out(name, obj) else None


def methods_of(full_name):
    """Names of the methods of a class that its page has, in alphabetical order."""
    module, _, name = full_name.rpartition(".")
    found = inspect.getmembers(getattr(importlib.import_module(module), name), inspect.isroutine)
    return [name for name, obj in found if obj.__doc__ and not name.startswith("_") and not left_out(name, obj)]


autosummary_context = {"methods_of": methods_of}  # for the page of a class


# ------------------------------------------------------------------------------------------------------------- gallery


def written_figures(block, block_vars, gallery_conf):
    """Figures that an example wrote to its folder, ``demo`` beside it."""
    folder, moved = Path(block_vars["src_file"]).parent / "demo", []
    for path in sorted(folder.glob("*.png")):
        moved.append(next(block_vars["image_path_iterator"]))
        shutil.move(path, moved[-1])
    return figure_rst(moved, gallery_conf["src_dir"])


def forget_figures(gallery_conf, name):
    """Remove what an earlier run left, before an example begins."""
    shutil.rmtree(Path(gallery_conf["src_dir"]).parent / "examples" / "demo", ignore_errors=True)


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": ExplicitOrder(
        [
            "plot_quickstart.py",
            "plot_groups.py",
            "plot_anomalies.py",
            "plot_explain.py",
            "plot_table.py",
            "plot_missing.py",
            "plot_robustness.py",
            "plot_withstand.py",
            "plot_training.py",
            "plot_monitor.py",
        ]
    ),
    "ignore_pattern": r"__init__\.py|grid_on_cluster|train_together|score_rows",
    "remove_config_comments": True,
    "image_scrapers": (written_figures,),
    "reset_modules": (forget_figures, "matplotlib"),
    "reset_modules_order": "both",
    "backreferences_dir": "api/generated/examples",
    "doc_module": ("riskvae",),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
}


# ------------------------------------------------------------------------------------------------------------- results


def place_tables(app, name, source):
    """List the tables of a study below its page. The page itself, which is also read elsewhere, does not."""
    folder, _, page = name.rpartition("/")
    if folder.startswith("results/") and page == "README" and (Path(app.srcdir) / folder / "tables.md").exists():
        source[0] += "\n```{toctree}\n:hidden:\n\ntables\n```\n"


def setup(app):
    """Connect what is not a setting."""
    app.connect("autodoc-skip-member", leave_out)
    app.connect("source-read", place_tables)
