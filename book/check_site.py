"""Checks a built site: it asks no other host for anything, no link is broken, and nothing is left unrendered.

python book/check_site.py book/_build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""What a browser fetches by itself, by the element and attribute that name it."""

RAW = re.compile(r"\{(?:eq|ref|doc|math|code-cell|note|admonition)\}|:tags:|^\+\+\+|\$\$", re.MULTILINE)
"""Markup that a reader should never see."""


class Page(HTMLParser):
    """What a page loads, links to and can be linked at, and its text outside code and formulas."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self._silent: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif LOADS.get(tag) in values and values.get("rel") not in ("canonical", "author", "license"):
            self.loads.append(values[LOADS[tag]])
        quiet = tag in ("script", "style", "pre", "code") or "math" in values.get("class", "").split()
        if self._silent and tag == self._silent[0]:
            self._silent.append(tag)
        elif quiet and not self._silent:
            self._silent = [tag]

    def handle_endtag(self, tag: str) -> None:
        if self._silent and tag == self._silent[0]:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def problems(site: Path) -> list[str]:
    """What is wrong with a built site, a line each."""
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }
    found = [] if pages else [f"{site}: no page"]
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loads:
            parts = urlsplit(address)
            if parts.scheme not in ("", "data") or parts.netloc:
                found.append(f"{name}: asks another host for {address}")
            elif not parts.scheme and not (path.parent / unquote(parts.path)).exists():
                found.append(f"{name}: {address} is missing")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name}: the link {address} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: the link {address} leads to a page without that place")
        found += [f"{name}: unrendered {raw!r}" for raw in sorted(set(RAW.findall(page.text)))]
    for sheet in sorted(site.rglob("*.css")):
        for address in re.findall(
            r"(?:url\(|@import\s+)[\"']?(https?://[^\"')\s]+)", sheet.read_text(encoding="utf-8")
        ):
            found.append(f"{sheet.relative_to(site)}: asks another host for {address}")
    return found


if __name__ == "__main__":
    complaints = problems(Path(sys.argv[1]).resolve())
    print("\n".join(complaints) or f"{sys.argv[1]}: no request to another host, no broken link")
    sys.exit(bool(complaints))
