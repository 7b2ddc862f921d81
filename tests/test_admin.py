"""What staff do in the admin holds at the gateway, and who isn't staff gets nowhere."""

import json
from datetime import timedelta

import pytest
from auditlog.models import LogEntry
from django.contrib.admin.models import LogEntry as DjangoLogEntry
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing import add_ons, subscriptions
from billing import catalogue as price_list
from billing.models import (
    AddOn,
    Contract,
    EnterpriseRequest,
    PlanVersion,
    ProviderEvent,
    Subscription,
)
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from gateway import catalogue, identity
from gateway.models import Api, Meter, QuarantinedEntry, Routes, UsageRollup
from keys import issuance, records, tokens
from keys.models import ApiKey, Entitlement, KeyEvent
from portal.models import User
from tests.factories import make_account, make_api, make_plans
from tests.shop import published
from tests.test_publish import redis_away

# What is published at the gateway is published when a transaction commits.
commits = pytest.mark.django_db(transaction=True)

PAGES = [
    reverse("admin:index"),
    *(
        reverse(f"admin:{name}_changelist")
        for name in (
            "portal_account",
            "portal_user",
            "billing_enterpriserequest",
            "billing_plan",
            "billing_planversion",
            "billing_contract",
            "billing_creditpack",
            "billing_creditgrant",
            "billing_topup",
            "billing_subscription",
            "billing_checkout",
            "billing_invoice",
            "billing_billingevent",
            "billing_providerevent",
            "billing_shipment",
            "billing_reconciliation",
            "billing_reconciliationline",
            "billing_sandboxmeterevent",
            "gateway_api",
            "gateway_meter",
            "gateway_usagerollup",
            "gateway_refusalrollup",
            "gateway_countercorrection",
            "gateway_quarantinedentry",
            "keys_apikey",
            "keys_keyevent",
            "keys_servicetoken",
            "auditlog_logentry",
        )
    ),
    reverse("admin:ledger"),
    reverse("admin:analytics"),
    reverse("admin:gateway_api_import"),
]


@pytest.fixture
def staff(db, redis_clean):
    return User.objects.create_superuser("staff@example.com", "a long enough one")


@pytest.fixture
def desk(staff, client):
    """A signed-in member of staff's browser."""
    client.force_login(staff)
    return client


@pytest.fixture
def customer(staff):
    """An account on the paid plan “Basic” with an active key, and the key's secret."""
    account = make_account()
    version = make_plans()["basic"]
    now = timezone.now()
    Subscription.objects.create(
        account=account,
        version=version,
        provider="sandbox",
        state=Subscription.State.ACTIVE,
        started_at=now,
        period_start=now,
        period_end=now + timedelta(days=30),
        anchor_day=min(now.day, 28),
    )
    subscriptions.set_overage(account, "bill", now)
    _, secret = issuance.create(
        account, name="Server", mode="live", actor=None, address=None, now=now
    )
    return account, secret


def page_of(row):
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def do(desk, deed, row):
    """Follows a deed from its button to what it says in the end."""
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_deed"
    address = reverse(name, args=[deed])
    asked = desk.get(address, {"pk": row.pk})
    assert b'method="post"' in asked.content, "a deed asks before it is done"
    return desk.post(address, {"pk": row.pk}, follow=True)


def said(response):
    return " ".join(str(message) for message in response.context["messages"])


def test_every_page_opens_for_staff_and_sends_others_away(desk, customer):
    assert {page: desk.get(page).status_code for page in PAGES} == dict.fromkeys(PAGES, 200)

    account, _ = customer
    desk.force_login(account.members.get())
    for page in PAGES:
        sent_away = desk.get(page)
        assert sent_away.status_code == 302, page
        assert sent_away.url.startswith(reverse("admin:login"))


def test_a_page_makes_no_more_queries_for_ten_rows_than_for_one(
    desk, staff, customer, django_assert_max_num_queries
):
    for number in range(10):
        account = make_account(name=f"Customer {number}")
        issuance.issue_first(account, timezone.now())

    for page in PAGES:
        with django_assert_max_num_queries(20, info=page):
            desk.get(page)


@pytest.mark.parametrize(
    ("written", "kept", "reason"),
    [
        ("model\nregion", ["model", "region"], ""),
        ("", [], ""),
        ("the model", None, "“the model” is no name of metadata"),
        ("a\nb\nc\nd\ne", None, "4 dimensions at most"),
        ("model\nmodel", None, "named once"),
    ],
)
def test_a_meters_dimensions_are_names_of_metadata(desk, written, kept, reason):
    sent = {"name": "tokens", "label": "tokens", "dimensions": written}

    answer = desk.post(reverse("admin:gateway_meter_add"), sent)

    assert reason in answer.content.decode()
    stored = Meter.objects.filter(name="tokens").values_list("dimensions", flat=True)
    assert list(stored) == ([] if kept is None else [kept])


@commits
def test_staff_without_a_permission_do_not_get_the_pages_it_guards(staff, client):
    helper = User.objects.create_user("helper@example.com", "a long enough one", is_staff=True)
    account = make_account()
    client.force_login(helper)
    suspend = reverse("admin:portal_account_deed", args=["suspend"])

    answers = [
        client.get(reverse("admin:analytics")),
        client.get(reverse("admin:ledger")),
        client.get(reverse("admin:gateway_api_import")),
        client.post(suspend, {"pk": account.pk}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert published(account) == {}


def test_sign_in_to_the_admin_is_limited(staff, client):
    form = {"username": "staff@example.com", "password": "wrong"}
    for _ in range(10):
        client.post(reverse("admin:login"), form)

    answer = client.post(reverse("admin:login"), form)

    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0


# ------------------------------------------------------------------ accounts and keys


@commits
def test_a_suspension_holds_at_the_gateway_until_it_is_lifted(desk, customer):
    account, _ = customer

    suspended = do(desk, "suspend", account)
    assert published(account)["suspended"] == "1"
    assert "the gateway has confirmed it" in said(suspended)

    lifted = do(desk, "lift", account)
    assert published(account)["suspended"] == "0"
    assert "the gateway has confirmed it" in said(lifted)


@commits
def test_an_unconfirmed_suspension_says_so(desk, customer):
    account, _ = customer

    with redis_away():
        suspended = do(desk, "suspend", account)

    assert Entitlement.objects.get(account=account).suspended
    assert "NOT confirmed" in said(suspended)


def test_the_account_page_shows_what_it_may_do_and_has(desk, customer):
    account, secret = customer

    page = desk.get(page_of(account)).content.decode()

    assert "Basic" in page
    assert "10,000 included, past them billed" in page
    assert f"ks_live_…{secret[-4:]}" in page
    assert reverse("admin:billing_contract_add") + f"?account={account.pk}" in page


@commits
def test_no_page_shows_a_secret_or_a_digest(desk, customer):
    account, secret = customer
    key = account.keys.get(state=ApiKey.State.ACTIVE)
    event = key.events.first()
    pages = [*PAGES, page_of(account), page_of(key), page_of(event)]

    for page in pages:
        content = desk.get(page).content.decode()
        assert secret not in content
        assert tokens.digest(secret) not in content


@commits
def test_a_key_revoked_by_staff_is_refused_at_the_gateway(desk, staff, customer):
    account, secret = customer
    key = account.keys.get(state=ApiKey.State.ACTIVE)

    answer = do(desk, "revoke", key)

    record = records.connection().hgetall(records.key_name(0, tokens.digest(secret)))
    assert record[b"state"] == b"revoked"
    assert "the gateway has confirmed it" in said(answer)
    assert key.events.filter(kind=KeyEvent.Kind.REVOKED, actor=staff).exists()


def test_keys_are_never_added_or_changed_by_hand(desk, customer):
    account, _ = customer
    key = account.keys.first()

    added = desk.get(reverse("admin:keys_apikey_add"))
    changed = desk.post(page_of(key), {"name": "Other", "state": "active"})

    assert (added.status_code, changed.status_code) == (403, 403)


@pytest.mark.parametrize("words", ["Northwind", "a1b2", "01a20a21-8c2c-7579-abc3-e918bdbc698b"])
def test_searching_takes_names_ids_and_the_last_four(words, desk, customer):
    for name in ("keys_apikey", "portal_account", "billing_subscription", "gateway_usagerollup"):
        answer = desk.get(reverse(f"admin:{name}_changelist"), {"q": words})
        assert answer.status_code == 200


# ------------------------------------------------------------------ plans and contracts


def special(**units):
    """One special price of a form, for these units."""
    return json.dumps([units | {"tiers": [{"up_to": None, "price": "9.00", "per": 1000}]}])


def version_form(**changes):
    return {
        "currency": "usd",
        "interval": "month",
        "base_price": "80",
        "rate_per_second": 30,
        "burst": 30,
        "key_limit": 10,
        "test_quota_per_day": 200,
        "trial_days": 0,
        "trial_credits": 0,
        "monthly_credits": 0,
        "meters-TOTAL_FORMS": 1,
        "meters-INITIAL_FORMS": 0,
        "meters-0-included_units": 20000,
        "meters-0-past_included": "bill",
        "meters-0-credits_per_unit": 0,
        "meters-0-tier_mode": "graduated",
        "meters-0-tiers": '[{"up_to": null, "price": "4.00", "per": 1000}]',
        "meters-0-special_prices": "[]",
        **changes,
    }


def test_a_version_is_written_in_major_units_and_published_once(desk, customer):
    plan = make_plans()["basic"].plan
    calls = plan.versions.first().meters.first().meter
    form = version_form(plan=plan.pk, **{"meters-0-meter": calls.pk})

    desk.post(reverse("admin:billing_planversion_add"), form)
    version = plan.versions.get(number=2)
    assert (version.base_price_minor, version.currency) == (80_00, "USD")

    do(desk, "publish", version)
    version.refresh_from_db()
    assert version.published_at

    refused = desk.post(page_of(version), {**form, "base_price": "1"})
    version.refresh_from_db()
    assert refused.status_code == 403
    assert version.base_price_minor == 80_00


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"base_price": "49.999"}, "USD has 2 decimal places"),
        ({"currency": "US"}, "three letters"),
        ({"meters-0-tiers": '[{"up_to": 5, "price": "4", "per": 1}]'}, "The last tier"),
        ({"meters-0-tiers": "not JSON"}, "Enter a valid JSON"),
        ({"meters-0-special_prices": '[{"api": "holidays"}]'}, "A special price has"),
        ({"meters-0-special_prices": special(api="nowhere")}, "There is no API"),
        ({"meters-0-special_prices": special(operation="GET /v9")}, "not an operation on sale"),
        ({"meters-0-special_prices": special(dimensions={"size": "xl"})}, "dimensions of calls"),
    ],
)
def test_a_version_that_makes_no_sense_is_refused_with_a_sentence(change, sentence, desk, staff):
    plan = make_plans()["basic"].plan
    calls = plan.versions.first().meters.first().meter
    form = version_form(plan=plan.pk, **{"meters-0-meter": calls.pk}, **change)

    answer = desk.post(reverse("admin:billing_planversion_add"), form)

    assert sentence in answer.content.decode()
    assert plan.versions.count() == 1


def test_special_prices_are_drafted_shown_and_frozen(desk, staff):
    plan = make_plans()["basic"].plan
    api = make_api()
    Meter.objects.filter(name="calls").update(dimensions=["model"])
    path = reverse("admin:billing_planversion_add")
    meter = Meter.objects.get(name="calls").pk
    wanted = special(api=api.slug, operation="GET /v1/countries", dimensions={"model": "large"})
    form = version_form(
        plan=plan.pk, **{"meters-0-meter": meter, "meters-0-special_prices": wanted}
    )

    desk.post(path, form)

    draft = PlanVersion.objects.get(plan=plan, number=2)
    assert draft.meters.get().special_prices == json.loads(wanted)
    do(desk, "publish", draft)
    offer = next(one for one in price_list.offers() if one.plan == plan)
    assert "holidays GET /v1/countries, model large: $9 per 1,000" in offer.lines
    assert "GET /v1/countries" in desk.get(page_of(draft)).content.decode()
    with pytest.raises(ValidationError, match="promise"):
        draft.meters.get().save()


def test_the_next_version_is_drafted_from_the_published_one(desk, staff):
    version = make_plans()["pro"]

    do(desk, "draft", version)

    draft = PlanVersion.objects.get(plan=version.plan, number=2)
    assert draft.published_at is None
    assert draft.base_price_minor == version.base_price_minor
    assert draft.meters.get().tiers == version.meters.get().tiers


def contract_form(account, **changes):
    now = timezone.now() - timedelta(minutes=1)
    return {
        "account": account.pk,
        "title": "Enterprise agreement",
        "currency": "USD",
        "base_price": "5000",
        "rate_per_second": 500,
        "burst": 1000,
        "included_calls": 5_000_000,
        "past_included": "refuse",
        "credits_per_unit": 0,
        "tiers": "[]",
        "sla_text": "99.9 % a month",
        "starts_at_0": f"{now:%Y-%m-%d}",
        "starts_at_1": f"{now:%H:%M:%S}",
        "ends_at_0": "",
        "ends_at_1": "",
        **changes,
    }


@commits
def test_a_contract_holds_when_it_is_saved_changed_and_deleted(desk, customer):
    account, _ = customer

    desk.post(reverse("admin:billing_contract_add"), contract_form(account))
    assert (published(account)["rate"], published(account)["plan"]) == ("500", "Enterprise")

    contract = Contract.objects.get()
    desk.post(page_of(contract), contract_form(account, rate_per_second=700))
    assert published(account)["rate"] == "700"

    desk.post(reverse("admin:billing_contract_delete", args=[contract.pk]), {"post": "yes"})
    assert (published(account)["rate"], published(account)["plan"]) == ("20", "Basic")
    assert LogEntry.objects.filter(object_repr=str(contract)).count() >= 3


@commits
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ends_at_0": "2001-01-01", "ends_at_1": "00:00"}, "The end lies after the start"),
        ({"past_included": "bill"}, "price"),
        ({"rate_per_second": 0}, "greater than or equal to 1"),
        ({"base_price": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_contract_that_makes_no_sense_changes_nothing(change, sentence, desk, customer):
    account, _ = customer
    before = published(account)

    answer = desk.post(reverse("admin:billing_contract_add"), contract_form(account, **change))

    assert sentence in answer.content.decode()
    assert published(account) == before


# ------------------------------------------------------------------ inbox and requests


def test_a_dead_event_is_replayed(desk, staff):
    now = timezone.now()
    event = ProviderEvent.objects.create(
        provider="sandbox",
        external_id="msg_1",
        type="checkout.completed",
        payload={"data": {}},
        received_at=now,
        attempts=7,
        dead_at=now,
        error="ProviderUnavailable: away",
    )
    assert "provider event given up" in desk.get(reverse("admin:index")).content.decode()
    listed = desk.get(reverse("admin:billing_providerevent_changelist"), {"standing": "dead"})
    assert "ProviderUnavailable: away" in listed.content.decode()

    do(desk, "replay", event)

    event.refresh_from_db()
    assert (event.dead_at, event.attempts) == (None, 0)
    assert event.next_attempt_at is not None


def test_a_subscription_is_synced_with_its_provider(desk, shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    order = shop.order(account.checkouts.get())
    order.cancel_at_period_end = True
    order.save(update_fields=["cancel_at_period_end"])

    answer = do(desk, "sync", subscription)

    subscription.refresh_from_db()
    assert subscription.cancel_at_period_end
    assert "As sandbox says" in said(answer)
    assert not SandboxDelivery.objects.exists()


def test_staff_end_a_subscription_for_good(desk, shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())

    answer = do(desk, "end", subscription)

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ENDED
    assert published(account)["state"] == "ended"
    assert "has ended" in said(answer)


def test_what_a_provider_cannot_say_is_told_to_staff_and_not_applied(desk, shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    SandboxOrder.objects.update(state=SandboxOrder.State.ACTIVE)

    answer = do(desk, "sync", subscription)

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ENDED
    assert "sandbox says what cannot follow: ended → active" in said(answer)


def test_staff_answer_an_enterprise_request(desk, staff):
    wish = EnterpriseRequest.objects.create(
        name="Ada", email="ada@example.com", company="Analytical", message="A lot of calls"
    )
    assert "enterprise request to answer" in desk.get(reverse("admin:index")).content.decode()

    desk.post(page_of(wish), {"state": "answered", "company": "Other"})

    wish.refresh_from_db()
    assert (wish.state, wish.company) == ("answered", "Analytical")


# ------------------------------------------------------------------ APIs and usage


def api_form(api, **changes):
    operations = list(api.operations.all())
    rows = {
        "operations-TOTAL_FORMS": len(operations),
        "operations-INITIAL_FORMS": len(operations),
    }
    for number, operation in enumerate(operations):
        rows |= {
            f"operations-{number}-id": operation.pk,
            f"operations-{number}-api": api.pk,
            f"operations-{number}-method": operation.method,
            f"operations-{number}-path_template": operation.path_template,
            f"operations-{number}-summary": "",
            f"operations-{number}-weights": "{}",
            f"operations-{number}-max_units": "{}",
        }
    return {
        "name": api.name,
        "slug": api.slug,
        "description": "",
        "enabled": "on",
        "listed": "on",
        "unlisted": "refuse",
        "upstream_url": api.upstream_url,
        "test_upstream_url": "",
        "allow_private_upstream": "on",
        "upstream_headers": "",
        "connect_timeout_seconds": 5,
        "first_byte_timeout_seconds": 30,
        "idle_timeout_seconds": 60,
        "total_timeout_seconds": 300,
        "max_body_bytes": 1000,
        **rows,
        **changes,
    }


@commits
def test_a_changed_api_is_published_in_its_own_transaction(desk, staff):
    api = make_api()

    answer = desk.post(
        page_of(api),
        api_form(
            api, upstream_url="http://backend:8000/", **{"operations-0-weights": '{"calls": 3}'}
        ),
    )

    assert answer.status_code == 302, answer.context["errors"]
    routes = Routes.objects.get()
    assert routes.published_version == routes.version
    blob = records.connection().hget(records.routes_name(0), "blob").decode()
    assert '"upstream":"http://backend:8000"' in blob
    assert '{"calls":3}' in blob


def test_upstream_headers_go_in_and_never_come_out(desk, staff):
    api = make_api()

    desk.post(page_of(api), api_form(api, upstream_headers="X-Secret: s3cret-value"))
    api.refresh_from_db()
    assert catalogue.sealed_header_names(api) == ["X-Secret"]
    page = desk.get(page_of(api)).content.decode()
    assert "X-Secret" in page
    assert "s3cret-value" not in page

    desk.post(page_of(api), api_form(api))
    api.refresh_from_db()
    assert catalogue.sealed_header_names(api) == ["X-Secret"], "left empty, they stay"

    desk.post(page_of(api), api_form(api, remove_upstream_headers="on"))
    api.refresh_from_db()
    assert catalogue.sealed_header_names(api) == []
    assert not LogEntry.objects.filter(changes__icontains="s3cret-value").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"upstream_url": "ftp://backend"}, "must start with http"),
        ({"upstream_url": "http://user:pw@backend"}, "name or password"),
        ({"upstream_url": "http://backend/?x=1"}, "no query"),
        ({"upstream_url": "http://[::1"}, "not an address"),
        ({"upstream_headers": "Host: elsewhere"}, "set by the gateway itself"),
        ({"upstream_headers": "X-A: 1\nx-a: 2"}, "given twice"),
        ({"upstream_headers": "no colon"}, "Line 1"),
        ({"total_timeout_seconds": 1}, "less time than its first byte"),
        ({"connect_timeout_seconds": 0}, "greater than or equal to 1"),
        ({"idle_timeout_seconds": -1}, "greater than or equal to"),
        ({"first_byte_timeout_seconds": 40_000}, "less than or equal to 32767"),
        ({"max_body_bytes": -1}, "greater than or equal to 0"),
        ({"allow_private_upstream": ""}, "only where it is allowed"),
        ({"allow_private_upstream": "", "private_networks": "10.0.0.0/8"}, "only where it is"),
        ({"private_networks": "10.0.0.0/8\n10.0.0.5/16"}, "“10.0.0.5/16” has bits"),
        ({"private_networks": "backend.internal"}, "“backend.internal” is not a network"),
        ({"upstream_url": "http://169.254.169.254/latest"}, "which no backend may be on"),
        ({"test_upstream_url": "http://[fd00:ec2::254]"}, "which no backend may be on"),
        ({"operations-0-weights": '{"pages": 1}'}, "no meter “pages”"),
        ({"operations-0-weights": '{"calls": -1}'}, "whole number"),
        ({"operations-0-max_units": '{"calls": 5}'}, "counted by the gateway"),
        ({"operations-0-path_template": "/v1/../x"}, "segment"),
        ({"operations-0-path_template": "/v1/next/{x}", "operations-0-method": "GET",
          "operations-1-path_template": "/v1/next/{y}", "operations-1-method": "GET"},
         "would match both"),
    ],
)  # fmt: skip
def test_an_api_that_makes_no_sense_is_refused_with_a_sentence(change, sentence, desk, staff):
    api = make_api()

    answer = desk.post(page_of(api), api_form(api, **change))

    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert not Routes.objects.exists()


def test_an_api_may_stay_within_a_network_and_stream_without_end(desk, staff):
    api = make_api()

    answer = desk.post(
        page_of(api),
        api_form(
            api,
            allow_private_upstream="",
            private_networks="127.0.0.0/8\nfd12::/48",
            total_timeout_seconds=0,
        ),
    )

    assert answer.status_code == 302, answer.context["errors"]
    api.refresh_from_db()
    assert api.private_networks == ["127.0.0.0/8", "fd12::/48"]
    assert (api.allow_private_upstream, api.total_timeout_seconds) == (False, 0)
    assert "127.0.0.0/8\nfd12::/48" in desk.get(page_of(api)).content.decode()


def held_secrets(api):
    api.refresh_from_db()
    return identity.unseal(api.identity_sealed)


def test_a_signing_secret_is_shown_once_and_rotated_in_two_steps(desk, staff):
    api = make_api()
    address = reverse("admin:gateway_api_identity", args=[api.pk])

    drawn = desk.post(address, {"draw": "Draw"})
    (first,) = held_secrets(api)
    desk.post(address, {"draw": "Draw"})
    _, second = held_secrets(api)
    waiting = desk.get(address).content.decode()
    desk.post(address, {"switch": "Sign"})
    switched = held_secrets(api)
    desk.post(address, {"remove": "Stop"})

    assert first.text in drawn.content.decode()
    assert "no-store" in drawn["Cache-Control"]
    assert f"Sign with {second.kid}" in waiting
    assert switched == [second]
    assert held_secrets(api) == []
    for page in (
        waiting,
        desk.get(address).content.decode(),
        desk.get(page_of(api)).content.decode(),
    ):
        assert first.text not in page
        assert second.text not in page
    assert not LogEntry.objects.filter(changes__icontains=first.text).exists()
    assert [log.change_message for log in DjangoLogEntry.objects.order_by("pk")] == [
        f"Drew the signing secret {first.kid}.",
        f"Drew the signing secret {second.kid}.",
        "Calls are signed with the next secret from now on; the one before is gone.",
        "Calls are no longer signed.",
    ]


def test_signing_secrets_are_for_staff_who_may_change_apis(client, staff):
    address = reverse("admin:gateway_api_identity", args=[make_api().pk])
    reader = User.objects.create_user("reader@example.com", "a long enough one", is_staff=True)
    client.force_login(reader)

    assert client.get(address).status_code == 403
    assert client.post(address, {"draw": "Draw"}).status_code == 403
    assert not Api.objects.exclude(identity_sealed="").exists()


def test_an_imported_operation_can_be_repriced_and_not_renamed(desk, staff):
    api = make_api()
    Api.objects.filter(pk=api.pk).update(document={"openapi": "3.1.0"})

    desk.post(
        page_of(api),
        api_form(
            api,
            **{
                "operations-0-path_template": "/elsewhere",
                "operations-0-weights": '{"calls": 2}',
                "operations-1-DELETE": "on",
            },
        ),
    )

    assert list(api.operations.values_list("path_template", "weights")) == [
        ("/v1/countries", {"calls": 2}),
        ("/v1/next/{country}", {}),
    ]


def test_the_usage_lists_never_count_the_whole_table(desk, staff):
    with CaptureQueriesContext(connection) as queries:
        desk.get(reverse("admin:gateway_usagerollup_changelist"))
        desk.get(reverse("admin:ledger"))

    counts = [query["sql"] for query in queries if "COUNT(" in query["sql"].upper()]
    assert counts
    assert all("LIMIT 10000" in sql for sql in counts), counts


def test_what_the_ledger_refused_can_be_read(desk, staff):
    entry = QuarantinedEntry.objects.create(
        stream_id="1-1", payload=b'{"id": "<script>"}', error="no account"
    )
    UsageRollup.objects.all().delete()

    page = desk.get(page_of(entry)).content.decode()

    assert "&lt;script&gt;" in page
    assert "no account" in page


# ------------------------------------------------------------------ add-ons


def add_on_form(**changes):
    return {
        "name": "Historical data",
        "slug": "history",
        "tagline": "",
        "currency": "usd",
        "interval": "month",
        "base_price": "30.50",
        "meter": "",
        "included_units": 0,
        "rate_per_second": 0,
        "scopes": "history\narchive",
        "features": "",
        "position": 0,
        **changes,
    }


def test_an_add_on_is_drafted_published_and_retired(desk, staff):
    make_plans()
    api = make_api()
    api.operations.filter(path_template="/v1/countries").update(scope="history")

    desk.post(reverse("admin:billing_addon_add"), add_on_form())
    draft = AddOn.objects.get()
    drafted = desk.get(page_of(draft)).content.decode()
    published_so = do(desk, "publish", draft)

    assert (draft.price_minor, draft.scopes) == (30_50, ["history", "archive"])
    assert "Opens GET /v1/countries" in drafted
    assert "on sale" in said(published_so)
    assert [offer.price for offer in add_ons.offers("month", "USD")] == ["$30.50"]
    assert "base_price" not in desk.get(page_of(draft)).content.decode()

    do(desk, "draft", draft)
    do(desk, "retire", draft)

    assert add_ons.offers("month", "USD") == []
    assert AddOn.objects.filter(published_at=None).count() == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"base_price": "1.999"}, "USD has 2 decimal places"),
        ({"scopes": "Big Data"}, "Small letters"),
        ({"included_units": 5}, "Units are of a meter"),
    ],
)
def test_an_add_on_that_makes_no_sense_is_refused_with_a_sentence(change, sentence, desk, staff):
    answer = desk.post(reverse("admin:billing_addon_add"), add_on_form(**change))

    assert sentence in answer.content.decode()
    assert not AddOn.objects.exists()
