"""A real Chromium on a real service: `kartina serve` in a process of its own, with a toy model in its home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, expect, sync_playwright

from kartina.models.model import save
from tests import tiny
from tests.engine import CARD, PROVENANCE, TOYS, toy_family, toy_package

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "kartina" / "api" / "static" / "index.html"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGS = ["--headless", "--no-sandbox", "--disable-background-networking"]
PATIENCE = 20_000  # ms; the first generation waits for the worker to load torch
expect.set_options(timeout=PATIENCE)
LOOKS = [  # light, phone: of each what is harder
    pytest.param("dark", True, id="dark-phone"),
    pytest.param("light", True, id="light-phone", marks=pytest.mark.slow),
    pytest.param("dark", False, id="dark-desktop", marks=pytest.mark.slow),
    pytest.param("light", False, id="light-desktop", marks=pytest.mark.slow),
]


def _without(what: str) -> NoReturn:
    """Skip, loudly (-ra lists it); a failure where CI=true says that the browser tests must run."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"CI=true, but {what}; the browser tests must run.")
    pytest.skip(f"BROWSER TESTS DID NOT RUN: {what}.")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        _without(f"found no browser called {', '.join(NAMES)}")
    if not PAGE.is_file() or not AXE.is_file():
        _without("the page is not built (run `make ui`)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser
        browser.close()


class Served:
    """A running service, which can be killed and started again at the same address."""

    def __init__(self, home: Path):
        self.home = home
        self.port = "0"
        self.start()

    def start(self) -> None:
        path = os.pathsep.join(filter(None, [str(TOYS), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "KARTINA_HOME": str(self.home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "kartina.cli", "serve", "--no-open", "--port", self.port]
        command += ["--device", "cpu", "--threads", "1", "--runtime", "eager"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if "http://" in line:
                break
        assert "token=" in said, f"Found {said!r}; expected the link with its token."
        self.link = said.split()[-1]  # with the token
        self.origin = self.link.partition("/?")[0]
        self.port = self.origin.rpartition(":")[2]
        self.token = self.link.partition("token=")[2]
        headers = {"Authorization": f"Bearer {self.token}"}
        self.api = httpx.Client(base_url=self.origin, headers=headers, timeout=60, trust_env=False)

    def kill(self) -> None:
        """As a crash does: nothing is told to anybody."""
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        self.process.terminate()
        self._ended()

    def _ended(self) -> None:
        self.process.wait(30)
        self.api.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def make(self, model: str, **body: Any) -> Any:
        """A finished job."""
        answer = self.api.post("/v1/generations", json={"model": model, **body}, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def served(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service for all tests: `pets` and `cats` draw 8x8 images of three classes, `edits` takes images, too.

    `cats` belongs to the tests of the gallery, so that nobody else's images are among theirs.
    """
    home = tmp_path_factory.mktemp("home")
    with toy_family(tmp_path_factory.mktemp("worker")):
        toy_package(home / "models", "pets")
        toy_package(home / "models", "cats", seed=1)
        save(tiny.sampler("flow"), "edits", PROVENANCE, CARD, root=home / "models")
    found = Served(home)
    yield found
    found.stop()


@dataclass
class Visit:
    """Opens pages, and remembers what their consoles complained of."""

    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __call__(self, url: str, *, phone: bool = False, **options: Any) -> Page:
        size = {"width": 375, "height": 812} if phone else {"width": 1440, "height": 900}
        settings = {"locale": "en-US", "viewport": size, "has_touch": phone, "accept_downloads": True, **options}
        context = self.browser.new_context(**settings)
        context.set_default_timeout(PATIENCE)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.add_init_script(path=AXE)  # reaches the page whatever its CSP
        self.contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._said)
        page.on("response", self._answered)
        page.goto(url)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status != 401:  # 401: the question whether there is a session
            self.complaints.append(f"{response.status} {response.request.method} {response.url}")


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """Opens a URL in a fresh profile: `visit(url, phone=True, locale="ru-RU", color_scheme="dark")`.

    Fails the test when a page threw, logged an error, met its content security policy, or was refused an answer.
    """
    opened = Visit(chromium)
    yield opened
    for context in opened.contexts:
        context.close()
    assert opened.complaints == []


def still(page: Page) -> None:
    """Wait until nothing slides or fades any more, except what does so for ever."""
    page.evaluate(
        """async () => {
            const frame = () => new Promise(requestAnimationFrame);
            const moving = () => document.getAnimations().some((one) =>
                one.playState === "running" && one.effect.getComputedTiming().iterations !== Infinity);
            for (await frame(), await frame(); moving(); ) await frame();
        }"""
    )


@pytest.fixture
def check_accessible() -> Callable[[Page, str], None]:
    """Run axe over the page as it is: no violation of WCAG 2.2 AA, none of its best practices."""

    def check(page: Page, state: str) -> None:
        still(page)  # axe measures the colours that are on the screen
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = page.evaluate(
            """async (tags) => (await axe.run(document, { runOnly: tags })).violations
                .map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" ; ")}`)""",
            tags,
        )
        assert found == [], state

    return check
