"""What the documentation's pages show."""

import pathlib
import re

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
