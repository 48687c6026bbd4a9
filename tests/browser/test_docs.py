"""The API reference as a person meets it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LOOKS, Served, Visit
from tests.browser.test_studio import png

pytestmark = pytest.mark.browser

Check = Callable[[Page, str], None]


def reference(served: Served, visit: Visit, query: str = "", **options: object) -> Page:
    return visit(f"{served.origin}/docs?token={served.token}{query}", **options)


def unfold(page: Page, name: str) -> Locator:
    """The operation called `GET /v1/...`, open."""
    button = page.get_by_role("button", name=name, exact=True)
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    return page.get_by_role("listitem").filter(has=button)


def answered(operation: Locator, status: int) -> Locator:
    """What came of pressing Send."""
    operation.get_by_role("button", name="Send").click()
    expect(operation.get_by_role("status")).to_contain_text(f"{status} after")
    return operation.get_by_role("region", name="Answer")


def test_an_operation_is_found_read_and_tried(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="HTTP API")).to_be_visible()
    documented = served.api.get("/openapi.json").json()["paths"]
    count = sum(map(len, documented.values()))
    operations = page.get_by_role("button", name=re.compile(r"^(GET|HEAD|POST|PATCH|DELETE) \S+$"))
    expect(operations).to_have_count(count)

    page.get_by_role("searchbox", name="Find an operation").fill("list models")
    expect(page.get_by_role("main").get_by_role("status")).to_have_text("1 operation")
    expect(operations).to_have_count(1)
    models = unfold(page, "GET /v1/models")
    expect(models.get_by_text("in the query").first).to_be_visible()
    models.get_by_role("textbox", name="limit").fill("2")
    expect(answered(models, 200)).to_contain_text('"name": "pets"')
    models.get_by_role("button", name="Copy as curl").click()
    assert f"{served.origin}/v1/models?limit=2" in page.evaluate("navigator.clipboard.readText()")

    assert page.url.endswith("/docs?operation=list_models")
    page.reload()
    expect(page.get_by_role("button", name="GET /v1/models", exact=True)).to_be_in_viewport()
    expect(models.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.slow
def test_what_changes_something_passes_the_origin_check(served: Served, visit: Visit, tmp_path: Path) -> None:
    page = reference(served, visit)
    create = unfold(page, "POST /v1/generations")
    assert create.get_by_role("textbox", name="Body").input_value() == '{\n  "model": ""\n}'
    create.get_by_role("textbox", name="Body").fill('{"model": "pets", "n": 2, "controls": {"steps": 1}}')
    create.get_by_role("textbox", name="prefer").fill("wait=60")
    expect(answered(create, 200)).to_contain_text('"status": "succeeded"')
    job = served.api.get("/v1/generations?limit=1").json()["items"][0]

    events = unfold(page, "GET /v1/generations/{id}/events")
    events.get_by_role("textbox", name="id", exact=True).fill(job["id"])
    expect(answered(events, 200)).to_contain_text("event: status")

    image = unfold(page, "GET /v1/images/{id}")
    image.get_by_role("textbox", name="id", exact=True).fill(job["outputs"][0]["id"])
    answered(image, 200)
    expect(image.get_by_role("img", name="Answer")).to_have_js_property("naturalWidth", 8)
    expect(image.get_by_role("link", name="Save")).to_be_visible()

    (tmp_path / "picture.png").write_bytes(png())
    upload = unfold(page, "POST /v1/assets")
    upload.get_by_label("file").set_input_files(tmp_path / "picture.png")
    asset = answered(upload, 201).inner_text()
    name = re.search(r'"id": "(\w+)"', asset)
    assert name is not None
    delete = unfold(page, "DELETE /v1/assets/{id}")
    delete.get_by_role("textbox", name="id", exact=True).fill(name[1])
    answered(delete, 204)
    expect(delete.get_by_text("The answer has no content.")).to_be_visible()


def test_only_who_opens_it_loads_it(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    expect(page.get_by_role("radio", name="pets", exact=True)).to_be_visible()
    loaded = "performance.getEntriesByType('resource').map(({ name }) => name).filter((name) => /Docs/.test(name))"
    assert page.evaluate(loaded) == []
    page.get_by_role("link", name="API", exact=True).click()
    expect(page.get_by_role("heading", name="HTTP API")).to_be_visible()
    assert any(name.endswith(".js") for name in page.evaluate(loaded))


@pytest.mark.parametrize(("scheme", "phone"), LOOKS)
def test_the_reference_is_accessible(
    served: Served, visit: Visit, check_accessible: Check, scheme: str, phone: bool
) -> None:
    page = reference(served, visit, "&operation=create_generation", phone=phone, color_scheme=scheme)
    create = unfold(page, "POST /v1/generations")
    create.get_by_text("GenerationRequest", exact=True).last.click()
    create.get_by_role("textbox", name="Body").fill('{"model": "pets", "controls": {"steps": 1}}')
    answered(create, 202)
    check_accessible(page, f"an answer, {scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    unfold(page, "POST /v1/images/edits")
    check_accessible(page, f"a form with files, {scheme}")


def test_the_keyboard_and_russian(served: Served, visit: Visit) -> None:
    page = reference(served, visit, locale="ru-RU")
    page.get_by_role("searchbox", name="Найти операцию").fill("healthz")
    expect(page.get_by_text("1 операция")).to_be_visible()
    page.get_by_role("button", name="GET /healthz").focus()
    page.keyboard.press("Enter")
    send = page.get_by_role("button", name="Отправить")
    send.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Ответ")).to_contain_text('"status": "ok"')

    page.set_viewport_size({"width": 320, "height": 640})  # where a page of 1280 is magnified four times
    expect(page.get_by_role("link", name="API", exact=True)).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
