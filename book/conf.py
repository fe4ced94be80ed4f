"""How Sphinx builds the site from the executed notebooks: ``make book``."""

import re
import sys
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK))

from bridge import chapters, equations  # noqa: E402
from pages import write_pages  # noqa: E402

project = "fromnoise"
author = "the fromnoise authors"
html_title = "fromnoise"
extensions = ["myst_nb"]
exclude_patterns = [
    "_build",
    "[0-9][0-9]-*.md",
    "generated/contents.md",
    "exercises",
    "solutions",
    "weights",
    "**.ipynb_checkpoints",
]

nb_execution_mode = "off"  # the notebooks are executed, and checked, by notebooks.py
nb_render_markdown_format = "myst"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
math_eqref_format = "Eq. {number}"

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
mathjax_path = "mathjax-tex-svg.js"  # MathJax 3.2.2, one file with its fonts: nothing is fetched when a page is read
html_last_updated_fmt = None

NUMBERS = {
    label: f"{int(chapter.stem[:2])}.{place}"
    for chapter in chapters()
    for place, label in enumerate(equations(chapter.read_text(encoding="utf-8")), start=1)
}


def adapt(app: Sphinx, document: str, source: list[str]) -> None:
    """Folds a notebook's imports away, and makes links of what it says of equations and tests.

    On the pages to look things up, "chapter 7" becomes a link.
    """
    if app.env.doc2path(document).suffix != ".ipynb":
        if document in ("index", "glossary", "references"):
            source[0] = with_chapters_linked(source[0])
        return
    notebook = nbformat.reads(source[0], 4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source)
        elif cell.source.startswith(("import ", "from ")):
            cell.metadata |= {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "What this chapter imports"}}
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = linked(output.data["text/markdown"])
    source[0] = nbformat.writes(notebook)


def linked(text: str) -> str:
    """The text with links in place of "Eq. `label`" and of paths to tests."""
    text = re.sub(r"\[(test_\w+)\]\(\.\./tests/equations/\w+\.py\)", r"[`\1`](#proof-\1)", text)
    return re.sub(
        r"Eq\.\s`([a-z0-9-]+)`", lambda found: f"{{eq}}`{found[1]}`" if found[1] in NUMBERS else found[0], text
    )


def with_chapters_linked(text: str) -> str:
    """The text with links in place of "chapter 7" and of "Chapter 7", where there is such a chapter."""
    places = {str(int(chapter.stem[:2])): chapter.stem for chapter in chapters()}
    return re.sub(
        r"(?<!\[)\b[Cc]hapter\s(\d+)\b",
        lambda found: f"[{found[0]}]({places[found[1]]}.ipynb)" if found[1] in places else found[0],
        text,
    )


def number_equations(app: Sphinx, document: nodes.document) -> None:
    """Numbers equations by chapter, (1.3), instead of anew on each page."""
    math = app.env.get_domain("math")
    for block in document.findall(nodes.math_block):
        if label := block.get("label"):
            block["number"] = NUMBERS[label]
            math.equations[label] = (app.env.docname, NUMBERS[label])  # type: ignore[attr-defined]


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: write_pages(BOOK / "generated", NUMBERS))
    app.connect("source-read", adapt)
    app.connect("doctree-read", number_equations)
