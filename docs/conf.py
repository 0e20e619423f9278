"""Settings of Sphinx for the manual; `make docs` builds it."""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "extensions"))

from sphinx.application import Sphinx  # noqa: E402

from regime_proto import __version__  # noqa: E402

project = "regime"
author = "The regime developers"
copyright = "The regime developers"
release = version = __version__

extensions = [
    "document_links",
    "mathml",
    "myst_nb",
    "outside_links",
    "quantities_page",
    "repository_files",
    "signatures",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "thumbnails",
]
exclude_patterns = ["extensions", "runs/sources.md"]
highlight_language = "text"
default_role = "py:obj"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
# Frameworks that only the callbacks of their trainers need.
autodoc_mock_imports = ["keras", "lightning", "pytorch_lightning", "transformers"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_rtype = False


PACKAGE = ("adapters", "cli", "examples", "regime_proto", "schema")


def sources_hash(*folders: str) -> str:
    """Return what changes with the modules in these folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def setup(app: Sphinx) -> None:
    # Pages that are generated from code change with it.
    app.add_config_value("package", sources_hash(*PACKAGE, "docs/extensions"), "env")


# Notebooks show what the package does now.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build/docs-cache/notebooks" / sources_hash(*PACKAGE))
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "pydata_sphinx_theme"
html_title = f"regime {version}"
html_favicon = "pictures/favicon.svg"
templates_path = ["templates"]
html_static_path = ["styles", "pictures"]
html_css_files = ["manual.css"]
html_js_files = ["manual.js"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
# Quotes and dashes of commands stay as they are typed.
smartquotes = False
html_sidebars = {"index": [], "paper": [], "search": [], "genindex": []}
html_theme_options = {
    "logo": {
        "alt_text": "regime: to the first page",
        "image_light": "_static/regime-light.svg",
        "image_dark": "_static/regime-dark.svg",
    },
    "collapse_navigation": False,
    "footer_end": ["footer-help"],
    "footer_start": ["copyright"],
    "navbar_align": "left",
    "navigation_with_keys": False,
    "pygments_dark_style": "a11y-dark",
    "pygments_light_style": "a11y-high-contrast-light",
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 2,
}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
