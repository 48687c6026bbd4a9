"""The gallery page as a person meets it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LOOKS, Served, Visit
from tests.browser.test_studio import hand_over, pictures, tab_to

pytestmark = pytest.mark.browser

Check = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def stored(served: Served) -> list[str]:
    """Ids of the twelve newest images of `cats`, newest first: seeds 17 to 6; 150 older ones lie below them."""
    served.make("cats", n=150, seed=1000, labels=["кот"], controls={"steps": 1})
    job = served.make("cats", n=12, seed=6, labels=["cat", "dog"], controls={"steps": 2})
    return [out["id"] for out in reversed(job["outputs"])]


def gallery(served: Served, visit: Visit, query: str = "", **options: object) -> Page:
    """The gallery of `cats`."""
    return visit(f"{served.origin}/gallery?token={served.token}&model=cats@1{query}", **options)


def tiles(page: Page) -> Locator:
    return page.get_by_role("gridcell")


def tile(page: Page, seed: int) -> Locator:
    return tiles(page).filter(has=page.get_by_role("button", name=re.compile(rf"^\w+, seed {seed}\b")))


def test_favourites_and_filters_are_in_the_address(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit, "&label=dog")
    expect(tiles(page)).to_have_count(6)
    chosen = tile(page, 11)
    chosen.hover()
    chosen.get_by_role("button", name=re.compile("^Favourite")).click()
    expect(page.get_by_role("button", name="dog, seed 11, favourite", exact=True)).to_be_visible()
    page.get_by_text("Favourites", exact=True).click()
    expect(tiles(page)).to_have_count(1)
    assert "view=favourites" in page.url and "label=dog" in page.url
    page.reload()
    expect(tiles(page)).to_have_count(1)
    page.go_back()
    expect(tiles(page)).to_have_count(6)

    page.get_by_label("To this day").fill("2020-01-01")
    expect(page.get_by_role("heading", name="No picture fits these filters")).to_be_visible()
    page.get_by_role("button", name="Clear filters").first.click()
    expect(tiles(page).first).to_be_visible()
    assert "?" not in page.url
    about = served.api.get(f"/v1/images/{stored[6]}/about").json()
    assert about["seed"] == 11 and about["favourite"]


def archive(page: Page, name: str) -> list[str]:
    with page.expect_download() as started:
        page.get_by_role("link", name=name, exact=True).click()
    with zipfile.ZipFile(io.BytesIO(Path(started.value.path()).read_bytes())) as found:
        assert found.testzip() is None
        return sorted(name.partition("-")[2] for name in found.namelist())


def test_a_zip_of_the_selection_and_of_the_filter(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit, "&label=dog")
    expect(tiles(page)).to_have_count(6)
    page.locator("[data-at='1']").click(modifiers=["Control"])
    page.locator("[data-at='2']").click(modifiers=["Control"])
    assert archive(page, "ZIP") == ["007-dog-seed13.png", "009-dog-seed15.png"]
    assert len(archive(page, "Download all as ZIP")) == 6


def test_only_the_rows_in_sight_exist_and_pages_come(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit, "&label=кот")
    expect(tiles(page).first).to_be_visible()
    assert tiles(page).count() < 100
    page.locator("[data-at='0']").focus()
    for _ in range(40):  # the end of what is loaded, until everything is
        page.keyboard.press("Control+End")
        page.wait_for_timeout(100)
        if page.get_by_role("button", name="кот, seed 1000", exact=True).count():
            break
    expect(page.get_by_role("button", name="кот, seed 1000", exact=True)).to_be_focused()
    assert tiles(page).count() < 100, "150 are loaded"
    assert page.get_by_role("button", name="кот, seed 1149", exact=True).count() == 0


def test_a_picture_has_an_address_and_its_recipe(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit)
    page.get_by_role("button", name="dog, seed 17", exact=True).click()
    box = page.get_by_role("dialog")
    expect(box.get_by_role("heading", name="dog")).to_be_visible()
    assert f"image={stored[0]}" in page.url
    page.keyboard.press("ArrowRight")
    expect(box.get_by_role("heading", name="cat")).to_be_visible()
    page.reload()
    expect(box.get_by_role("heading", name="cat")).to_be_visible()
    expect(box).to_contain_text("Solver")
    page.keyboard.press("f")
    expect(box.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("f")
    expect(box.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    assert "image=" not in page.url

    page.goto(f"{served.origin}/gallery?label=dog&image={stored[6]}")
    box.get_by_role("button", name="Open in the studio").click()
    expect(page.get_by_role("radio", name="cats", exact=True)).to_be_checked()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("11")
    expect(page.get_by_role("checkbox", name="dog", exact=True)).to_be_checked()
    expect(page.get_by_label("Images", exact=True)).to_have_value("1")
    expect(page.get_by_role("textbox", name="Steps")).to_have_value("2")
    page.go_back()
    box.get_by_role("button", name="Run again").click()
    expect(page.get_by_role("button", name="Picture 1: dog, seed 11")).to_be_visible()


def test_delete_twice_at_once_or_held_takes_one_picture(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit, "&label=кот")
    changes: list[int] = []
    page.on("request", lambda sent: changes.append(len(sent.post_data_json["ids"])) if sent.method == "PATCH" else None)
    page.get_by_role("button", name="кот, seed 1149", exact=True).click()
    box, undo = page.get_by_role("dialog"), page.get_by_role("button", name="Undo")
    expect(box).to_contain_text("1149")
    page.evaluate(
        """() => {
            for (const repeat of [false, false, true])
                dispatchEvent(new KeyboardEvent("keydown", { key: "Delete", repeat }));
        }"""
    )
    expect(box).to_contain_text("1148")
    expect(undo).to_have_count(1)
    assert changes == [1]
    page.evaluate('dispatchEvent(new KeyboardEvent("keydown", { key: "Delete", repeat: true }))')
    page.keyboard.press("Delete")
    expect(box).to_contain_text("1147")
    expect(undo).to_have_count(2)
    assert changes == [1, 1], "a key that is held took one more"
    page.keyboard.press("Escape")
    for left in (1, 0):
        undo.last.click()
        expect(undo).to_have_count(left)
    expect(page.get_by_role("button", name="кот, seed 1149", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="кот, seed 1148", exact=True)).to_be_visible()


def test_a_file_alone_is_drawn_again(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit)
    expect(tiles(page).first).to_be_visible()
    hand_over(page, "dragenter", b"")
    expect(page.get_by_text("Drop a picture that Kartina made to draw it again")).to_be_visible()
    hand_over(page, "drop", served.api.get(f"/v1/images/{stored[4]}").content)
    expect(page.get_by_role("button", name="Picture 1: dog, seed 13")).to_be_visible()
    assert pictures(page).count() == 1
    page.go_back()
    hand_over(page, "drop", b"\x89PNG of nobody")
    expect(page.get_by_role("alert")).to_contain_text("expected")
    assert visit.complaints.pop().startswith("422")


@pytest.mark.parametrize(("light", "phone"), LOOKS)
def test_accessible_in_every_state(
    served: Served, visit: Visit, stored: list[str], check_accessible: Check, light: str, phone: bool
) -> None:
    page = gallery(served, visit, "&label=кот", color_scheme=light, phone=phone, reduced_motion="reduce")
    expect(tiles(page).first).to_be_visible()
    check_accessible(page, "pictures")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    tab_to(page, "[data-at='0']")
    page.keyboard.press("Space")
    expect(page.get_by_text("1 selected")).to_be_visible()
    check_accessible(page, "selected")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Run again")).to_be_enabled()  # its recipe is there
    check_accessible(page, "an open picture")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    check_accessible(page, "shortcuts")
    page.keyboard.press("Escape")
    page.get_by_text("Trash", exact=True).click()
    expect(page.get_by_role("heading", level=2)).to_be_visible()
    check_accessible(page, "nothing to show")
    page.goto(f"{served.origin}/nowhere")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    check_accessible(page, "not found")


def test_trash_undo_restore_and_for_good(served: Served, visit: Visit, stored: list[str]) -> None:
    page = gallery(served, visit, "&label=cat")
    expect(tiles(page)).to_have_count(6)
    tile(page, 16).hover()
    tile(page, 16).get_by_role("button", name=re.compile("^Select")).click()
    tile(page, 12).get_by_role("button", name=re.compile("^Select")).click(modifiers=["Shift"])
    expect(page.get_by_text("3 selected")).to_be_visible()
    page.get_by_role("button", name="To trash").click()
    expect(tiles(page)).to_have_count(3)
    page.get_by_role("button", name="Undo").click()
    expect(tiles(page)).to_have_count(6)
    names = [page.locator(f"[data-at='{i}']").get_attribute("aria-label") for i in range(6)]
    assert names == [f"cat, seed {seed}" for seed in (16, 14, 12, 10, 8, 6)], "they are where they were"

    page.locator("[data-at='0']").focus()
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    expect(tiles(page)).to_have_count(4)
    page.get_by_text("Trash", exact=True).click()
    expect(tiles(page)).to_have_count(2)
    tile(page, 16).get_by_role("button", name="cat, seed 16", exact=True).click()
    box = page.get_by_role("dialog")
    expect(box).to_contain_text("Kept until")
    page.keyboard.press("Delete")
    asked = page.get_by_role("dialog", name="Delete 1 picture")
    address = page.url
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    asked.get_by_role("button", name="Keep").click()
    expect(asked).to_be_hidden()
    assert page.url == address, "the keys were the question's, not the picture's behind it"
    expect(box).to_contain_text("Picture 1 of 2")
    box.get_by_role("button", name="Restore").click()
    expect(tiles(page)).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    page.get_by_role("button", name="Empty the trash").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    expect(tiles(page)).to_have_count(1)
    page.get_by_role("button", name="Empty the trash").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete for good").click()
    expect(page.get_by_role("heading", name="No picture fits these filters")).to_be_visible()
    assert served.api.get(f"/v1/images/{stored[3]}/about").status_code == 404
    assert served.api.get(f"/v1/images/{stored[1]}/about").json()["trashed_at"] is None
