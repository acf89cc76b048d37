"""The dashboard: a page that works offline, in a real browser, with a keyboard and a screen reader."""

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from cluster.client import GatewayOptions
from cluster.gateway.dashboard import FILES, PAGE
from tests.cluster.gateway.test_guard import ask
from tests.cluster.running import Cluster, running_cluster
from tests.patience import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")

PATIENCE_MS = PATIENCE_S * 1000


class Elements(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_is_inline_or_from_elsewhere() -> None:
    for tag, attributes in Elements((PAGE / "index.html").read_text()).found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        if tag == "script":
            assert attributes["src"] in {f"/page/{name}" for name in FILES}
        assert not str(attributes.get("href", "")).startswith("http")
    for script in ("dashboard.js", "chat.js"):
        text = (PAGE / script).read_text()
        assert "http:" not in text
        assert "https:" not in text
        assert not [word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(") if word in text]


def test_every_file_comes_with_a_policy_and_others_do_not_exist(tmp_path: Path) -> None:
    paths = ["/", *(f"/page/{name}" for name in FILES if name)]
    for answer in ask(tmp_path, *({"url": path} for path in paths)):
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for answer in ask(tmp_path, {"url": "/page/keys.py"}, {"url": "/page/..%2fkeys.py"}):
        assert answer.status_code == 404


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("dashboard"), 2, measured_hardware) as cluster:
        cluster.load("demo", cluster.place("demo", (3, 3)))
        yield cluster


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    return cluster.own.serve(GatewayOptions(port=0))


@pytest.mark.slow
def test_any_program_can_read_and_plan_what_the_page_shows(url: str) -> None:
    state: dict[str, Any] = httpx2.get(f"{url}/v1/cluster").json()
    assert (state["model"]["name"], state["model"]["state"]) == ("demo", "ready")
    held = sorted((node["holding"]["first_layer"], node["holding"]["end_layer"]) for node in state["nodes"])
    assert held == [(0, 3), (3, 6)]
    with httpx2.stream("GET", f"{url}/v1/cluster/events", timeout=PATIENCE_S) as stream:
        line = next(line for line in stream.iter_lines() if line)
    assert line.startswith('data: {"cluster_id"')
    plan = httpx2.post(f"{url}/v1/cluster/plan", json={"model": "demo"}, timeout=PATIENCE_S).json()
    assert sum(stage["end_layer"] - stage["first_layer"] for stage in plan["stages"]) == 6
    assert plan["tokens_per_s"] > 0
    missing = httpx2.post(f"{url}/v1/cluster/plan", json={"model": "nothing-of-this-name"}, timeout=PATIENCE_S)
    assert (missing.status_code, missing.json()["error"]["type"]) == (400, "invalid_request_error")
    listed = httpx2.get(f"{url}/v1/cluster/models", timeout=PATIENCE_S).json()["models"]
    assert all(model["nodes"] for model in listed)


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(bypass_csp=True).new_page()  # axe is put into the page
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#nodes li", timeout=PATIENCE_MS)
        yield page
        assert errors == []
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium, or Google Chrome")
def test_a_person_chats_edits_and_answers_again_with_the_keyboard_alone(page: Page) -> None:
    page.focus("#question")
    page.keyboard.type("What is a Mac?")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.assistant .tools", timeout=PATIENCE_MS)
    said = page.inner_text("article.assistant .text")
    assert said
    page.focus("article.assistant .tools button")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.assistant .tools", timeout=PATIENCE_MS)
    page.focus("article.user .tools button")
    page.keyboard.press("Enter")
    assert page.input_value("#question") == "What is a Mac?"
    assert page.query_selector("article") is None


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium, or Google Chrome")
def test_the_page_shows_stages_that_compute_and_experts_that_are_chosen(page: Page) -> None:
    page.click("#experts summary")
    page.fill("#question", "Tell me a story about a Mac.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#flow .hop.busy", timeout=PATIENCE_MS)
    assert [line.split(" to ")[0] for line in page.locator("#flow .muted").all_inner_texts()] == [
        "layers 0",
        "layers 3",
    ]
    page.wait_for_function("document.getElementById('experts-map').height > 1", timeout=PATIENCE_MS)
    size = page.evaluate("(({ width, height }) => [width, height])(document.getElementById('experts-map'))")
    assert size == [16, 5]  # the first of six layers is dense
    assert "Most chosen: expert" in page.inner_text("#experts-said")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium, or Google Chrome")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_overflows_and_axe_finds_nothing(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.click("#models summary")
    page.fill("#load-name", "demo")
    page.keyboard.press("Enter")
    page.wait_for_selector("#plan table", timeout=PATIENCE_MS)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for width in (1440, 820, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        violations = Axe().run(page).response["violations"]
        assert [(found["id"], found["nodes"][0]["html"]) for found in violations] == []
