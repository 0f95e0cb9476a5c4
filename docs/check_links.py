"""Checks the links of a built site offline: python docs/check_links.py build/site.

Every relative link has to lead to a file of the site, and its anchor to an id in that file. Links
to other sites are only checked for their form.
"""

import pathlib
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, file: pathlib.Path) -> None:
        """Reads a file."""
        super().__init__()
        self.ids, self.links = {"", "top"}, list[str]()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        of = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := of.get(name))}
        self.links += [value for name in ("href", "src") if (value := of.get(name))]


def problems(site: pathlib.Path) -> Iterator[str]:
    """One line for each link that leads nowhere."""
    pages = {file.resolve(): Page(file) for file in site.rglob("*.html")}
    for file, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme in ("http", "https") and not parts.netloc:
                    yield f"{file.relative_to(site.resolve())}: {link} has no host"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{file.relative_to(site.resolve())}: {link} is not there"
            elif target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{file.relative_to(site.resolve())}: {link} has no such anchor"


if __name__ == "__main__":
    found = list(problems(pathlib.Path(sys.argv[1])))
    print("\n".join(found) or "all links of the site lead somewhere")
    sys.exit(bool(found))
