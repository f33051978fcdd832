"""Sphinx's configuration: `make docs` builds docs/_build/index.html from the pages and the docstrings.

The pages link to files of the repository as they lie beside them. In the site these links lead to the checkout, or to
the address in DOCS_REPOSITORY, such as https://host/owner/name/blob/main, for a site that is served elsewhere.
"""

import os
import re

project = "sdedit_pl"
author = "sdedit_pl contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False

_REPOSITORY = os.environ.get("DOCS_REPOSITORY", "../..")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)]+)\)")


def _lead_out(app, page, source):
    source[0] = _LINK.sub(rf'<a href="{_REPOSITORY}/\2">\1</a>', source[0])


def setup(app):
    app.connect("source-read", _lead_out)
