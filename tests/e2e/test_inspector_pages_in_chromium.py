"""The inspector in Chromium: every page and action, live refreshes, hostile values, keyboard, phone, dark and light, no scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspected import Inspected
from noticing import Noticed
from playwright.sync_api import Browser, Locator, Page, expect
from press import CANARY, Decision, Publish, gates


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Inspected]:
    gates.clear()
    with Inspected(tmp_path).served() as site:
        yield site


def status(page: Page) -> Locator:
    return page.locator("#part-head .badge").first


def open_run(page: Page, site: Inspected, run_id: str, more: str = "") -> None:
    page.goto(f"{site.url}/run?id={run_id}{more}")


# ---- the path of an operator ------------------------------------------------------------------------------------------------


def test_a_failed_run_is_found_understood_corrected_and_finished(page: Page, site: Inspected) -> None:
    site.run("waiting", title="other")
    failed = site.run("failed", title="tea", fails=True)
    page.goto(f"{site.url}/")
    expect(page.locator(".runs tbody tr")).to_have_count(2)

    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".runs tbody tr")).to_have_count(1)
    page.get_by_role("link", name=failed).click()

    expect(page.locator(".error .message")).to_have_text("no reviewer for tea")
    expect(page.locator(".error .value")).to_contain_text("raise LookupError")
    expect(page.locator('[data-node="check"]')).to_have_class("af-node af-listen af-is-failed")
    expect(page.locator("#part-methods tr", has_text="check")).to_contain_text("failed")

    field = page.locator(".state > div", has=page.get_by_text("fails", exact=True))
    field.get_by_text("Edit").click()
    field.get_by_role("textbox").fill("false")
    field.get_by_role("button", name="Store the new value").click()
    expect(page.locator(".done")).to_have_text("The state is changed.")

    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".done")).to_contain_text("what failed is tried again")
    expect(status(page)).to_have_text("waiting")
    expect(page.locator(".error")).to_have_count(0)
    expect(page.locator('[data-node="check"]')).to_have_class("af-node af-listen af-is-completed")

    form = page.locator("#part-signals details", has_text="decided")
    form.get_by_label("Approved").select_option("yes")
    form.get_by_label("Remark").fill("good")
    form.get_by_role("button", name="Send decided").click()
    expect(page.locator(".done")).to_have_text("The signal is stored.")
    expect(status(page)).to_have_text("finished")
    expect(page.locator("#part-result")).to_contain_text("About tea.")


def test_a_waiting_run_is_answered_from_the_list_of_what_waits(page: Page, site: Inspected) -> None:
    run_id = site.run("waiting", title="tea")
    page.goto(f"{site.url}/")
    page.get_by_role("link", name="Waiting").click()
    expect(page.locator(".signal")).to_have_text("decided")

    page.get_by_role("link", name=run_id).click()
    form = page.locator("#part-signals details", has_text="decided")
    form.get_by_role("button", name="Send decided").click()
    expect(page).to_have_url(f"{site.url}/run?id={run_id}#signals")  # the browser asks for the required field
    form.get_by_label("Approved").select_option("no")
    form.get_by_label("Stars").fill("5")
    form.get_by_role("button", name="Send decided").click()

    expect(page.locator(".done")).to_have_text("The signal is stored.")
    expect(page.locator("#part-steps")).to_contain_text("decide:1")
    expect(page.locator('[data-node="draft"]')).to_contain_text("draft")


# ---- live -----------------------------------------------------------------------------------------------------------------


def test_a_page_follows_its_run(page: Page, site: Inspected) -> None:
    run_id = site.run("running", title="tea", gate="g")
    open_run(page, site, run_id)
    expect(status(page)).to_have_text("running")
    expect(page.locator('[data-node="draft"]')).to_have_class("af-node af-start af-is-running")
    expect(page.locator("#events li")).to_contain_text(["RunStarted"])

    site.open("g")
    expect(status(page)).to_have_text("waiting")
    expect(page.locator('[data-node="draft"]')).to_have_class("af-node af-start af-is-completed")
    expect(page.locator("#events li", has_text="MethodFinished")).to_have_count(2)
    expect(page.locator("#part-time tbody tr").first).to_contain_text("draft:1")
    expect(page.locator("#part-state")).to_contain_text("About tea.")

    async def approve() -> None:
        await (await site.runner.get(run_id)).signal("decided", Decision(approved=True))

    site.call(approve())
    expect(status(page)).to_have_text("finished")
    expect(page.locator("#part-result")).to_contain_text("About tea.")
    expect(page.locator("#events li").last).to_contain_text("RunFinished")


def test_a_refresh_keeps_what_a_person_fills_in(page: Page, site: Inspected) -> None:
    run_id = site.run("running", title="tea", gate="g")
    open_run(page, site, run_id)
    page.locator("#part-signals summary", has_text="decided").click()
    remark = page.locator("#part-signals").get_by_label("Remark")
    remark.fill("half a sen")
    page.locator("h1").click()  # the field has not the focus any more

    site.open("g")
    expect(status(page)).to_have_text("waiting")

    expect(remark).to_have_value("half a sen")


def test_the_list_follows_new_runs(page: Page, site: Inspected) -> None:
    page.goto(f"{site.url}/")
    expect(page.locator("#part-runs")).to_have_text("No run is stored yet.")

    run_id = site.run("waiting", title="tea")

    expect(page.get_by_role("link", name=run_id)).to_be_visible()


# ---- actions --------------------------------------------------------------------------------------------------------------


def test_a_run_is_cancelled_after_a_question(page: Page, site: Inspected) -> None:
    open_run(page, site, site.run("waiting", title="tea"))

    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel it permanently").click()

    expect(page.locator(".done")).to_have_text("The run is cancelled.")
    expect(status(page)).to_have_text("cancelled")
    expect(page.locator(".actions")).to_have_count(0)


def test_an_older_step_is_seen_forked_and_resumed(page: Page, site: Inspected) -> None:
    run_id = site.run("waiting", title="tea")
    open_run(page, site, run_id)
    page.locator(".steps").get_by_role("link", name="1", exact=True).click()
    expect(page.locator(".diff")).to_contain_text("About tea.")
    expect(page.locator(".steps .chosen")).to_contain_text("draft:1")
    expect(page.locator('[data-node="check"]')).to_have_class("af-node af-listen af-is-interrupted")

    page.get_by_role("button", name="Fork at step 1").click()
    expect(page.locator(".facts")).to_contain_text(f"{run_id} step 1")
    expect(status(page)).to_have_text("interrupted")
    page.get_by_role("button", name="Resume").click()

    expect(status(page)).to_have_text("waiting")


def test_failed_runs_are_retried_together(page: Page, site: Inspected) -> None:
    for _ in range(3):
        site.run("failed", title="tea", fails=True)
    page.goto(f"{site.url}/?status=failed")

    page.get_by_text("Retry 3 failed runs…").click()
    page.get_by_role("button", name="Retry them now").click()

    expect(page.locator(".done")).to_have_text("3 runs continue.")


def test_what_fails_says_why(page: Page, noticed: Noticed, site: Inspected) -> None:
    run_id = site.run("waiting", title="tea")
    open_run(page, site, run_id)
    field = page.locator(".state > div", has=page.get_by_text("fails", exact=True))
    field.get_by_text("Edit").click()
    field.get_by_role("textbox").fill("maybe")
    field.get_by_role("button", name="Store the new value").click()

    expect(page.get_by_role("alert")).to_contain_text("is not JSON, so nothing was changed")
    noticed.expect("422")

    expect(page).to_have_url(f"{site.url}/run?id={run_id}")  # so it can be loaded again, and follows its run
    site.call(site.runner.cancel(run_id))
    expect(status(page)).to_have_text("cancelled")
    expect(page.locator("#live")).not_to_contain_text("cannot be refreshed")
    page.goto(f"{site.url}/run?id=none")
    expect(page.get_by_role("alert")).to_contain_text("There is no such run")
    noticed.expect("404")


# ---- hostile values -------------------------------------------------------------------------------------------------------


def test_markup_in_every_field_is_text(page: Page, noticed: Noticed, site: Inspected) -> None:
    waiting = site.run("waiting", title=CANARY, secret=CANARY, remarks=[CANARY])
    failed = site.run("failed", title=CANARY, fails=True)

    async def send() -> None:
        await (await site.runner.get(failed)).signal("decided", Decision(approved=True, remark=CANARY), sender=CANARY)

    site.call(send())
    for address in (
        "/",
        "/waiting",
        f"/run?id={waiting}",
        f"/run?id={waiting}&at=0",
        f"/run?id={failed}",
        f"/?flow={CANARY}",
    ):
        page.goto(site.url + address)
        expect(page.locator("img, script:not([src])")).to_have_count(0)
        expect(page).not_to_have_title("1")
        if "run?" in address:
            expect(page.locator("#part-state")).to_contain_text("<script>document.title = 1</script>")
            expect(page.locator("#events li").first).to_contain_text("RunStarted")
    expect(page.get_by_label("Flow", exact=True)).to_have_value(CANARY)

    page.goto(f"{site.url}/run?id={failed}")
    expect(page.locator(".error .message")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#part-inbox")).to_contain_text("<img src=x")


# ---- keyboard, phone, colours, no scripts ---------------------------------------------------------------------------------


def test_everything_is_reached_by_keyboard(page: Page, site: Inspected) -> None:
    failed = site.run("failed", title="tea", fails=True)
    site.run("waiting", title="tea")
    page.goto(f"{site.url}/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name=failed)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("/")
    expect(page.locator("#jump")).to_be_focused()
    page.keyboard.type(failed[:8])
    page.keyboard.press("Enter")
    expect(page.locator(".runs tbody tr")).to_have_count(1)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".error")).to_be_visible()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text() == "Retry":
            break
    page.keyboard.press("Enter")

    expect(page.locator(".done")).to_contain_text("The run continues")


def test_a_refresh_keeps_the_focus(page: Page, site: Inspected) -> None:
    run_id = site.run("failed", title="tea", fails=True)
    open_run(page, site, run_id)
    button = page.get_by_role("button", name="Retry")
    button.focus()

    async def edit() -> None:
        flow = await Publish.load(run_id, persistence=site.storage)
        await flow.update_state({"title": "coffee"})

    site.call(edit())
    expect(page.locator(".facts div").first).to_have_text("Step3")
    expect(button).to_be_focused()


LONG = "a" * 300


def pages(site: Inspected) -> list[str]:
    failed = site.run("failed", title=LONG, fails=True, remarks=[LONG])
    waiting = site.run("waiting", title=LONG)
    return ["/", "/waiting", f"/run?id={failed}", f"/run?id={waiting}", f"/run?id={waiting}&at=1", "/?status=none"]


@pytest.mark.parametrize("looks", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}])
def test_no_page_is_wider_than_a_phone(page: Page, noticed: Noticed, site: Inspected, looks: Any) -> None:
    for address in pages(site):
        page.goto(site.url + address)
        expect(page.locator("main")).to_be_visible()
        assert page.locator("html").evaluate("e => e.scrollWidth") <= 390, address
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert (
                box is None
                or box["x"] + box["width"] <= 390
                or button.locator("xpath=ancestor::*[@id='graph']").count()
            )
    noticed.expect("400")


@pytest.mark.parametrize("looks", [{"color_scheme": "dark"}, {"color_scheme": "light"}])
def test_text_and_background_differ_enough(page: Page, site: Inspected, looks: Any) -> None:
    open_run(page, site, site.run("failed", title="tea", fails=True))
    is_dark = looks["color_scheme"] == "dark"
    for place in ("body", ".error .message", ".badge", ".muted", "nav a", ".facts dt", "button.main", ".value"):
        assert contrast(page.locator(place).first) >= 4.5, place
    assert (luminance(background(page.locator("body"))) < 0.2) == is_dark


def background(of: Locator) -> str:
    found: str = of.evaluate(
        """e => { for (; e; e = e.parentElement) {
             const c = getComputedStyle(e).backgroundColor;
             if (!c.startsWith("rgba(0, 0, 0, 0")) return c; }
           return "rgb(255, 255, 255)"; }"""
    )
    return found


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(of: Locator) -> float:
    two = luminance(of.evaluate("e => getComputedStyle(e).color")), luminance(background(of))
    return (max(two) + 0.05) / (min(two) + 0.05)


def test_pages_are_complete_without_scripts(browser: Browser, site: Inspected) -> None:
    run_id = site.run("waiting", title="tea")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/waiting")
    page.get_by_role("link", name=run_id).click()
    expect(page.locator("#part-methods")).to_contain_text("draft")
    expect(page.locator("#h-events")).not_to_be_visible()

    page.get_by_label("Approved").select_option("yes")
    page.get_by_role("button", name="Send decided").click()
    expect(page.locator(".done")).to_have_text("The signal is stored.")
    site.wait(run_id, "finished")
    page.reload()
    expect(page.locator("#part-result")).to_contain_text("About tea.")
    context.close()
