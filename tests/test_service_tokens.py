"""Service tokens: shown once, kept as digests, published, limited, revoked for good."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from keys import issuance, publish, records, service_tokens, tokens
from keys.models import ServiceToken, ServiceTokenEvent
from portal.models import User
from tests.factories import make_account, make_member, make_user
from tests.markup import Page, faults
from tests.test_entitlements import apply
from tests.test_issuance import at_once
from tests.test_publish import redis_away

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BY = {"actor": None, "address": "192.0.2.7", "now": NOW}
TEXT = re.compile(r"kst_[0-9A-Za-z]{46}")


@pytest.fixture
def account():
    account = make_account()
    apply(account)
    return account


def create(account, scopes=("keys:read",), expires_at=None, **by):
    return service_tokens.create(
        account, name="CI", scopes=scopes, expires_at=expires_at, **(BY | by)
    )


def record(token):
    held = records.connection().hgetall(records.token_name(0, token.digest))
    return {name.decode(): value.decode() for name, value in held.items()}


def test_a_token_is_well_formed_and_no_key():
    text = service_tokens.draw()

    assert TEXT.fullmatch(text)
    assert service_tokens.is_well_formed(text)
    assert tokens.parse(text) is None
    assert not service_tokens.is_well_formed(tokens.draw("live", 0).text)


@given(st.integers(0, 49), st.characters(codec="ascii"))
def test_one_wrong_character_is_noticed_before_any_look_up(position, wrong):
    text = service_tokens.draw()
    changed = text[:position] + wrong + text[position + 1 :]

    assert service_tokens.is_well_formed(changed) == (changed == text)


def test_a_token_is_found_by_its_text_kept_as_a_digest_and_published(account):
    token, text = create(account, ("usage:read", "keys:read"), NOW + HOUR)

    assert service_tokens.find(text, NOW) == token
    assert token.digest == tokens.digest(text)
    assert record(token) == {
        "rev": "1",
        "id": str(token.pk),
        "account": str(account.pk),
        "state": "active",
        "scopes": "keys:read,usage:read",
        "expires_ms": str(int((NOW + HOUR).timestamp() * 1000)),
    }
    token.refresh_from_db()
    assert token.is_published
    rows = [*ServiceToken.objects.values(), *ServiceTokenEvent.objects.values(), record(token)]
    assert text not in str(rows)
    assert text[4:40] not in str(rows)


def test_a_seller_s_token_has_no_account_and_more_scopes():
    token, _ = create(None, ("verify", "events:write"))

    assert record(token)["account"] == ""
    assert record(token)["scopes"] == "verify,events:write"


@pytest.mark.parametrize("scopes", [("verify",), ("events:write",), ("root",), ()])
def test_an_account_gets_no_scope_of_the_seller_s(account, scopes):
    with pytest.raises(ValueError, match="scopes"):
        create(account, scopes)


def test_a_token_ends_when_it_expires_or_is_revoked(account):
    _, expiring_text = create(account, expires_at=NOW + HOUR)
    revoked, revoked_text = create(account)

    assert service_tokens.revoke(revoked, **BY).confirmed

    assert service_tokens.find(expiring_text, NOW + HOUR) is None
    assert service_tokens.find(revoked_text, NOW) is None
    assert record(revoked)["state"] == "revoked"
    assert [e.kind for e in revoked.events.order_by("id")] == ["created", "revoked"]


def test_a_revocation_that_cannot_be_confirmed_holds_here_and_arrives_later(account):
    token, text = create(account)

    with redis_away():
        assert not service_tokens.revoke(token, **BY).confirmed
        assert service_tokens.find(text, NOW) is None
    assert record(token)["state"] == "active"

    assert publish.lagging(NOW) == 1
    assert record(token)["state"] == "revoked"
    assert service_tokens.revoke(token, **BY).confirmed
    assert token.events.filter(kind="revoked").count() == 1


def test_tokens_are_published_again_to_an_empty_redis_except_those_long_dead(account):
    token, _ = create(account)
    dead, _ = create(account)
    service_tokens.revoke(dead, **BY)
    ServiceToken.objects.filter(pk=dead.pk).update(revoked_at=NOW - timedelta(days=400))
    records.connection().flushdb()

    assert publish.everything(0, NOW) == 2  # a token and the account

    assert record(token)["state"] == "active"
    assert record(dead) == {}


def test_use_is_stamped_at_most_once_a_minute(account):
    token, text = create(account)

    service_tokens.find(text, NOW)
    service_tokens.find(text, NOW + timedelta(seconds=59))
    token.refresh_from_db()
    assert token.last_used_at == NOW

    service_tokens.find(text, NOW + timedelta(seconds=61))
    token.refresh_from_db()
    assert token.last_used_at == NOW + timedelta(seconds=61)


def test_an_account_has_so_many_tokens_however_many_ask_at_once(account):
    for _ in range(service_tokens.MOST_PER_ACCOUNT - 2):
        create(account)
    create(account, expires_at=NOW - HOUR)

    results = at_once(*[lambda: create(account)] * 4)

    refused = [r for r in results if isinstance(r, service_tokens.TokenLimitReached)]
    assert len(refused) == 2


def test_an_account_that_never_had_a_plan_gets_no_token():
    with pytest.raises(issuance.NotEntitled):
        create(make_account())


# ------------------------------------------------------------------ the dashboard's page


def signed_in(user):
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def form_of(browser, page, **fields):
    html = browser.get(page).content.decode()
    return {"once": Page(html).one("input", name="once").attributes["value"], **fields}


@pytest.fixture
def browser(account):
    return signed_in(account.members.get())


def test_a_member_makes_a_token_and_sees_it_once(browser, account):
    page = reverse("token_create")
    form = form_of(browser, page, name="CI", scopes=["keys:read"])

    answer, again = browser.post(page, form), browser.post(page, form)

    (text,) = set(TEXT.findall(answer.content.decode()))
    token = account.service_tokens.get()
    assert token.digest == tokens.digest(text)
    assert token.created_by == account.members.get()
    assert "no-store" in answer["Cache-Control"]
    assert "sent already" in again.content.decode()
    listed = browser.get(reverse("tokens")).content.decode()
    assert token.hint in listed
    assert not TEXT.findall(listed)
    assert faults(answer.content.decode()) == faults(listed) == []


@pytest.mark.parametrize(
    "fields", [{"scopes": []}, {"scopes": ["verify"]}, {"name": ""}, {"expires_at": "2020-01-01"}]
)
def test_a_faulty_form_makes_nothing(browser, account, fields):
    page = reverse("token_create")

    answer = browser.post(
        page, form_of(browser, page, **({"name": "CI", "scopes": ["keys:read"]} | fields))
    )

    assert answer.status_code == 422
    assert faults(answer.content.decode()) == []
    assert not account.service_tokens.exists()


def test_a_token_is_revoked_after_a_question(browser, account):
    token, _ = create(account)
    page = reverse("token_revoke", args=[token.pk])

    asked = browser.get(page)
    answer = browser.post(page, follow=True)

    assert faults(asked.content.decode()) == []
    assert "Revoked: CI is refused" in answer.content.decode()
    token.refresh_from_db()
    assert token.revoked_at is not None


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_outsider_gets_404_for_another_account_s_token(account, method):
    token, _ = create(account)
    user = make_user()
    apply(make_account(user))

    answer = getattr(signed_in(user), method)(reverse("token_revoke", args=[token.pk]))

    assert answer.status_code == 404
    assert token.hint not in signed_in(user).get(reverse("tokens")).content.decode()
    token.refresh_from_db()
    assert token.revoked_at is None


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_who_may_not_manage_keys_makes_and_revokes_no_token(account, role):
    token, _ = create(account)
    browser = signed_in(make_member(account, role))

    assert browser.get(reverse("tokens")).status_code == 200
    assert browser.get(reverse("token_create")).status_code == 403
    assert browser.post(reverse("token_revoke", args=[token.pk])).status_code == 403
    token.refresh_from_db()
    assert token.revoked_at is None


def test_who_sees_no_invoices_makes_no_token_that_reads_them(browser, account):
    page = reverse("token_create")
    given = {"name": "Books", "scopes": ["invoices:read"]}
    developer = signed_in(make_member(account, "developer"))

    refused = developer.post(page, form_of(developer, page, **given))
    assert refused.status_code == 422
    assert not account.service_tokens.exists()

    browser.post(page, form_of(browser, page, **given))
    assert account.service_tokens.get().scopes == ["invoices:read"]


# ------------------------------------------------------------------ the admin's page


@pytest.fixture
def desk():
    return signed_in(User.objects.create_superuser("staff@example.com", "a long enough one"))


def test_staff_make_the_seller_s_tokens_and_see_each_once(desk):
    page = reverse("admin:keys_servicetoken_add")
    form = form_of(desk, page, name="Backend", scopes=["verify"])

    answer, again = desk.post(page, form), desk.post(page, form, follow=True)

    (text,) = set(TEXT.findall(answer.content.decode()))
    token = ServiceToken.objects.get()
    assert (token.account, token.digest) == (None, tokens.digest(text))
    assert token.events.get().actor.email == "staff@example.com"
    assert "no-store" in answer["Cache-Control"]
    assert "sent already" in again.content.decode()
    assert not TEXT.findall(again.content.decode())


def test_staff_revoke_any_token(desk, account):
    token, _ = create(account)
    page = reverse("admin:keys_servicetoken_deed", args=["revoke"])

    answer = desk.post(page, {"pk": str(token.pk)}, follow=True)

    assert "the gateway has confirmed it" in answer.content.decode()
    assert record(token)["state"] == "revoked"


def test_who_may_only_look_at_tokens_makes_none(account):
    user = make_user()
    user.is_staff = True
    user.save(update_fields=["is_staff"])

    answer = signed_in(user).get(reverse("admin:keys_servicetoken_add"))

    assert answer.status_code == 403
