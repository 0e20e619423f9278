"""Shows on each card of the gallery the last figure of its notebook, as the build has drawn it."""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

GALLERY = "gallery/index"

CARD = re.compile(r'(<div class="sd-card [^>]*>\n)(?=(?:(?!<div class="sd-card ).)*? href="(\w+)\.html")', re.DOTALL)


def rewrite(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    if name != GALLERY or "body" not in context:
        return
    figures = {page: file for pages, file in app.env.images.values() for page in pages}

    def with_figure(card: re.Match[str]) -> str:
        file = figures[f"gallery/{card[2]}"]
        return f'{card[1]}<img class="sd-card-img-top thumbnail" src="../_images/{file}" alt="">\n'

    context["body"] = CARD.sub(with_figure, context["body"])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("html-page-context", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
