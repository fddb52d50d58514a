"""The page in a real browser: a person searches, clicks, reloads, and meets a stopped service."""

import shutil
import threading
import time

import pytest
import uvicorn
from helpers.service import free_port, local_service

from ttt4rec_jax.service import page as page_module

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")


class Served:
    """An application on a port, in a thread."""

    def __init__(self, app):
        self.port = free_port()
        self.server = uvicorn.Server(
            uvicorn.Config(app, port=self.port, log_config=None, lifespan="off")
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(models, tmp_path):
    with local_service({"a": models["sasrec"], "b": models["ttt"]}, tmp_path) as (_, app):
        served = Served(app)
        yield served
        served.stop()


@pytest.fixture
def tab(browser, served):
    """A page whose errors and requests to other hosts are noted, and must be none."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    wrong = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    own = f"http://127.0.0.1:{served.port}/"
    tab.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))
    tab.goto(own)
    yield tab
    context.close()
    assert [text for text in wrong if not text.startswith("data:")] == []


def listed(tab, index=0):
    return tab.locator(f"#list-{index} .name").all_text_contents()


def test_a_person_clicks(served, tab):
    tab.wait_for_selector("#list-1 li")
    assert len(listed(tab)) == len(listed(tab, 1)) == 10
    assert "Popular items" in tab.text_content("#note-0")
    for number in range(1, 6):
        before = tab.text_content("#list-0")
        tab.fill("#search", f"Title {number}")
        tab.wait_for_function(
            "text => document.querySelector('#found button')?.textContent === text",
            arg=f"title {number}",
        )
        tab.focus("#search")
        tab.keyboard.press("ArrowDown")  # from the search to the first item found
        tab.keyboard.press("Enter")
        tab.wait_for_function(
            "count => document.querySelectorAll('#clicks li').length === count", arg=number
        )
        tab.wait_for_function(
            "before => document.querySelector('#list-0').textContent !== before", arg=before
        )
    assert tab.locator("#clicks li").first.text_content() == "5title 5"
    moves = tab.locator("#list-0 .move").all_text_contents()
    assert len(moves) == 10 and all(moves)
    assert "took" in tab.text_content("#cost") and tab.locator("#curve circle").count() == 5
    assert tab.text_content("#state") == "5 clicks"
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 390  # nothing is cut off on a phone
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, dark.removeprefix("rgb(").rstrip(")").split(","))) < 120

    clicked = listed(tab)[0]
    tab.locator("#list-0 button").first.click()  # an item of the list itself
    tab.wait_for_function("() => document.querySelectorAll('#clicks li').length === 6")
    assert tab.locator("#clicks li").first.text_content() == f"6{clicked}"
    tab.wait_for_function(
        "name => document.querySelector('#list-0 .name').textContent !== name", arg=clicked
    )
    before = listed(tab), listed(tab, 1)
    tab.reload()
    tab.wait_for_selector("#list-1 li")
    tab.wait_for_function("() => document.querySelectorAll('#clicks li').length === 6")
    assert (listed(tab), listed(tab, 1)) == before
    assert tab.locator("#curve circle").count() == 6

    served.stop()
    tab.locator("#list-0 button").first.click()
    tab.wait_for_selector("#problem button")
    assert tab.text_content("#problem").startswith("The service does not answer.")
    assert tab.locator("#clicks li").count() == 6


def test_titles_are_text(tab, served):
    """What looks like markup, in a title or in a problem, is shown and not obeyed."""
    title = "<img src=x onerror=alert(1)>"
    body = {"items": [{"id": "<b>", "title": title, "score": 1.0}], "source": "model"}
    tab.route("**/recommendations?*", lambda route: route.fulfill(json=body | {"clicks": 0}))
    detail = {"title": "No", "status": 422, "detail": "<script>alert(2)</script>"}
    tab.route("**/clicks", lambda route: route.fulfill(json=detail, status=422))
    tab.reload()
    tab.wait_for_selector("#list-1 li")
    assert listed(tab) == [title] and tab.locator("#lists img").count() == 0
    tab.locator("#list-0 button").click()
    tab.wait_for_selector("#problem button")
    assert detail["detail"] in tab.text_content("#problem")
    assert tab.locator("#problem script").count() == 0


def test_the_policy_allows_the_page_alone():
    policy = page_module.HEADERS["Content-Security-Policy"]
    assert (
        policy.count("sha256-") == 2 and "unsafe" not in policy and "default-src 'none'" in policy
    )
