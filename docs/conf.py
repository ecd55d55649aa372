"""How the site is built from these pages: `nox -s docs`."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

project = "trioweb"
author = "the trioweb developers"
version = release = version_of("trioweb")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
# HAProxy's is unknown to Pygments; that Python's blocks are Python, tests see to.
suppress_warnings = ["misc.highlighting_failure"]
default_role = "code"  # as docstrings have it
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"  # which is dark where the reader's system is
html_title = "trioweb"
html_theme_options = {"navigation_with_keys": True}

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_param = False
napoleon_use_ivar = True
html_css_files = ["wrap.css"]
html_static_path = ["_static"]


# What docstrings say behind their other sections, each a paragraph of its own.
_PARAGRAPH = re.compile(r"(Cancellation|Checkpoint|Concurrency|Source): ")


def join_paragraphs(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Let a docstring's paragraphs have no indented lines, which reStructuredText would quote."""
    inside = False
    for number, line in enumerate(lines):
        if _PARAGRAPH.match(line):
            inside = True
        elif not line.startswith(" "):
            inside = False
        elif inside:
            lines[number] = line.strip()


def write_llms(app: Sphinx, error: Exception | None) -> None:
    """Tell programs that read for people where each page's source is (llmstxt.org)."""
    if error is not None or app.builder.name != "html":
        return
    lines = [
        f"# {project}",
        "",
        "> WebSockets for Trio: a broadcast server, and a client that outlives its connections.",
        "",
        "## Pages",
        "",
    ]
    for name in sorted(app.env.found_docs):
        title = app.env.titles[name].astext()
        lines.append(f"- [{title}](_sources/{name}.md.txt)")
    Path(app.outdir, "llms.txt").write_text("\n".join([*lines, ""]))


def setup(app: Sphinx) -> None:
    # Before napoleon, which is at 500.
    app.connect("autodoc-process-docstring", join_paragraphs, priority=400)
    app.connect("build-finished", write_llms)
