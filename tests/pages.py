"""What the documentation's pages and the HTML pages show."""

import base64
import html.parser
import io
import pathlib
import re

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
_FILE = re.compile(r"`([\w/]+\.py)`[^`]*\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def code_blocks(path: pathlib.Path, language: str) -> list[str]:
    """Returns a page's blocks of code in this language."""
    return [block for found, block in _BLOCK.findall(path.read_text()) if found == language]


def shown_files(path: pathlib.Path) -> dict[str, str]:
    """Returns the Python files that a page shows whole, by the path named just before."""
    return dict(_FILE.findall(path.read_text()))


def shell_commands(path: pathlib.Path) -> list[str]:
    """Returns the lines of a page's shell blocks, continued lines joined."""
    return [
        line.strip()
        for block in code_blocks(path, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]


class Page(html.parser.HTMLParser):
    """An HTML page's elements; a page that asks for another file or lacks an alt text fails."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        for name, attributes in self.elements:
            assert name not in ("link", "script", "iframe"), name
            if name == "img":
                assert attributes["alt"]
                data = base64.b64decode(attributes["src"].removeprefix("data:image/webp;base64,"))
                with Image.open(io.BytesIO(data)) as picture:
                    size = int(attributes["width"]), int(attributes["height"])
                    assert picture.size == size
        assert not re.search(r"https?://(?!www\.w3\.org/)|@import|url\((?!#)", text)

    def handle_starttag(self, tag, attrs):
        """Keeps an element."""
        self.elements.append((tag, dict(attrs)))

    def values(self, tag: str, attribute: str) -> list[str]:
        """Returns the attribute of each element of this name that has it."""
        return [
            found[attribute] for name, found in self.elements if name == tag and attribute in found
        ]
