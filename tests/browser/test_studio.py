"""The studio page as a person meets it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Download, Page, expect

from tests.browser.conftest import LOOKS, Served, Visit, still

pytestmark = pytest.mark.browser

Check = Callable[[Page, str], None]


def behind(page: Page) -> bool:
    """Whether more than one plain colour is seen at the window's left edge, beside a dialog."""
    still(page)  # it slides in
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": 300, "height": 500})
    low, high = Image.open(io.BytesIO(shot)).convert("L").getextrema()
    return bool(high - low > 50)


def pick(page: Page, model: str = "pets") -> None:
    """Choose a model by its card."""
    radio = page.get_by_role("radio", name=model, exact=True)
    page.get_by_role("listitem").filter(has=radio).get_by_text(model, exact=True).click()
    expect(radio).to_be_checked()


def choose(page: Page, *classes: str) -> None:
    for name in classes:
        page.locator("label").filter(has=page.get_by_role("checkbox", name=name, exact=True)).click()


def pictures(page: Page):  # type: ignore[no-untyped-def]
    return page.get_by_role("button", name=re.compile(r"^Picture \d+:"))


def draw(page: Page, n: int = 16) -> None:
    """Press Generate and wait for the last picture."""
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("link", name="Download ZIP")).to_be_visible()
    expect(pictures(page)).to_have_count(n)


def content(download: Download) -> bytes:
    return Path(download.path()).read_bytes()


def test_from_the_link_to_pictures_on_disk(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    assert "token" not in page.url
    choose(page, "dog", "кот")
    page.get_by_label("Seed", exact=True).fill("7")
    with page.expect_response(re.compile(r"/events$")) as stream:
        draw(page)
    assert stream.value.headers["content-type"].startswith("text/event-stream")
    expect(page.get_by_role("heading", name="dog, кот")).to_be_visible()
    shown = pictures(page).first.locator("img")
    size = shown.evaluate("(img) => [img.getBoundingClientRect().width, getComputedStyle(img).imageRendering]")
    assert size[0] > 80 and size[0] % 8 == 0, "magnified by a whole number"
    assert size[1] == "pixelated"

    with page.expect_download() as started:
        page.get_by_role("link", name="Download ZIP").click()
    with zipfile.ZipFile(io.BytesIO(content(started.value))) as archive:
        names = sorted(archive.namelist())
        assert len(names) == 16
        assert all(archive.read(name).startswith(b"\x89PNG") for name in names)
        third = archive.read(names[2])

    page.get_by_role("button", name="Picture 3: dog, seed 9").click()
    box = page.get_by_role("dialog")
    expect(box.get_by_role("heading", name="dog")).to_be_visible()
    with page.expect_download() as started:
        box.get_by_role("link", name="Download PNG").click()
    assert started.value.suggested_filename == "002-dog-seed9.png"
    assert content(started.value) == third
    with Image.open(io.BytesIO(third)) as image:
        assert image.size == (8, 8)
        recipe = json.loads(image.info["kartina"])
    assert (recipe["label"], recipe["seed"]) == ("dog", 9)


def test_a_generation_can_be_varied_reloaded_and_reopened(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    choose(page, "cat")
    page.get_by_label("Images", exact=True).fill("3")
    draw(page, 3)
    first = page.url
    page.get_by_role("button", name="Vary").click()
    page.get_by_role("menuitem", name="New seeds").click()
    page.wait_for_url(lambda url: url != first)
    expect(pictures(page)).to_have_count(3)
    second = page.url

    page.reload()
    expect(pictures(page)).to_have_count(3)
    page.go_back()
    expect(page).to_have_url(first)
    expect(pictures(page)).to_have_count(3)
    page.get_by_role("button", name=re.compile("Open cat")).first.click()
    expect(page).to_have_url(second)

    page.get_by_role("button", name="Recipe").click()
    page.get_by_role("menuitem", name="Copy as Python").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert 'kartina.load("pets@1")' in copied and 'model.sample(["cat"], n=3, seed=' in copied


def test_the_same_noise_with_another_class(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    choose(page, "cat")
    page.get_by_label("Seed", exact=True).fill("40")
    draw(page)
    page.get_by_role("button", name="Picture 3: cat, seed 42").click()
    page.get_by_role("dialog").get_by_role("button", name="dog").click()
    expect(page.get_by_role("button", name="Picture 1: dog, seed 42")).to_be_visible()


def test_a_locked_seed_stays_and_an_unlocked_one_changes(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    seed = page.get_by_label("Seed", exact=True)
    draw(page)
    before = seed.input_value()
    draw(page)
    assert seed.input_value() != before
    page.get_by_role("button", name="Keep the seed").click()
    before = seed.input_value()
    draw(page)
    assert seed.input_value() == before
    page.get_by_role("button", name="New seed").click()
    assert seed.input_value() != before


def test_progress_is_live_and_can_be_canceled(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    page.get_by_role("textbox", name="Steps").fill("900")
    page.get_by_role("textbox", name="Delay").fill("0.05")
    page.get_by_role("button", name="Generate").click()
    progress = page.get_by_role("progressbar", name="Progress")
    expect(progress).to_be_visible()
    expect(progress).not_to_have_attribute("aria-valuenow", "0")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    expect(progress).to_be_hidden()
    expect(page.get_by_text("No picture was finished before you cancelled")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    draw(page)  # and the next one is not held up


def slowly(page: Page, steps: int = 40, n: int = 2) -> None:
    """Set the toy to draw for a tenth of a second a step."""
    page.get_by_role("textbox", name="Steps").fill(str(steps))
    page.get_by_role("textbox", name="Delay").fill("0.1")
    page.get_by_label("Images", exact=True).fill(str(n))


def frame(page: Page, at: int = 0) -> object:
    """Where a picture hangs on the wall, whether it is finished or not."""
    return page.get_by_role("list", name="Pictures").get_by_role("listitem").nth(at).bounding_box()


def test_previews_come_before_pictures_and_nothing_moves(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    slowly(page, steps=80)
    page.get_by_role("button", name="Generate").click()
    placeholders = page.get_by_role("img", name=re.compile(r"^Picture \d+, being drawn"))
    expect(placeholders).to_have_count(2)
    empty = frame(page, 1)
    expect(page.locator("[data-preview] img").first).to_be_visible()
    assert pictures(page).count() == 0, "a preview is seen before the picture"
    expect(page.get_by_text(re.compile(r"^Step \d+ of 160"))).to_be_visible()
    expect(page.get_by_text("0 of 2 finished")).to_be_visible()
    expect(page.get_by_text(re.compile("about .* left"))).to_be_visible()
    half = frame(page, 1)
    expect(pictures(page)).to_have_count(2)
    page.wait_for_timeout(200)
    assert empty == half == frame(page, 1)


@pytest.mark.slow
def test_several_at_a_time(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    slowly(page, steps=900, n=1)
    choose(page, "cat")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    slowly(page, steps=20)
    choose(page, "cat", "dog")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("heading", name="dog", exact=True)).to_be_visible()
    recent = page.get_by_role("region", name="Recent")
    recent.get_by_role("button", name=re.compile(r"drawing, \d+%.* cat")).click()
    expect(page.get_by_role("heading", name="cat", exact=True)).to_be_visible()
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    expect(recent.get_by_text("drawing")).to_have_count(1)  # the other one is ready, though its stream is closed
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(recent.get_by_text("drawing")).to_have_count(0)
    recent.get_by_role("button", name=re.compile(" dog")).first.click()
    expect(pictures(page)).to_have_count(2)


@pytest.mark.slow
def test_a_killed_service_loses_no_picture(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    slowly(page, steps=30, n=3)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("[data-preview] img").first).to_be_visible()
    served.kill()
    expect(page.get_by_text("The service does not answer; connecting again")).to_be_visible()
    served.start()
    expect(page.get_by_text("The connection broke off and is back. Nothing was lost")).to_be_visible()
    expect(pictures(page)).to_have_count(3)
    expect(page.get_by_text("The connection broke off and is back. Nothing was lost: 3 of 3")).to_be_visible()


def png(colour: str = "white", size: tuple[int, int] = (16, 16)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, colour).save(out, "PNG")
    return out.getvalue()


def hand_over(page: Page, event: str, content: bytes, name: str = "picture.png") -> None:
    """Drop or paste a file on the page, as a browser does."""
    page.evaluate(
        """([event, bytes, name]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            const settings = { bubbles: true, cancelable: true };
            if (event === "paste") {
                document.dispatchEvent(new ClipboardEvent("paste", { ...settings, clipboardData: files }));
                return;
            }
            for (const kind of ["dragenter", "dragover", event])
                document.body.dispatchEvent(new DragEvent(kind, { ...settings, dataTransfer: files }));
        }""",
        [event, list(content), name],
    )


def test_a_task_that_starts_from_images(served: Served, visit: Visit, check_accessible: Check) -> None:
    page = visit(f"{served.link}&model=edits@1&task=inpaint")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Choose an image first.")).to_be_visible()
    image, mask = page.get_by_role("group", name="Image"), page.get_by_role("group", name="Mask")
    expect(mask.get_by_role("button", name="Paint it")).to_be_disabled()
    hand_over(page, "paste", png())
    expect(image.get_by_role("img", name="Image, as it is used")).to_be_visible()

    mask.get_by_role("button", name="Paint it").click()
    box = page.get_by_role("dialog", name="Paint the mask")
    canvas = box.get_by_role("img", name="Mask over the image")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    at = canvas.bounding_box()
    assert at is not None
    page.mouse.move(at["x"] + at["width"] * 0.8, at["y"] + at["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] * 0.8, at["y"] + at["height"] * 0.6)
    page.mouse.up()
    check_accessible(page, "painting a mask")
    box.get_by_role("button", name="Use this mask").click()
    expect(box).to_be_hidden()
    drawn = mask.get_by_role("img", name="Mask, as it is used")
    expect(drawn).to_be_visible()
    with Image.open(io.BytesIO(served.api.get(str(drawn.get_attribute("src"))).content)) as found:
        assert found.size == (16, 16) and found.convert("L").getextrema() == (0, 255)
        assert found.convert("L").getpixel((12, 6)) == 255 and found.convert("L").getpixel((1, 1)) == 0

    choose(page, "b")
    draw(page, 4)
    expect(page.get_by_role("heading", name="Inpaint: b")).to_be_visible()
    expect(page.get_by_role("list", name="Started from").get_by_role("img")).to_have_count(0)  # decorative
    check_accessible(page, "pictures of a task that starts from images")
    page.get_by_role("button", name="Recipe").click()
    page.get_by_role("menuitem", name="Copy as Python").click()
    assert 'model.inpaint("image.png", "mask.png", labels=["b"]' in page.evaluate("navigator.clipboard.readText()")

    pictures(page).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Start from this picture").click()
    expect(mask.get_by_role("img")).to_have_count(0)  # it was painted over another image
    expect(image.get_by_role("img", name="Image, as it is used")).to_be_visible()


def test_what_cannot_be_used_is_told_where_it_was_given(served: Served, visit: Visit) -> None:
    page = visit(f"{served.link}&model=edits@1&task=transform")
    expect(page.get_by_role("group", name="Image")).to_be_visible()
    hand_over(page, "drop", b"no picture at all")
    expect(page.get_by_role("group", name="Image").get_by_role("alert")).to_contain_text("expected")
    assert visit.complaints.pop().startswith("422")


def test_a_link_to_a_generation_under_way_shows_it_on_a_phone_too(served: Served, visit: Visit) -> None:
    body = {"model": "pets", "n": 2, "controls": {"steps": 100, "delay": 0.2}}
    job = served.api.post("/v1/generations", json=body).json()
    page = visit(f"{served.origin}/?token={served.token}&model=pets@1&generation={job['id']}", phone=True)
    expect(page.get_by_role("progressbar")).to_be_in_viewport()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("progressbar")).to_have_count(0)


def test_a_failure_is_told_and_the_page_goes_on(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    page.get_by_role("radiogroup", name="Trouble").get_by_text("step", exact=True).click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_text("Not drawn").first).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    draw(page)


def test_the_card_says_how_good_the_model_is(served: Served, visit: Visit) -> None:
    page = visit(served.link)
    pick(page)
    card = page.get_by_role("listitem").filter(has=page.get_by_role("radio", name="pets", exact=True))
    card.get_by_role("button", name="0.50 coverage").click()
    about = page.get_by_role("dialog", name="Coverage")
    expect(about).to_contain_text("Real images score 0.90")
    page.keyboard.press("Escape")
    expect(about).to_be_hidden()

    page.get_by_role("button", name="Details of pets").click()
    drawer = page.get_by_role("dialog", name="pets")
    expect(drawer).to_be_visible()
    assert behind(page), "the page is seen beside the drawer"
    expect(drawer.get_by_role("region", name="By class, worst first")).to_contain_text("dog")
    expect(drawer.get_by_role("img", name="Samples of pets, not selected")).to_be_visible()
    expect(drawer).to_contain_text("CC0-1.0")


def test_without_a_session_the_page_says_how_to_get_in(served: Served, visit: Visit) -> None:
    page = visit(served.origin)
    expect(page.get_by_role("heading", name="Open the link from your terminal")).to_be_visible()
    page.goto(f"{served.origin}/?token=wrong")
    expect(page.get_by_text("was not accepted")).to_be_visible()
    assert "token" not in page.url
    page.goto(served.link)
    expect(page.get_by_role("radio", name="pets", exact=True)).to_be_attached()
    page.goto(served.origin)  # the cookie stays
    expect(page.get_by_role("radio", name="pets", exact=True)).to_be_attached()


def tab_to(page: Page, what: str, most: int = 80) -> None:
    """Press Tab until the focus is on what the CSS selector `what` names."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(what) => document.activeElement?.matches(what) ?? false", what):
            return
    raise AssertionError(f"Tab never came to {what}")


def test_by_keyboard_alone(served: Served, visit: Visit) -> None:
    page = visit(f"{served.link}&model=pets@1")
    expect(page.get_by_role("radio", name="pets", exact=True)).to_be_checked()
    tab_to(page, "a[href='#main']")
    page.keyboard.press("Enter")
    tab_to(page, "input[type=radio][name=model]")
    tab_to(page, "input[type=checkbox][value=dog]")
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="dog", exact=True)).to_be_checked()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="dog", exact=True)).to_be_visible()
    expect(pictures(page)).to_have_count(16)

    tab_to(page, "button[aria-label^='Picture 1:']")
    page.keyboard.press("Enter")
    box = page.get_by_role("dialog")
    expect(box).to_have_accessible_name("Picture 1 of 16")
    page.keyboard.press("ArrowRight")
    expect(box).to_have_accessible_name("Picture 2 of 16")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(pictures(page).first).to_be_focused()

    page.keyboard.press("g")
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()
    tab_to(page, "[data-at='0']")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-at='1']")).to_be_focused()
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keyboard shortcuts")
    keys.get_by_role("switch").focus()
    page.keyboard.press("Space")  # single keys off
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("s")
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()


def test_in_russian(served: Served, visit: Visit) -> None:
    page = visit(served.link, locale="ru-RU")
    pick(page)
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    page.get_by_role("button", name="Нарисовать", exact=True).click()
    expect(page.get_by_role("link", name="Скачать ZIP")).to_be_visible()
    expect(page.get_by_text("16 картинок за").first).to_be_visible()
    page.get_by_role("radio", name="EN").locator("xpath=following-sibling::label").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    page.reload()  # the choice stays
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.parametrize(("light", "phone"), LOOKS)
def test_accessible_in_every_state(
    served: Served, visit: Visit, check_accessible: Check, light: str, phone: bool
) -> None:
    page = visit(served.origin, color_scheme=light, phone=phone, reduced_motion="reduce")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    check_accessible(page, "without a session")
    page.goto(served.link)
    pick(page)
    check_accessible(page, "before the first generation")
    draw(page)
    check_accessible(page, "pictures")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"

    pictures(page).first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check_accessible(page, "lightbox")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Recipe").click()
    expect(page.get_by_role("menuitem").first).to_be_visible()
    check_accessible(page, "menu")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Details of pets").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check_accessible(page, "details")
    page.keyboard.press("Escape")

    page.get_by_role("radiogroup", name="Trouble").get_by_text("step", exact=True).click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_be_visible()
    check_accessible(page, "failed")
