"""Pictures of the search page, as docs/ has them.

    make search-demo SEARCH_DEMO=runs/search-demo   # once; then stop it
    python -m benchmarks.search_page runs/search-demo street.jpg --box=20,10,90,120

Serves the catalog, searches by the photo in Chromium (the extra browser) and writes
docs/search_page.jpg, wide and light, and docs/search_page_phone.jpg, narrow and dark.
"""

import shutil
import sys
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.results_file import ROOT, make_parser
from benchmarks.serving import serving

# Name, width, height, scheme, and whether a box is drawn.
_PICTURES = (
    ("search_page", 1280, 820, "light", True),
    ("search_page_phone", 390, 820, "dark", False),
)


def main() -> None:
    """Writes the pictures."""
    parser = make_parser(__doc__)
    parser.add_argument("catalog")
    parser.add_argument("photo")
    parser.add_argument("--box", required=True, help="x_1,y_1,x_2,y_2 of the garment")
    options = parser.parse_args()
    command = [sys.executable, "-m", "grnet_jax.search", "serve", options.catalog]
    with serving(command) as (_, port), sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, height, scheme, boxed in _PICTURES:
            look: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            page = browser.new_context(**look).new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector(".card img")
            page.set_input_files("#file", options.photo)
            page.wait_for_selector(".rank:visible")
            if boxed:
                page.click("text=Type the box")
                for place, edge in enumerate(options.box.split(",")):
                    page.fill(f"#edges input[name='{place}']", edge)
                with page.expect_response("**/v1/search"):
                    page.keyboard.press("Tab")
                page.click("text=Type the box")
                page.wait_for_selector("#results:not(.stale)")
            page.wait_for_load_state("networkidle")
            page.evaluate("document.activeElement.blur()")
            path = ROOT / "docs" / f"{name}.jpg"
            page.screenshot(path=path, type="jpeg", quality=82)
            print(f"Wrote {path.relative_to(ROOT)}")
        browser.close()


if __name__ == "__main__":
    main()
