"""What mkdocs adds to the pages of `docs/`: the README as home, the API page, files that pages link to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import matryoshka2d

ROOT = Path(__file__).parent.parent
HOME = "README.md"
LINK = re.compile(r"\[([^\]\[]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the home page, the API reference, and every file of the repository that a page links to."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / HOME)))
    files.append(File.generated(config, "api.md", content=api_page()))
    waiting = [HOME, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if _is_written(file))]
    known = {HOME, *waiting}
    while waiting:
        for path in _linked_from(waiting.pop()):
            if path in known or path.startswith("docs/") or not (ROOT / path).is_file():
                continue
            known.add(path)
            files.append(File.generated(config, uri_of(path), abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Rewrite the links of a page from places in the repository to places on the site."""
    if page.file.src_uri == "api.md":
        return markdown
    origin = path_of(page.file.src_uri)

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = _resolved(origin, target)
        if (ROOT / path).is_dir():
            return text
        return f"[{text}]({posixpath.relpath(uri_of(path), posixpath.dirname(page.file.src_uri))}{anchor})"

    return LINK.sub(replaced, markdown)


def api_page() -> str:
    """Return the API reference: every name of the public face."""
    parts = [
        "# API reference",
        "Everything here is imported from `matryoshka2d`. Modules below it may change without notice.",
        *(f"::: matryoshka2d.{name}" for name in matryoshka2d.__all__),
    ]
    return "\n\n".join(parts) + "\n"


def uri_of(path: str) -> str:
    """Return where a file of the repository is on the site.

    >>> uri_of("docs/fit.md"), uri_of("README.md"), uri_of("results/planning.md")
    ('fit.md', 'index.md', 'repository/results/planning.md')
    """
    if path == HOME:
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def path_of(uri: str) -> str:
    """Return the file of the repository that a file of the site was: the inverse of `uri_of`."""
    if uri == "index.md":
        return HOME
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def _is_written(file: File) -> bool:
    return file.src_uri not in ("index.md", "api.md")


def _linked_from(path: str) -> Iterator[str]:
    for link in LINK.finditer((ROOT / path).read_text(encoding="utf-8")):
        yield _resolved(path, link[2])


def _resolved(origin: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
