"""The keys page: a secret leaves in one response, an act happens once, “revoked” is true."""

import re
from datetime import timedelta

import pytest
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from keys import issuance, publish, records, tokens
from keys.models import ApiKey, KeyEvent
from portal.demo import seed
from portal.key_pages import duration_in_words, rows_of
from tests.factories import make_account, make_api, make_member
from tests.markup import Page, faults
from tests.test_publish import redis_away
from tests.traffic import Customer, entitle, make_key, terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

SECRET = re.compile(r"ks_(?:live|test)_[0-9]{2}[0-9A-Za-z]{46}")


def new_customer():
    account = make_account()
    entitle(account, terms())
    return Customer(account, *make_key(account))


def signed_in(customer):
    client = Client()
    owner = customer.account.members.get()
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def customer():
    make_api()
    return new_customer()


@pytest.fixture
def browser(customer):
    return signed_in(customer)


def secrets_in(answer):
    return set(SECRET.findall(answer.content.decode()))


def form_of(browser, page, **fields):
    """The page's form as a browser would send it, its one-time token included."""
    html = browser.get(page).content.decode()
    return {"once": Page(html).one("input", name="once").attributes["value"], **fields}


def create(browser, **fields):
    page = reverse("key_create")
    form = form_of(browser, page, **({"name": "Laptop", "mode": "live"} | fields))
    return form, browser.post(page, form)


def test_a_created_key_is_shown_with_a_command_that_holds_it(browser, customer):
    _, answer = create(browser)

    key = customer.account.keys.get(name="Laptop")
    (secret,) = secrets_in(answer)
    assert tokens.digest(secret) == key.digest
    assert key.created_by == customer.account.memberships.get().user
    assert f"Authorization: Bearer {secret}" in Page(answer.content.decode()).all("code")[1].text
    assert records.connection().exists(records.key_name(0, key.digest))


def test_a_test_key_is_marked_as_one(browser, customer):
    _, answer = create(browser, mode="test")

    assert secrets_in(answer).pop().startswith("ks_test_")
    assert "never billed" in browser.get(reverse("keys")).content.decode()


def test_a_secret_is_stored_by_no_browser_and_shown_on_no_other_page(browser, customer):
    _, answer = create(browser)

    assert "no-store" in answer["Cache-Control"]
    for page in ("keys", "overview", "live_overview"):
        assert not secrets_in(browser.get(reverse(page)))


def test_a_reloaded_creation_makes_no_second_key_and_shows_nothing(browser, customer):
    form, first = create(browser)

    second = browser.post(reverse("key_create"), form)

    assert "sent already" in second.content.decode()
    assert secrets_in(first)
    assert not secrets_in(second)
    assert customer.account.keys.filter(name="Laptop").count() == 1


def test_with_redis_away_nothing_is_made_and_the_same_form_works_later(browser, customer, settings):
    form = form_of(browser, reverse("key_create"), name="Laptop", mode="live")
    with override_settings(
        CACHES={"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    ):
        refused = browser.post(reverse("key_create"), form)
        made = customer.account.keys.filter(name="Laptop").count()

    later = browser.post(reverse("key_create"), form)

    assert (refused.status_code, made) == (503, 0)
    assert "could not be checked now" in refused.content.decode()
    assert faults(refused.content.decode()) == []
    assert secrets_in(later)


def test_a_form_of_another_member_makes_nothing(browser, customer):
    form = form_of(signed_in(new_customer()), reverse("key_create"), name="Stolen", mode="live")

    answer = browser.post(reverse("key_create"), form)

    assert not secrets_in(answer)
    assert not customer.account.keys.filter(name="Stolen").exists()


@pytest.mark.parametrize(
    "fields", [{"name": ""}, {"name": "x" * 81}, {"mode": "root"}, {"name": "   "}]
)
def test_a_faulty_form_comes_back_with_what_was_typed(browser, customer, fields):
    _, answer = create(browser, **fields)

    assert answer.status_code == 422
    assert 'class="errorlist"' in answer.content.decode()
    assert customer.account.keys.count() == 1


def test_a_full_plan_says_so_and_makes_nothing(browser, customer):
    now = timezone.now()
    for number in range(9):
        issuance.create(
            customer.account, name=f"{number}", mode="test", actor=None, address=None, now=now
        )

    _, answer = create(browser)

    assert answer.status_code == 422
    assert "allows no more keys" in answer.content.decode()


def test_a_claim_shows_the_secret_once_and_a_get_never(browser, customer):
    key = issuance.issue_first(customer.account, timezone.now())
    page = reverse("key_claim", args=[key.pk])

    looked, claimed, again = browser.get(page), browser.post(page), browser.post(page)

    key.refresh_from_db()
    assert looked.status_code == 302
    assert tokens.digest(secrets_in(claimed).pop()) == key.digest
    assert "has been shown already" in again.content.decode()
    assert not secrets_in(again)
    assert reverse("key_rotate", args=[key.pk]) in again.content.decode()


def test_the_list_offers_to_show_a_key_that_nobody_has_seen(browser, customer):
    key = issuance.issue_first(customer.account, timezone.now())

    html = browser.get(reverse("keys")).content.decode()

    assert Page(html).one("form", action=reverse("key_claim", args=[key.pk]))


@pytest.mark.parametrize(
    ("hours", "overlap"), [("1", timedelta(hours=1)), ("168", timedelta(days=7))]
)
def test_a_rotation_shows_the_new_key_and_leaves_the_old_one_its_time(
    browser, customer, hours, overlap
):
    page = reverse("key_rotate", args=[customer.key.pk])
    before = timezone.now()

    answer = browser.post(page, form_of(browser, page, overlap=hours))

    old = ApiKey.objects.get(pk=customer.key.pk)
    assert tokens.digest(secrets_in(answer).pop()) == old.successors.get().digest
    assert before + overlap <= old.expires_at <= timezone.now() + overlap
    assert "works until" in answer.content.decode()
    assert "retires in" in browser.get(reverse("keys")).content.decode()


def test_a_rotation_without_overlap_ends_the_old_key_at_once(browser, customer):
    page = reverse("key_rotate", args=[customer.key.pk])

    answer = browser.post(page, form_of(browser, page, overlap="0"))

    record = records.connection().hgetall(records.key_name(0, customer.key.digest))
    assert record[b"state"] == b"revoked"
    assert "is revoked" in answer.content.decode()


def test_a_reloaded_rotation_rotates_nothing(browser, customer):
    page = reverse("key_rotate", args=[customer.key.pk])
    form = form_of(browser, page, overlap="24")
    browser.post(page, form)

    again = browser.post(page, form)

    assert "sent already" in again.content.decode()
    assert not secrets_in(again)
    assert customer.account.keys.count() == 2


def test_a_revoked_key_can_t_be_rotated(browser, customer):
    page = reverse("key_rotate", args=[customer.key.pk])
    form = form_of(browser, page, overlap="24")
    browser.post(reverse("key_revoke", args=[customer.key.pk]))

    answer = browser.post(page, form, follow=True)

    assert "not active any more" in answer.content.decode()
    assert customer.account.keys.count() == 1


def test_a_revocation_asks_first_and_names_what_breaks(browser, customer):
    answer = browser.get(reverse("key_revoke", args=[customer.key.pk]))

    html = answer.content.decode()
    assert customer.key.name in Page(html).one("h1").text
    assert customer.key.hint in html
    assert "revoked_key" in html
    customer.key.refresh_from_db()
    assert customer.key.state == ApiKey.State.ACTIVE


def test_the_question_comes_as_a_dialog_s_content_to_htmx(browser, customer):
    page = reverse("key_revoke", args=[customer.key.pk])

    html = browser.get(page, headers={"HX-Request": "true"}).content.decode()

    assert "<html" not in html
    assert Page(html).by_id("dialog-title").tag == "h2"


def test_revoked_is_said_when_the_gateway_has_it(browser, customer):
    answer = browser.post(reverse("key_revoke", args=[customer.key.pk]), follow=True)

    record = records.connection().hgetall(records.key_name(0, customer.key.digest))
    event = customer.key.events.get(kind=KeyEvent.Kind.REVOKED)
    assert record[b"state"] == b"revoked"
    assert "Revoked:" in answer.content.decode()
    assert event.address == "127.0.0.1"


def test_revoked_is_not_said_while_the_gateway_can_t_be_told(browser, customer):
    with redis_away():
        answer = browser.post(reverse("key_revoke", args=[customer.key.pk]), follow=True)

    html = answer.content.decode()
    assert "Revoked:" not in html
    assert "has not confirmed" in html
    assert "revoking…" in html

    publish.lagging(timezone.now())
    assert "revoking…" not in browser.get(reverse("keys")).content.decode()


def test_the_list_is_sent_again_only_where_it_changed(browser, customer):
    page = Page(browser.get(reverse("keys")).content.decode())
    poll = page.by_id("live").attributes["hx-get"]

    unchanged = browser.get(poll, headers={"HX-Request": "true"})
    create(browser)
    changed = browser.get(poll, headers={"HX-Request": "true"})

    news = Page(changed.content.decode())
    assert unchanged.status_code == 204
    assert "Laptop" in news.by_id("live-current").text
    assert not [e for e in news.elements if e.attributes.get("id") == "live-former"]
    assert news.by_id("live").attributes["hx-get"] != poll


def change(browser, key, **fields):
    page = reverse("key_page", args=[key.pk])
    return browser.post(page, {"name": key.name, "which_operations": "all"} | fields, follow=True)


def test_a_key_is_created_with_what_it_may_do(browser, customer):
    create(browser, allowed_networks="10.1.2.3/8\r\n\r\n2001:db8::1", read_only="on")

    key = customer.account.keys.get(name="Laptop")
    assert key.allowed_networks == ["10.0.0.0/8", "2001:db8::1/128"]
    assert key.read_only
    assert (
        "restricted"
        in Page(browser.get(reverse("keys")).content.decode()).by_id(f"key-{key.pk}").text
    )


def test_a_key_s_page_shows_what_it_may_do_and_who_did_what(browser, customer):
    answer = change(browser, customer.key, name="Shop", rate_per_second="0.5", burst="2")

    html = answer.content.decode()
    assert "Saved. The gateway has it" in html
    assert "0.5 calls a second, 2 at once" in html
    assert "Name: key → Shop" in html
    assert f"by {customer.account.members.get().email} from 127.0.0.1" in html


def test_saved_is_not_said_while_the_gateway_can_t_be_told(browser, customer):
    with redis_away():
        answer = change(browser, customer.key, read_only="on")

    assert "has not confirmed it yet" in answer.content.decode()
    assert "Saved." not in answer.content.decode()


def test_operations_are_ticked_from_what_is_on_sale(browser, customer):
    change(
        browser,
        customer.key,
        which_operations="some",
        allowed_operations=["holidays GET /v1/countries"],
    )

    customer.key.refresh_from_db()
    page = Page(browser.get(reverse("key_page", args=[customer.key.pk])).content.decode())
    ticked = [box.attributes["value"] for box in page.all("input", checked="")]
    assert customer.key.allowed_operations == ["holidays GET /v1/countries"]
    assert "holidays GET /v1/countries" in ticked
    assert "holidays GET /v1/next/{country}" not in ticked

    change(browser, customer.key, allowed_operations=["holidays GET /v1/countries"])
    customer.key.refresh_from_db()
    assert customer.key.allowed_operations == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"allowed_networks": "10.0.0.0/8\nhere"}, "Line 2, “here”, is not an address"),
        ({"allowed_referrers": "a b"}, "is not a site"),
        ({"which_operations": "some"}, "Tick at least one"),
        ({"which_operations": "some", "allowed_operations": ["x GET /"]}, "not one of the"),
        ({"rate_per_second": "1000000"}, "decimal point"),
        ({"rate_per_second": "100001"}, "allows the account 100,000"),
        ({"burst": "3"}, "needs a rate"),
        ({"burst": "99999999999999999999", "rate_per_second": "1"}, "allows the account"),
        ({"monthly_quota": "9" * 30}, "The largest is"),
        ({"expires_at": "2020-01-01"}, "This moment is over"),
        ({"expires_at": "9999-12-31"}, "earlier day"),
        ({"name": ""}, "This field is required"),
    ],
)
def test_a_setting_that_can_t_be_is_named_and_changes_nothing(browser, customer, fields, said):
    answer = change(browser, customer.key, **fields)

    html = answer.content.decode()
    assert answer.status_code == 422
    assert said in html
    assert faults(html) == []
    customer.key.refresh_from_db()
    assert customer.key.revision == 1


def test_an_end_that_was_not_touched_stays_to_the_second(browser, customer):
    end = timezone.now() + timedelta(days=9)
    ApiKey.objects.filter(pk=customer.key.pk).update(expires_at=end)
    customer.key.refresh_from_db()

    change(browser, customer.key, name="Shop", expires_at=f"{end:%Y-%m-%d}")
    customer.key.refresh_from_db()
    assert customer.key.expires_at == end

    change(browser, customer.key, name="Shop", expires_at="")
    customer.key.refresh_from_db()
    assert customer.key.expires_at is None


def test_a_revoked_key_has_a_page_and_no_form(browser, customer):
    browser.post(reverse("key_revoke", args=[customer.key.pk]))

    html = browser.get(reverse("key_page", args=[customer.key.pk])).content.decode()
    answer = change(browser, customer.key, name="Shop")

    assert 'name="allowed_networks"' not in html
    assert "can’t be changed" in answer.content.decode()


def test_a_viewer_sees_a_key_s_page_and_changes_nothing(customer):
    viewer = Client()
    viewer.force_login(
        make_member(customer.account, "viewer"), "django.contrib.auth.backends.ModelBackend"
    )

    seen = viewer.get(reverse("key_page", args=[customer.key.pk]))
    answer = change(viewer, customer.key, name="Shop")

    assert seen.status_code == 200
    assert 'name="allowed_networks"' not in seen.content.decode()
    assert answer.status_code == 403
    customer.key.refresh_from_db()
    assert customer.key.name == "key"


def test_the_pages_are_sound(browser, customer):
    pages = [reverse("keys"), reverse("key_create")]
    pages += [
        reverse(name, args=[customer.key.pk]) for name in ("key_page", "key_rotate", "key_revoke")
    ]

    for page in pages:
        assert faults(browser.get(page).content.decode()) == []
    assert faults(create(browser)[1].content.decode()) == []


def test_a_row_says_what_a_key_is_good_for():
    now = timezone.now()
    state = ApiKey.State

    def condition(**fields):
        return rows_of([ApiKey(**{"state": state.ACTIVE, "mode": "live"} | fields)], now)[0]

    assert condition().condition == "active"
    assert condition(expires_at=now + timedelta(hours=2, seconds=1)).ends_in == "2 h 0 min"
    assert condition(expires_at=now).condition == "expired"
    assert condition(state=state.REVOKED, revision=2, published_revision=1).condition == "revoking"
    assert condition(state=state.REVOKED, revision=2, published_revision=2).condition == "revoked"


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(days=6, hours=3, minutes=59), "6 d 3 h"),
        (timedelta(hours=23, minutes=41, seconds=59), "23 h 41 min"),
        (timedelta(seconds=59), "0 min"),
        (timedelta(seconds=-5), "0 min"),
    ],
)
def test_durations_are_short_and_rounded_down(duration, words):
    assert duration_in_words(duration) == words


def test_a_call_can_be_tried_from_the_keys_page_by_whoever_may_use_keys(browser, customer):
    seed.holidays("http://127.0.0.1:9", "secret")
    viewer = Client()
    viewer.force_login(
        make_member(customer.account, "viewer"), "django.contrib.auth.backends.ModelBackend"
    )

    asked, watched = browser.get("/dashboard/keys/"), viewer.get("/dashboard/keys/")

    assert 'action="/try/holidays/"' in asked.content.decode()
    assert "/try/" not in watched.content.decode()
