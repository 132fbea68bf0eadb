"""How Sphinx makes the site: `make docs`. Its source is the whole project, so that links are those of the files."""

import os

project = "Puppet-CNN in JAX"
author = "the authors of puppet-jax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
exclude_patterns = ["docs/templates/**", "docs/_build/**", "docs/records/*/runs/**", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
html_theme = "sphinx_book_theme"
html_title = project
html_extra_path = ["site"]  # the address without a page leads to the first one
html_theme_options = {"show_navbar_depth": 1, "use_download_button": False}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "cache")  # "off" while writing
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"  # docstrings give shapes and dtypes
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_admonition_for_examples = False
