"""Follows every link in a built book: to pages, to places in pages, to pictures, styles and scripts.

Links to other sites are left alone: a test that asks the network fails for reasons of its own.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# The page that is shown for a wrong address names everything from the root of a site that nobody knows here; the one for
# printing has all pages in one, and their places with it.
LEFT_OUT = {"404.html", "print.html", "toc.html"}


class Page(HTMLParser):
    """What a page links to, and the places that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.append(value)
            elif name == "id" and value:
                self.places.add(value)


def main(book: Path) -> int:
    pages = {path: Page(path) for path in sorted(book.rglob("*.html")) if path.name not in LEFT_OUT}
    dead = [
        f"{path.relative_to(book)}: {link}"
        for path, page in pages.items()
        for link in page.links
        if not is_alive(path, link, pages)
    ]
    for line in dead:
        print(f"a dead link in {line}", file=sys.stderr)
    followed = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {followed} links, {len(dead)} of them dead")
    return 1 if dead or len(pages) < 2 else 0


def is_alive(path: Path, link: str, pages: dict[Path, Page]) -> bool:
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return True
    target = path if not url.path else (path.parent / unquote(url.path)).resolve()
    if not target.is_file():
        return False
    return not url.fragment or target not in pages or unquote(url.fragment) in pages[target].places


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
