"""`manage.py demo` makes a first state that works at once, and keeps it at every start."""

import json
import stat
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.models import Plan, Subscription
from gateway.models import Api, UsageEvent
from keys import records, tokens
from keys.models import ApiKey
from portal.demo import prices
from portal.demo.seed import HOLIDAYS_DOCUMENT
from portal.models import Account, User
from tests.shop import published

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def demo(settings, tmp_path, redis_clean):
    """Runs the command; what `demo.json` says afterwards."""
    settings.DATA_DIR = tmp_path

    def run(*arguments):
        call_command(
            "demo", *(arguments or ("--holidays", "http://127.0.0.1:9")), stdout=StringIO()
        )
        return json.loads((tmp_path / "demo.json").read_bytes())

    return run


def key_record(secret):
    return records.connection().hgetall(records.key_name(0, tokens.digest(secret)))


def test_the_first_run_leaves_a_paying_account_whose_key_works(demo, tmp_path):
    facts = demo()

    assert facts["api"] == "holidays"
    account = Account.objects.get(members__email=facts["demo_email"])
    assert published(account)["state"] == "active"
    assert published(account)["plan"] == "Pro"
    assert key_record(facts["demo_key"])[b"state"] == b"active"
    assert records.connection().exists(records.ready_name(0))
    assert b"/v1/next/{country}" in records.connection().hget(records.routes_name(0), "blob")
    assert stat.S_IMODE((tmp_path / "demo.json").stat().st_mode) == 0o600


def test_the_plan_was_bought_and_no_usage_invented(demo):
    facts = demo()

    account = Account.objects.get(members__email=facts["demo_email"])
    checkout = account.checkouts.get()
    subscription = account.subscriptions.get()
    assert (checkout.provider, checkout.state) == ("sandbox", "completed")
    assert subscription.state == Subscription.State.ACTIVE
    assert account.billing_events.get().mrr_minor == 200_00
    assert not UsageEvent.objects.exists()


def test_staff_and_customer_can_sign_in(demo, client):
    facts = demo()

    assert client.login(username=facts["staff_email"], password=facts["staff_password"])
    assert User.objects.get(email=facts["staff_email"]).is_superuser
    assert client.login(username=facts["demo_email"], password=facts["demo_password"])
    assert not User.objects.get(email=facts["demo_email"]).is_staff


def test_a_second_run_keeps_everything(demo):
    first = demo()
    api = Api.objects.get()
    api.operations.filter(path_template="/v1/slow").update(weights={"calls": 9})

    second = demo("--holidays", "http://127.0.0.1:10")

    assert second == first
    assert (Account.objects.count(), User.objects.count()) == (1, 2)
    assert ApiKey.objects.count() == 1
    assert Plan.objects.count() == len(prices.PLANS) + len(prices.BY_USE)
    api.refresh_from_db()
    assert api.upstream_url == "http://127.0.0.1:10", "the port of the built-in API may change"
    assert api.operations.get(path_template="/v1/slow").weights == {"calls": 9}


def test_a_lost_file_means_a_new_key_and_the_old_one_revoked(demo, tmp_path):
    first = demo()
    (tmp_path / "demo.json").unlink()

    second = demo()

    assert second["demo_key"] != first["demo_key"]
    assert key_record(first["demo_key"])[b"state"] == b"revoked"
    assert key_record(second["demo_key"])[b"state"] == b"active"


def test_an_emptied_redis_is_filled_again(demo):
    facts = demo()
    records.connection().flushdb()

    assert demo() == facts
    assert key_record(facts["demo_key"])[b"state"] == b"active"


def test_the_secret_is_in_the_file_only(demo):
    secret = demo()["demo_key"]

    redis = records.connection()
    for name in redis.keys("*"):
        assert secret.encode() not in redis.dump(name)
        assert secret.encode() not in name
    assert not ApiKey.objects.filter(digest=secret).exists()
    assert not ApiKey.objects.filter(name__contains=secret[-12:]).exists()


def test_a_changed_staff_password_is_left_alone(demo, client):
    facts = demo()
    staff = User.objects.get(email=facts["staff_email"])
    staff.set_password("their own choice")
    staff.save(update_fields=["password"])

    demo()

    assert client.login(username=facts["staff_email"], password="their own choice")


def test_an_ended_subscription_stays_ended(demo):
    facts = demo()
    account = Account.objects.get(members__email=facts["demo_email"])
    account.subscriptions.update(state="ended")

    again = demo()

    assert account.subscriptions.count() == 1
    assert again["demo_key"] == facts["demo_key"]


def test_the_sellers_own_api_is_sold_from_its_document(demo, tmp_path):
    document = tmp_path / "theirs.json"
    described = json.loads(HOLIDAYS_DOCUMENT.read_bytes())
    described["info"]["title"] = "Weather of Europe"
    document.write_text(json.dumps(described))
    demo()

    facts = demo("--upstream", "http://10.0.0.5:8000", "--openapi", str(document))

    assert facts["api"] == "weather-of-europe"
    assert "/gateway/weather-of-europe/v1/" in facts["demo_call"]
    api = Api.objects.get(slug="weather-of-europe")
    assert (api.upstream_url, api.unlisted) == ("http://10.0.0.5:8000", "refuse")
    assert api.allow_private_upstream
    assert not api.upstream_headers_sealed, "the demo's secret is for the demo's API"
    assert not Api.objects.get(slug="holidays").enabled


def test_an_api_without_a_document_is_forwarded_as_a_whole(demo):
    facts = demo("--upstream", "https://api.example.com/v2", "--api", "mine")

    api = Api.objects.get(slug=facts["api"])
    assert (api.slug, api.unlisted) == ("mine", "forward")
    assert not api.operations.exists()
    assert demo("--upstream", "http://10.0.0.5:8000")["api"] == "api"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--upstream", "ftp://x"), "must start with http"),
        (("--upstream", "http://x", "--openapi", "/nowhere.json"), "can't be read"),
        (("--upstream", "http://x", "--openapi", "http://127.0.0.1:9/"), "could not be reached"),
    ],
)
def test_what_cannot_be_sold_is_said_in_a_sentence(arguments, sentence, demo):
    with pytest.raises(CommandError, match=sentence):
        demo(*arguments)


def test_nothing_is_seeded_outside_a_demo(demo, settings):
    settings.DEMO = False

    with pytest.raises(CommandError, match="not a demo"):
        demo()
    assert not User.objects.exists()
