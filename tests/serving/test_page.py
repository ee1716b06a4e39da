"""The page, driven in Chromium; skipped where there is none."""

import shutil
import threading
import time

import pytest
from etils import epath

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

import uvicorn  # noqa: E402

from grnet_jax.serving.app import Service  # noqa: E402
from grnet_jax.serving.live import Follower  # noqa: E402
from grnet_jax.serving.server import ServeOptions, guarded  # noqa: E402
from tests.catalog.shops import index, make_shop, small_loaded  # noqa: E402

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _CHROMIUM, reason="there is no Chromium"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    source, matcher = make_shop(folder / "photos"), small_loaded("grnet")
    index(epath.Path(folder / "shop"), source, matcher)
    service = Service(Follower(epath.Path(folder / "shop"), 200, matcher), 200)
    app = guarded(service, ServeOptions(per_minute=0))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started or service.follower.live is None:
        time.sleep(0.1)
    yield running.servers[0].sockets[0].getsockname()[1], source.parent
    running.should_exit = True
    thread.join()


@pytest.mark.parametrize("width", [1280, 360])
def test_a_photo_is_searched_by_refined_and_explained(server, width):
    port, photos = server
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        size = {"width": width, "height": 800}
        page = browser.new_context(viewport=size, bypass_csp=True).new_page()
        said, asked = [], set()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.split("/")[2]))
        page.goto(f"http://localhost:{port}/")
        page.wait_for_selector(".card img")

        def accessible():
            assert not axe.Axe().run(page).response["violations"]
            assert page.evaluate("document.documentElement.scrollWidth") <= width

        accessible()
        with page.expect_response("**/v1/search") as found:
            page.set_input_files("#file", str(photos / "5.png"))
        page.wait_for_selector(".rank:visible")
        assert page.inner_text(".card h3") == found.value.json()["results"][0]["item_id"]
        with page.expect_response("**/v1/search") as moved:
            page.click("#middle")
            page.keyboard.press("Shift+ArrowDown")
        assert moved.value.json()["searched"] is not None
        page.wait_for_timeout(500)
        accessible()
        page.locator(".why:visible").first.click()
        page.wait_for_selector("#why-pairs tr")
        assert page.locator("#why-pairs tr").count() == 5
        accessible()
        page.keyboard.press("Escape")
        page.locator(".like").first.click()
        page.wait_for_url("**like=*")
        page.go_back()
        page.wait_for_function(
            "document.querySelector('#results-title').textContent === 'What we found'"
        )
        assert (said, asked) == ([], {f"localhost:{port}"})
        browser.close()
