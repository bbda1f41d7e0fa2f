"""Settings of the book: the notebooks as a website that needs no network, made by `make book` from stored outputs.

The source folder is the repository, so links between notebooks and to other files are as everywhere else.
"""

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from myst_nb.core.render import NbElementRenderer
from sphinx import addnodes

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the reference of the core, wherever the project is installed

project = html_title = "UnionCAM, the paper you can run"
copyright = "the contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
include_patterns = ["docs/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "**/.ipynb_checkpoints"]
root_doc = "docs/index"

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
default_role = "py:obj"  # a name in backticks leads to its description
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
pygments_dark_style = "a11y-dark"
html_static_path = ["book.css", "book.js"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}

# Equations are drawn by the MathJax that JupyterLab's packages bring, in its own font. By default Sphinx loads it from
# another host, and MyST-Parser tells it to look at other elements than those that it makes, which MathJax 2 obeys.
MATHJAX = Path(str(distribution("jupyter-server-mathjax").locate_file("jupyter_server_mathjax/static")))
mathjax_path = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
myst_update_mathjax = False
mathjax2_config = {
    "tex2jax": {"processClass": "tex2jax_process|mathjax_process|math|output_area"},
    "messageStyle": "none",
    "HTML-CSS": {"availableFonts": [], "imageFont": None, "preferredFont": None, "webFont": "STIX-Web"},
}


def setup(app):
    app.connect("doctree-read", attach, priority=100)  # before Sphinx collects the files, and
    app.connect("doctree-read", prepare, priority=900)  # after it has collected the headings
    app.connect("autodoc-process-docstring", escape)
    app.connect("build-finished", finish)
    NbElementRenderer.render_image = image_with_text


def attach(app, doctree):
    """Let a link to a text of the project that is no page of the book, such as the README, lead to a copy of it."""
    for link in doctree.findall(addnodes.pending_xref):
        if link["refdomain"] == "doc" and link["reftarget"] not in app.env.found_docs:
            target = {"reftarget": f"/{link['reftarget']}.md", "refdoc": link["refdoc"], "refdomain": ""}
            link.replace_self(addnodes.download_reference("", "", *link.children, **target))


def prepare(app, doctree):
    """Hand each equation to MathJax as it stands, and number the notebooks in the navigation."""
    for block in doctree.findall(nodes.math_block):
        if not block.get("no-wrap"):  # Sphinx would put `split` around several lines, in which \tag is an error
            block[:], block["no-wrap"] = [nodes.Text(rf"\[{block.astext()}\]")], True
    folder, _, name = app.env.current_document.docname.rpartition("/")
    if folder == "notebooks":  # what comes before the title's colon: the whole would take lines
        shown = [nodes.Text(f"{name[:2]} {doctree.next_node(nodes.title).astext().partition(':')[0]}")]
        app.env.titles[f"{folder}/{name}"][:] = shown
        app.env.tocs[f"{folder}/{name}"].next_node(nodes.reference)[:] = shown


def escape(app, kind, name, thing, options, lines):
    """Show |a - b| as it stands, which means a substitution to Sphinx, and set examples apart from the text."""
    example = [line.startswith(">>>") for line in lines]
    for i in reversed(range(len(lines))):
        if not example[i]:
            lines[i] = lines[i].replace("|", r"\|")
        elif i and not example[i - 1]:
            lines.insert(i, "")


def finish(app, error):
    """Copy MathJax, and let the folder's own address lead to the first page."""
    out = Path(app.outdir)
    shutil.copytree(MATHJAX, out / "_static/mathjax", dirs_exist_ok=True)
    (out / "index.html").write_text('<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n')


render_image = NbElementRenderer.render_image


def image_with_text(self, data):
    """MyST-NB leaves out the alternative text that a notebook stores with a picture."""
    (image,) = render_image(self, data)
    image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return [image]
