"""A new pepper: what was digested under the one before works until that is taken away."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import issuance, leaks, peppers, service_tokens, tokens
from keys.models import ApiKey
from portal.models import User
from tests import traffic
from tests.factories import make_account, make_api
from tests.traffic import ask, entitle, make_key, put_on_sale, terms
from tests.upstream import serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

OLD, NEW = "the pepper of last year", "the pepper of this year"


@pytest.fixture
def account(settings):
    settings.KEY_PEPPER, settings.KEY_PEPPER_PREVIOUS = OLD, ""
    account = make_account()
    entitle(account, terms())
    return account


def renew(settings, previous=OLD):
    settings.KEY_PEPPER, settings.KEY_PEPPER_PREVIOUS = NEW, previous


def test_the_current_pepper_comes_first_and_none_comes_twice(settings):
    renew(settings)
    assert tokens.digests("x") == (peppers.digest(NEW, "x"), peppers.digest(OLD, "x"))

    renew(settings, previous=NEW)
    assert tokens.digests("x") == (tokens.digest("x"),)


def test_a_pepper_s_id_does_not_tell_it(settings):
    settings.KEY_PEPPER = NEW

    assert len(peppers.current_id()) == 8
    assert peppers.current_id() == peppers.current_id()
    assert peppers.current_id() not in NEW


def test_claim_links_tokens_and_reports_of_leaks_outlive_the_pepper(account, settings):
    now = timezone.now()
    first = issuance.issue_first(account, now)
    link = issuance.claim_link(first, now)
    token, text = service_tokens.create(
        account,
        name="CI",
        scopes=["keys:read"],
        expires_at=None,
        actor=None,
        address=None,
        now=now,
    )
    key, secret = make_key(account)

    renew(settings)

    assert issuance.key_of_link(link, now) == first
    claimed, _ = issuance.claim_by_link(link, address=None, now=now)
    assert not claimed.has_older_pepper
    assert service_tokens.find(text, now) == token
    assert token.has_older_pepper
    assert leaks.treat(secret, leaks.Find("a test"), now)
    key.refresh_from_db()
    assert key.state == ApiKey.State.REVOKED

    renew(settings, previous="")
    assert service_tokens.find(text, now) is None


def test_rotation_moves_a_key_to_the_new_pepper(account, settings):
    key, _ = make_key(account)
    renew(settings)

    new, secret = issuance.rotate(
        key.pk,
        account,
        overlap=timedelta(hours=1),
        actor=None,
        address=None,
        now=timezone.now(),
    )

    assert key.has_older_pepper
    assert not new.has_older_pepper
    assert new.digest == peppers.digest(NEW, secret)


def test_rows_from_before_peppers_had_ids_need_the_older_of_two(account, settings):
    key, _ = make_key(account)
    ApiKey.objects.filter(pk=key.pk).update(pepper_id="")
    key.refresh_from_db()

    assert not key.has_older_pepper
    assert not ApiKey.objects.filter(peppers.older()).exists()
    renew(settings)
    assert key.has_older_pepper
    assert ApiKey.objects.filter(peppers.older()).get() == key


def test_customers_and_staff_see_which_keys_are_to_be_rotated(account, settings):
    make_api()
    make_key(account)
    issuance.console_key(account, timezone.now())
    browser, desk = Client(), Client()
    backend = "django.contrib.auth.backends.ModelBackend"
    browser.force_login(account.members.get(), backend)
    desk.force_login(User.objects.create_superuser("s@example.com", "a long enough one"), backend)
    listed = reverse("admin:keys_apikey_changelist") + "?pepper=older"

    assert "rotate it" not in browser.get(reverse("keys")).content.decode()
    renew(settings)
    settings.KEY_PEPPER_PREVIOUS_ENDS = timezone.now().date().replace(2031, 1, 31)

    assert "rotate it before 31 January 2031" in browser.get(reverse("keys")).content.decode()
    assert "key under the older pepper" in desk.get("/admin/").content.decode()
    assert "1 API key" in desk.get(listed).content.decode()


def test_the_gateway_takes_keys_of_both_peppers_and_strangers_of_none(account, settings):
    _, old = make_key(account)
    renew(settings)
    _, new = make_key(account)

    def status(port, secret):
        return ask(port, "GET", "/demo/echo", {"X-API-Key": secret}).status

    with serving() as upstream:
        put_on_sale(upstream.url)
        with traffic.gateway(KEY_PEPPER=NEW, KEY_PEPPER_PREVIOUS=OLD) as gateway:
            stranger = tokens.draw("live", 0).text
            assert [status(gateway.port, text) for text in (old, new, stranger)] == [200, 200, 401]
        with traffic.gateway(KEY_PEPPER=NEW) as gateway:
            assert [status(gateway.port, text) for text in (old, new)] == [401, 200]
