"""The page, driven in Chromium; skipped where there is none."""

import base64
import contextlib
import io
import shutil
import threading
import time
import types

import pytest
from etils import epath

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

import uvicorn  # noqa: E402

from grnet_jax.serving.app import Service  # noqa: E402
from grnet_jax.serving.live import Follower  # noqa: E402
from grnet_jax.serving.server import ServeOptions, guarded  # noqa: E402
from tests.catalog.shops import draw, index, save, small_loaded, write_csv  # noqa: E402

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("default"),
]
_COLUMNS = ("image", "item_id", "title", "url", "category", "price", "in_stock")
_HAND_OVER = """async ([data, name, type, how]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], name, { type }));
  document.body.dispatchEvent(how === "paste"
    ? new ClipboardEvent("paste", { clipboardData: held, bubbles: true })
    : new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
}"""


def _rows(folder, count):
    """Two photos an item, and an item with a copy of the first photo."""
    rows = []
    for number in range(count):
        save(folder / f"{number}.png", number)
        link = f"https://shop.example/{number // 2}"
        rows.append((f"{number}.png", f"item {number // 2}", f"Coat {number // 2}", link,
                     "ab"[number // 2 % 2], 10 * number, number % 4 > 1))  # fmt: skip
    save(folder / "copy.png", 0)
    return [*rows, ("copy.png", "copied", "Copied", "", "c", 5, True)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shop, photos, matcher = epath.Path(folder / "shop"), folder / "photos", small_loaded("grnet")
    rows = _rows(photos, 60)
    index(shop, write_csv(photos / "photos.csv", rows, _COLUMNS), matcher)

    def detect(picture):
        height, width = picture.shape[:2]
        return [((0.1 * width, 0.1 * height, 0.6 * width, 0.8 * height), "coat", 0.9)]

    service = Service(Follower(shop, 80, matcher), 80, detect)
    app = guarded(service, ServeOptions(per_minute=0))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started or service.follower.live is None:
        time.sleep(0.1)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield types.SimpleNamespace(
        url=f"http://localhost:{port}/", photos=photos, service=service, shop=shop, rows=rows,
        matcher=matcher,
    )  # fmt: skip
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page; what it says on the console, and where it asks, is looked at in the end."""
    contexts, said, asked = [], [], set()

    def open_page(width=1280, path="", **how):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **how))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.said = said
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.removeprefix("blob:")))
        page.goto(server.url + path)
        page.wait_for_selector(".card img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith(server.url) for url in asked)


def _found(page, act):
    """What is found by the search that an action makes, once it is shown."""
    with page.expect_response("**/v1/search") as waiting:
        act()
    found = waiting.value.json()
    page.locator("#results.stale, #results .wait").first.wait_for(state="detached")
    return found


def _choose(page, photo):
    return _found(page, lambda: page.set_input_files("#file", str(photo)))


def _accessible(page):
    rules = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
    options = {"runOnly": {"type": "tag", "values": rules}}
    assert not axe.Axe().run(page, options=options).response["violations"]
    sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(sideways) <= 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_it_is_accessible_at_every_step(server, visit, width, scheme):
    page = visit(width, color_scheme=scheme)
    _accessible(page)
    found = _choose(page, server.photos / "5.png")
    assert page.inner_text(".card h3") == found["results"][0]["fields"]["title"]
    _found(page, lambda: page.click("#middle"))
    _accessible(page)
    page.locator(".why:visible").first.click()
    page.wait_for_selector("#why-pairs tr")
    assert page.locator("#why-pairs tr").count() == 5
    assert page.locator("#why-query b").count() == page.locator("#why-result b").count() == 5
    _accessible(page)
    page.keyboard.press("Escape")
    assert not page.locator("#why").is_visible()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(server, visit, how):
    page = visit()
    data = base64.b64encode((server.photos / "7.png").read_bytes()).decode()
    found = _found(page, lambda: page.evaluate(_HAND_OVER, [data, "7.png", "image/png", how]))
    assert len(found["results"]) == page.locator("#results .card").count() == 20
    more = _found(page, lambda: page.click("#more"))
    assert page.locator("#results .card").count() == 20 + len(more["results"])


def test_a_large_photo_is_made_smaller_and_what_is_none_is_refused(visit):
    page, content = visit(), io.BytesIO()
    draw(1, (2400, 3200)).save(content, "PNG")
    large = {"name": "x.png", "mimeType": "image/png", "buffer": content.getvalue()}
    with page.expect_response("**/v1/photos") as sent:
        _found(page, lambda: page.set_input_files("#file", large))
    assert sent.value.json()["width"] == 1600
    text = {"name": "x.txt", "mimeType": "text/plain", "buffer": b"hello"}
    page.set_input_files("#again", text)
    page.wait_for_selector("#error:visible")
    assert "no JPEG, PNG or WebP" in page.inner_text("#error")


def test_a_box_is_dragged_resized_typed_and_offered(server, visit):
    page = visit()
    draw(5, (600, 480)).save(server.photos / "large.jpg")
    _choose(page, server.photos / "large.jpg")
    area = page.locator("#picture").bounding_box()

    def drag(begin, end):
        points = [(area["x"] + x * area["width"], area["y"] + y * area["height"])
                  for x, y in (begin, end)]  # fmt: skip
        page.mouse.move(*points[0])
        page.mouse.down()
        page.mouse.move(*points[1], steps=4)
        page.mouse.up()

    drawn = _found(page, lambda: drag((0.6, 0.9), (0.9, 0.4)))["searched"]
    assert drawn[1] == pytest.approx(240, abs=2)
    shown = page.locator("#box").bounding_box()
    corner = [(shown["x"] - area["x"]) / area["width"], (shown["y"] - area["y"]) / area["height"]]
    resized = _found(page, lambda: drag(corner, (0.25, 0.2)))["searched"]
    assert resized[:2] == pytest.approx([120, 120], abs=3)
    assert resized[2:] == drawn[2:]
    page.click("text=Type the box")
    for place, edge in enumerate((40, 60, 300, 500)):
        page.fill(f"#edges input[name='{place}']", str(edge))
    typed = _found(page, lambda: page.keyboard.press("Tab"))
    assert typed["searched"] == [40, 60, 300, 500]
    offered = _found(page, lambda: page.click("#garments button"))
    assert offered["searched"] == pytest.approx([48, 60, 288, 480], abs=1)
    assert page.get_attribute("#garments button", "aria-pressed") == "true"
    assert _found(page, lambda: page.click("#whole"))["searched"] == [0, 0, 480, 600]


def test_filters_stand_in_the_address_and_back_undoes_them(server, visit):
    page = visit()
    whole = _choose(page, server.photos / "5.png")
    only = _found(page, lambda: page.check("input[value='a']"))
    assert {one["fields"]["category"] for one in only["results"]} == {"a"}
    assert "f.category=a" in page.url
    page.fill("input[data-end='min']", "9000")
    none = _found(page, lambda: page.keyboard.press("Tab"))
    assert none["passing"] == 0
    assert "0 of 61 photos pass" in page.inner_text("#banner")
    everything = _found(page, lambda: page.click("#banner button"))
    assert everything["results"] == whole["results"]
    assert _found(page, page.go_back)["passing"] == 0
    assert _found(page, page.go_back)["results"] == only["results"]
    page.close()
    opened = visit(path="?like=3&f.category=a")  # as it is sent to a friend
    assert opened.is_checked("input[value='a']")
    assert opened.inner_text("#results-title") == "More like this"


def test_copies_unfold_and_lead_to_more(server, visit):
    page = visit()
    _choose(page, server.photos / "0.png")
    _found(page, lambda: page.check("input[value='c']"))
    _found(page, lambda: page.check("input[value='a']"))
    page.locator(".copies:visible summary").first.click()
    copy = page.locator(".copies button").first
    found = _found(page, copy.click)
    assert found["photo"] is None
    assert page.inner_text("#panel-title") == "More like this"
    assert page.locator(".shop:visible").first.get_attribute("href").startswith("https://shop")
    assert _found(page, lambda: page.click("#back"))["photo"]


def test_a_photo_that_expired_is_sent_again(server, visit):
    page = visit()
    first = _choose(page, server.photos / "5.png")
    held = server.service.held
    with held._lock:
        held._held.clear()
    again = _found(page, lambda: page.check("input[value='a']"))
    if "results" not in again:  # the refusal; the search after it follows by itself
        page.wait_for_selector("#status:has-text('pass the filters')")
    assert page.locator("#results .card").count() > 0
    assert len(held) == 1
    assert first["photo"] not in held._held
    page.said.clear()  # that 404


def test_a_server_that_is_gone_is_told_of_and_asked_again(server, visit):
    page = visit()
    _choose(page, server.photos / "5.png")
    page.route("**/v1/search", lambda route: route.abort())
    page.check("input[value='a']")
    page.wait_for_selector("#error:visible")
    assert "cannot be reached" in page.inner_text("#error")
    page.unroute("**/v1/search")
    _found(page, lambda: page.click("#error button"))
    assert not page.locator("#error").is_visible()
    page.said.clear()  # Chromium's own line


def test_a_new_generation_is_searched_by_an_open_page(server, visit):
    page = visit()
    first = _choose(page, server.photos / "5.png")
    save(server.photos / "new.png", 5)
    new = ("new.png", "new", "New coat", "", "a", 1, True)
    index(server.shop, write_csv(server.photos / "photos.csv", [*server.rows, new], _COLUMNS),
          server.matcher)  # fmt: skip
    server.service.follower.look()
    second = _found(page, lambda: page.click("#middle"))
    assert second["generation"] == first["generation"] + 1
    page.reload()
    page.wait_for_selector(".card img")
    assert "32 items, 62 photos" in page.inner_text("#size")


def test_the_keyboard_alone_is_enough(server, visit):
    page = visit()

    def tab_to(test):
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate(f"(() => {{ const on = document.activeElement; return {test} }})()"):
                return
        raise AssertionError(test)

    def choose_file():
        for _ in range(3):  # on a busy machine a browser without a window may drop a key
            page.bring_to_front()
            with contextlib.suppress(playwright.TimeoutError):
                with page.expect_file_chooser(timeout=8000) as chosen:
                    page.keyboard.press("Space")
                return chosen.value
        raise AssertionError("the space bar opens no file chooser")

    tab_to("on.id === 'file'")
    chooser = choose_file()
    _found(page, lambda: chooser.set_files(str(server.photos / "5.png")))
    page.wait_for_selector("#results-title:focus")
    page.focus(".brand")
    tab_to("on.id === 'middle'")
    _found(page, lambda: page.keyboard.press("Enter"))
    moved = _found(page, lambda: page.keyboard.press("Shift+ArrowDown"))
    assert moved["searched"] == [12, 15, 36, 46]
    tab_to("on.type === 'checkbox'")
    assert _found(page, lambda: page.keyboard.press("Space"))["passing"] < 61
    tab_to("on.classList.contains('why')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#why-pairs tr")
    page.keyboard.press("Escape")
    page.focus("#results-title")
    tab_to("on.classList.contains('like')")
    assert _found(page, lambda: page.keyboard.press("Enter"))["photo"] is None
