"""The page, driven in a browser: sliders change what is shown, and nothing leaves for another host."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from matryoshka2d.serving.searching import ServedIndex
from tests.serving.conftest import Running, Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# One browser for all of them.
pytestmark = pytest.mark.xdist_group("page")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
browser_needed = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)
TEXTS = [
    f"{left} {right}"
    for left in ("a red", "a blue", "the", "my")
    for right in ("cat", "dog", "house", "tree")
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS, headless=True
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tab(url: str, browser: BrowserContext) -> Iterator[Page]:
    """Return a tab with the page; nothing may be said on its console, nor be asked of another host."""
    troubles: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith((url, "data:")) or troubles.append(request.url))
    page.set_default_timeout(20_000)
    page.goto(f"{url}/")
    page.locator("#near li").first.wait_for()
    yield page
    page.close()
    assert troubles == []


def shown(tab: Page) -> tuple[list[str], str, str]:
    """Return the nearest texts with their scores, what the size is said to be, and the marked cell."""
    marked = tab.locator("#grid [aria-pressed=true]")
    assert marked.count() == 1
    size = f"{tab.locator('#layers-said').inner_text()}x{tab.locator('#dims-said').inner_text()}"
    return tab.locator("#near li").all_inner_texts(), size, marked.get_attribute("data-size") or ""


@browser_needed
class TestInABrowser:
    def test_a_slider_changes_neighbors_latency_and_cell(self, tab: Page) -> None:
        tab.fill("#texts", "\n".join(TEXTS))
        tab.fill("#query", "a blue tree")
        expect(tab.locator("#count")).to_have_text("16 texts")
        expect(tab.locator("#grid button").first).to_have_text(re.compile(r"\d+"))
        full = shown(tab)
        assert full[1:] == ("4x32", "4x32")
        tab.focus("#layers")
        for _ in range(3):
            tab.keyboard.press("ArrowLeft")
        expect(tab.locator("#latency")).to_have_text(re.compile(r"^[\d.]+ ms$"))
        shallow = shown(tab)
        assert shallow[1:] == ("1x32", "1x32")
        assert shallow[0] != full[0]
        tab.focus("#dims")
        tab.keyboard.press("ArrowLeft")
        narrow = shown(tab)
        assert narrow[1:] == ("1x16", "1x16")
        assert narrow[0] != shallow[0]
        assert tab.inner_text("#bytes") == "64 B"
        assert re.fullmatch(r"[0-5] of 5", tab.inner_text("#kept"))

    def test_the_scores_are_cosines_of_the_served_vectors(self, tab: Page, url: str) -> None:
        tab.fill("#texts", "\n".join(TEXTS))
        tab.fill("#query", "a blue tree")
        tab.locator('[data-size="2x8"]').click()
        tab.wait_for_timeout(600)
        rows = [row.split("\n") for row in tab.locator("#near li").all_inner_texts()]

        def embed(texts: list[str], kind: str) -> list[list[float]]:
            body = {"model": "tiny@2x8", "input": texts, "input_type": kind}
            data = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"]
            return [one["embedding"] for one in data]

        query = embed(["a blue tree"], "query")[0]
        scores = {
            t: sum(a * b for a, b in zip(query, v, strict=True))
            for t, v in zip(TEXTS, embed(TEXTS, "document"), strict=True)
        }
        best = sorted(scores, key=lambda text: -scores[text])[:10]
        assert [row[1] for row in rows] == best
        assert [float(row[2]) for row in rows] == pytest.approx([scores[text] for text in best], abs=6e-4)

    def test_the_grid_is_walked_by_keyboard(self, tab: Page) -> None:
        tab.locator('[data-size="2x16"]').click()
        for key, size in [
            ("ArrowUp", "3x16"),
            ("ArrowRight", "3x32"),
            ("ArrowRight", "3x32"),
            ("ArrowDown", "2x32"),
        ]:
            tab.keyboard.press(key)
            assert shown(tab)[1:] == (size, size)

    def test_the_request_can_be_copied(self, tab: Page) -> None:
        tab.locator('[data-size="3x8"]').click()
        assert '"model":"tiny@3x8"' in tab.inner_text("#code")
        tab.click("#tab-python")
        code = tab.inner_text("#code")
        assert 'model="tiny@3x8"' in code
        compile(code, "page", "exec")
        tab.click("#copy")
        expect(tab.locator("#copy")).to_have_text(re.compile("Copied|Selected"))
        tab.click("#tab-curl")

    def test_texts_may_come_from_a_file(self, tab: Page, tmp_path: Path) -> None:
        lines = [f"text {i} of many" for i in range(300)]
        (tmp_path / "texts.txt").write_text("\n".join(lines))
        tab.set_input_files("#file", tmp_path / "texts.txt")
        expect(tab.locator("#count")).to_have_text("200 texts")

    def test_what_the_server_refuses_is_shown(self, tab: Page) -> None:
        tab.route("**/v1/embeddings", lambda route: route.fulfill(status=200, body="nothing"))
        tab.fill("#query", "a red tree")
        tab.locator("#said").wait_for()
        tab.unroute("**/v1/embeddings")
        tab.fill("#query", "a blue tree")
        tab.locator("#said").wait_for(state="hidden")

    def test_without_an_index_there_is_no_search(self, tab: Page) -> None:
        expect(tab.locator("#index")).to_be_hidden()

    def test_it_fits_a_phone(self, tab: Page) -> None:
        tab.set_viewport_size({"width": 360, "height": 740})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


@browser_needed
def test_an_index_is_searched_at_two_sizes(
    running: Callable[..., Running], index: ServedIndex, browser: BrowserContext
) -> None:
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.set_default_timeout(20_000)
    page.goto(f"{running(index).url}/")
    page.fill("#search", "a red cat")
    expect(page.locator("#exact li")).to_have_count(10)
    expect(page.locator("#own li")).to_have_count(10)
    expect(page.locator("#recall")).to_have_text(re.compile(r"^Recall \d+ of 10"))
    exact, full = page.inner_text("#exact"), page.inner_text("#own")
    page.focus("#layers")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#own-title")).to_have_text("1 layer, first 32 dims")
    page.select_option("#oversample", "1")
    page.focus("#dims")
    page.keyboard.press("Home")
    expect(page.locator("#own-title")).to_have_text("1 layer, first 8 dims")
    assert page.inner_text("#exact") == exact
    assert page.inner_text("#own") != full
    expect(page.locator("#own-ms")).to_have_text(re.compile(r"ms: .*prefix [\d.]+"))
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
    assert troubles == []


def test_the_page_may_run_nothing_but_its_own(served: Served) -> None:
    answer = served().get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", answer.text)
    assert len(answer.content) < 60_000
    assert served(page=False).get("/").status_code == 404


@browser_needed
def test_a_server_with_keys_asks_for_one(running: Callable[..., Running], browser: BrowserContext) -> None:
    page = browser.new_page()
    page.goto(f"{running(keys=('right',)).url}/")
    page.fill("#key", "wrong")
    page.click("#unlock button")
    expect(page.locator("#said")).to_contain_text("key is missing or wrong")
    page.fill("#key", "right")
    page.click("#unlock button")
    page.locator("#near li").first.wait_for()
    assert "Authorization" in page.inner_text("#code")
    page.close()
