"""The main job from outside, with the real processes of `make run` and a real browser.

A developer lands on the price list, signs up, pays, is shown the key that the webhook issued,
calls the API and sees the call in the dashboard.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from tests.product import Product, running

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PASSWORD = "correct horse battery"
KEY = re.compile(r"ks_live_[0-9A-Za-z]{48}")
_serial = count(1)


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Iterator[Product]:
    with running(tmp_path_factory.mktemp("main-path") / "data") as product:
        yield product


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
            ],
        )
        yield browser
        browser.close()


@contextmanager
def visitor(browser: Browser, viewport: dict[str, int] = DESKTOP) -> Iterator[Page]:
    """A page of somebody new. Ends by asserting that no page complained in the console."""
    context: BrowserContext = browser.new_context(viewport=viewport)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def listen(message: ConsoleMessage) -> None:
        # Chromium reports a page's own status of 4xx as an error, too.
        if message.type == "error" and message.location["url"] != page.url:
            complaints.append(message.text)

    page.on("console", listen)
    try:
        yield page
    finally:
        context.close()
    assert complaints == []


def new_address() -> str:
    return f"dev{next(_serial)}@example.com"


def sign_up(page: Page, email: str) -> None:
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()


def start_checkout(page: Page, product: Product, plan: str = "Pro", email: str = "") -> str:
    """From the price list through sign-up to the provider's page; the buyer's address."""
    email = email or new_address()
    page.goto(f"{product.site}/pricing")
    page.get_by_role("link", name=f"Buy {plan}").click()
    sign_up(page, email)
    page.get_by_role("button", name="Continue to payment").click()
    expect(page.get_by_text("Test mode: no money moves")).to_be_visible()
    return email


def pay(page: Page, card: str = "4242 4242 4242 4242") -> None:
    page.get_by_label("Card number").fill(card)
    page.get_by_role("button", name=re.compile("^Pay ")).click()


def show_key(page: Page) -> str:
    """Waits for the key that the payment's webhook issues, and has it shown."""
    page.get_by_role("button", name="Show my key").click(timeout=20_000)
    return page.get_by_role("region", name="The key").inner_text().strip()


def buy(page: Page, product: Product, plan: str = "Pro", email: str = "") -> str:
    start_checkout(page, product, plan, email)
    pay(page)
    return show_key(page)


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def call(product: Product, key: str, path: str = "/v1/next/DE") -> requests.Response:
    return requests.get(
        f"{product.gateway}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=10
    )


def eventually(question: Callable[[], Any], seconds: float = 15) -> Any:
    """The first true answer, or the last one."""
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def files_with(secret: bytes, product: Product) -> tuple[list[Path], list[Path]]:
    """All files of the data folder with the log, and those of them that hold the secret.

    Begins again when a file went away meanwhile: Postgres renames those of its log, and what
    was in the old one may be in one that was not listed.
    """
    for _ in range(20):
        files = [path for path in product.data_dir.rglob("*") if path.is_file()] + [product.log]
        try:
            return files, [path for path in files if secret in path.read_bytes()]
        except FileNotFoundError:
            continue
    raise AssertionError("the data folder never held still")


def letters(page: Page, product: Product, email: str) -> list[tuple[str, str]]:
    """Subject and address in the mailbox of what was mailed to `email`, the newest first."""
    page.goto(f"{product.site}/demo/mail/")
    links = page.locator(f'a:has-text("to {email}")')
    return [
        (link.locator("strong").inner_text(), str(link.get_attribute("href")))
        for link in links.all()
    ]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_visitor_becomes_a_paying_caller(product, browser, viewport):
    with visitor(browser, viewport) as page:
        page.goto(f"{product.site}/pricing")
        assert fits(page)

        start_checkout(page, product)
        assert fits(page)
        pay(page)
        key = show_key(page)
        assert KEY.fullmatch(key)
        assert fits(page)
        command = page.get_by_role("region", name="The command").inner_text()
        answer = subprocess.run(command, shell=True, capture_output=True, check=True, text=True)  # noqa: S602
        called_at = time.monotonic()
        assert json.loads(answer.stdout)["country"] == "DE"

        page.goto(f"{product.site}/dashboard/")
        expect(page.get_by_text("GET /v1/next/{country}").first).to_be_visible(timeout=5_000)
        assert time.monotonic() - called_at < 8  # 5 s, and the page's own load
        assert fits(page)
        page.goto(f"{product.site}/dashboard/keys/")
        assert key not in page.content()
        assert fits(page)


def test_a_call_appears_on_an_open_dashboard_within_five_seconds(product, browser):
    with visitor(browser) as page:
        key = buy(page, product)
        assert call(product, key).ok
        page.goto(f"{product.site}/dashboard/")
        expect(page.get_by_text("GET /v1/next/{country}").first).to_be_visible()

        assert call(product, key, "/v1/countries").ok

        expect(page.get_by_text("GET /v1/countries").first).to_be_visible(timeout=5_000)


def test_no_secret_is_kept_anywhere(product, browser):
    with visitor(browser) as page:
        key = buy(page, product)
    assert call(product, key).ok
    with psycopg.connect(product.facts["database_url"], autocommit=True) as connection:
        connection.execute("CHECKPOINT")

    searched, holders = files_with(key.encode(), product)

    assert any(path.name.endswith(".aof") for path in searched)
    assert holders == []


def test_reloading_the_page_of_a_key_does_not_show_it_again(product, browser):
    with visitor(browser) as page:
        key = buy(page, product)

        page.reload()

        assert key not in page.content()
        assert not KEY.search(page.content())
        expect(page.get_by_role("link", name="Rotate the key")).to_be_visible()


def test_the_mailed_link_claims_the_key_once_on_another_browser(product, browser):
    with visitor(browser) as buyer, visitor(browser) as other, visitor(browser) as third:
        email = start_checkout(buyer, product)
        pay(buyer)
        expect(buyer.get_by_role("button", name="Show my key")).to_be_visible(timeout=20_000)
        mail = eventually(
            lambda: [path for subject, path in letters(other, product, email) if "key" in subject]
        )
        other.goto(product.site + mail[0])
        link = re.search(r"http://\S+/claim/[^/\s]+/", other.inner_text("main"))
        assert link is not None

        for opened in (third, other):
            opened.goto(link[0])
            assert not KEY.search(opened.content())
        other.get_by_role("button", name="Show my key").click()
        key = other.get_by_role("region", name="The key").inner_text().strip()

        assert call(product, key).ok
        third.get_by_role("button", name="Show my key").click()
        expect(third.get_by_role("heading", name="does not work any more")).to_be_visible()
        buyer.get_by_role("button", name="Show my key").click()
        assert not KEY.search(buyer.content())


def test_a_declined_card_stays_on_the_page_and_another_one_pays(product, browser):
    with visitor(browser) as page:
        start_checkout(page, product, "Basic")

        pay(page, "4000 0000 0000 0002")

        expect(page.get_by_role("alert").filter(has_text="Nothing was charged")).to_be_visible()
        pay(page)
        assert call(product, show_key(page)).ok


def test_a_delayed_payment_issues_the_key_when_the_money_arrives(product, browser):
    with visitor(browser) as page:
        start_checkout(page, product, "Basic")

        pay(page, "4000 0000 0000 0077")

        expect(page.get_by_text("ordered, not paid yet")).to_be_visible(timeout=10_000)
        page.get_by_role("button", name="Show my key").click(timeout=60_000)
        key = page.get_by_role("region", name="The key").inner_text().strip()
        assert call(product, key).ok


def test_free_gives_a_key_once_the_address_is_verified(product, browser):
    with visitor(browser) as page:
        email = new_address()
        page.goto(f"{product.site}/pricing")
        page.get_by_role("link", name="Start free").click()
        sign_up(page, email)
        page.get_by_role("link", name="Verify my address").click()
        form = page.url
        if page.get_by_role("button", name=re.compile("^(Send|Mail)")).count():
            page.get_by_role("button", name=re.compile("^(Send|Mail)")).first.click()
        mail = eventually(
            lambda: [p for subject, p in letters(page, product, email) if "code" in subject.lower()]
        )
        page.goto(product.site + mail[0])
        code = re.search(r"\b(\d{6})\b", page.inner_text("main"))
        assert code is not None
        page.goto(form)
        page.get_by_label(re.compile("code", re.IGNORECASE)).first.fill(code[1])
        page.get_by_role("button", name=re.compile("^Verify|^Confirm")).first.click()
        page.get_by_role("button", name="Start Free").click()

        key = show_key(page)

        answer = call(product, key)
        assert answer.ok
        assert answer.headers["Keystile-Quota-Remaining"] == "499"


def test_an_outsider_gets_404_for_everything_of_another_account(product, browser):
    with visitor(browser) as owner:
        start_checkout(owner, product)
        pay(owner)
        owner.wait_for_url("**/checkout/*/")
        checkout = owner.url
        show_key(owner)
        owner.goto(f"{product.site}/dashboard/keys/")
        links = {
            str(link.get_attribute("href"))
            for link in owner.get_by_role("link", name=re.compile("Rotate|Revoke")).all()
        }
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{product.site}/signup/")
    sign_up(page, new_address())

    urls = [checkout, *(product.site + path for path in links)]
    statuses = {url: context.request.get(url).status for url in urls}

    assert len(statuses) >= 3
    assert set(statuses.values()) == {404}, statuses
    context.close()


def test_suspended_by_staff_holds_on_the_next_call(product, browser):
    with visitor(browser) as page:
        email = new_address()
        key = buy(page, product, email=email)
    assert call(product, key).ok
    with visitor(browser) as staff:
        staff.goto(f"{product.site}/admin/")
        staff.locator("input[name=username]").fill(product.facts["staff_email"])
        staff.locator("input[name=password]").fill(product.facts["staff_password"])
        staff.locator("input[type=submit], button[type=submit]").first.click()
        staff.goto(f"{product.site}/admin/portal/account/?q={email}")
        staff.locator("#result_list tbody th a").first.click()

        staff.get_by_role("link", name=re.compile("Suspend")).first.click()
        staff.get_by_role("button", name=re.compile("Suspend")).first.click()
        staff.wait_for_load_state()

        assert call(product, key).json()["code"] == "account_suspended"
