"""Settings of Sphinx for `make docs`. The pages are Markdown, which GitHub shows as well.

The sources are those of the repository, so that README and lab book are pages too, and links among all are checked.
"""

project = "poolwise"
author = "the authors of poolwise"
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/*/README.md"]
include_patterns += ["experiments/*/report/*.md"]  # which these link to
exclude_patterns = [".*", "runs", "docs/_build", "tests", "src"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {
    "description": "A pooler that is really trained, and which sentence vector to use.",
    "page_width": "1240px",
    "code_font_size": "0.75em",
}
highlight_language = "none"
html_show_copyright = False
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
