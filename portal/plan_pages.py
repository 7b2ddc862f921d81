"""Pages on which a customer changes the plan and its add-ons, and how it is paid.

Each says first what is taken now and what is paid from then on, and asks once more. What can be
had, and what becomes of it, is `billing.plan_changes`; how it is paid is the provider's own page.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing import (
    catalogue,
    contents,
    plan_changes,
    provider_moves,
    providers,
    subscriptions,
    wishes,
)
from billing.models import Subscription
from billing.plan_changes import Hindered, OutOfDate
from billing.providers import Changed, Declined, ProviderUnavailable
from billing.subscriptions import NoSubscription
from billing.terms import NO_PROVIDER
from billing.wishes import NotOffered, Obstacle, Wish
from keys import clock, issuance
from keys.models import ApiKey
from portal.access import AccountRequest, member
from portal.billing_pages import NOT_NOW, trouble_told
from portal.ratelimits import by_user, limited
from portal.roles import Capability

OBSTACLES = {
    Obstacle.FREE: "Free is left by buying another plan: choose one from the price list.",
    Obstacle.ENDING: "The plan is cancelled for the end of its period. Keep it first.",
    Obstacle.UNPAID: "The last payment failed. Update the payment method first.",
    Obstacle.PAUSED: "The subscription is paused, so nothing can be changed. Please write to us.",
    Obstacle.UNDER_WAY: "A change is under way. Please look again in a minute.",
    Obstacle.PLANNED: (
        "Something changes already when the period ends. Withdraw that first, and what you pay "
        "for now is worked out without it."
    ),
}
NOTED = (
    "Noted. The payment provider does not answer at the moment; it is told as soon as it does, "
    "within minutes."
)
SHOWN_TOO_LONG_AGO = "The price was worked out a while ago. Here it is anew; nothing was taken."
UNSURE = (
    "The payment provider has not answered. Whether it was done shows here within minutes; please "
    "don’t try again before."
)


def _subscription(request: AccountRequest) -> Subscription:
    """The account's paid subscription; 404 for an account that has none to change."""
    subscription = subscriptions.alive(request.account)
    if subscription is None or subscription.provider == NO_PROVIDER:
        raise Http404
    return subscription


# ------------------------------------------------------------------ another plan


@require_GET
@member(Capability.BILLING)
def change(request: AccountRequest) -> HttpResponse:
    """What the plan could be changed to, in the order of the price list."""
    subscription = _subscription(request)
    hindrance = wishes.obstacle(subscription)
    planned = wishes.is_planned(subscription)
    choices = [
        wish
        for wish in wishes.choices(subscription)
        if not hindrance and not (planned and wish.at == "now")
    ]
    return render(
        request,
        "purchase/change.html",
        {
            "nav": "billing",
            "subscription": subscription,
            "is_new_price": wishes.is_new_price(subscription),
            "obstacle": OBSTACLES.get(hindrance) if hindrance else "",
            "planned": OBSTACLES[Obstacle.PLANNED] if planned else "",
            "choices": [(wish, catalogue.promises(wish.version)) for wish in choices],
        },
    )


@require_http_methods(["GET", "POST"])
@limited("plan change", (by_user, "60/h"))
@member(Capability.BILLING)
def change_to(request: AccountRequest, version_id: int) -> HttpResponse:
    """Says what the change takes and means; a POST does it."""
    subscription = _subscription(request)
    try:
        wish = wishes.choice(subscription, version_id)
    except NotOffered:
        raise Http404 from None
    name = wish.version.plan.name
    if wish.version.interval != subscription.version.interval:
        name += ", " + wish.version.get_interval_display()
    if request.method == "GET":
        return _ask(request, subscription, wish, f"Change to {name}?")
    if wish.at == "now":
        return _buy(request, subscription, wish, f"Change to {name}?", f"You are on {name} now.")
    day = f"{subscription.period_end:%-d %B %Y}"
    return _plan(
        request,
        lambda now: plan_changes.plan(request.account, wish.version, now),
        f"{name} takes the place of {subscription.version.plan.name} on {day}.",
    )


@require_POST
@member(Capability.BILLING)
def change_withdraw(request: AccountRequest) -> HttpResponse:
    """Stays on the plan, where another was to take its place."""
    name = _subscription(request).version.plan.name
    return _plan(
        request,
        lambda now: plan_changes.withdraw(request.account, now),
        f"{name} goes on; the change is withdrawn.",
    )


# ------------------------------------------------------------------ add-ons


@require_GET
@member(Capability.BILLING)
def add_ons(request: AccountRequest) -> HttpResponse:
    """Those that the account has, and those that it could have."""
    subscription = _subscription(request)
    hindrance = wishes.obstacle(subscription)
    return render(
        request,
        "purchase/add_ons.html",
        {
            "nav": "billing",
            "subscription": subscription,
            "obstacle": OBSTACLES.get(hindrance) if hindrance else "",
            "held": contents.alive(subscription).select_related("add_on__meter"),
            "on_sale": wishes.add_ons_on_sale(subscription),
        },
    )


@require_http_methods(["GET", "POST"])
@limited("plan change", (by_user, "60/h"))
@member(Capability.BILLING)
def add_on_buy(request: AccountRequest, add_on_id: int) -> HttpResponse:
    """Says what one more takes; a POST buys it."""
    subscription = _subscription(request)
    try:
        wish = wishes.with_add_on(subscription, add_on_id)
    except NotOffered:
        raise Http404 from None
    name = wish.add_ons[-1].name
    if request.method == "GET":
        return _ask(request, subscription, wish, f"Add {name}?")
    return _buy(request, subscription, wish, f"Add {name}?", f"{name} is yours from now on.")


@require_http_methods(["GET", "POST"])
@member(Capability.BILLING)
def add_on_drop(request: AccountRequest, add_on_id: int) -> HttpResponse:
    """Says what ends with it; a POST lets it end with the period."""
    subscription = _subscription(request)
    held = contents.alive(subscription).filter(add_on_id=add_on_id)
    row = held.select_related("add_on__meter").first()
    if row is None:
        raise Http404
    if request.method == "GET":
        context = {"nav": "billing", "subscription": subscription, "add_on": row.add_on}
        return render(request, "purchase/add_on_drop.html", context)
    return _plan(
        request,
        lambda now: plan_changes.drop(request.account, add_on_id, now),
        f"{row.add_on.name} ends on {subscription.period_end:%-d %B %Y}.",
        back="add_ons",
    )


@require_POST
@member(Capability.BILLING)
def add_on_keep(request: AccountRequest, add_on_id: int) -> HttpResponse:
    """Withdraws its end."""
    _subscription(request)
    return _plan(
        request,
        lambda now: plan_changes.keep(request.account, add_on_id, now),
        "It goes on with the plan.",
        back="add_ons",
    )


# ------------------------------------------------------------------ how it is paid


@require_GET
@limited("provider page", (by_user, "30/h"))
@member(Capability.BILLING)
def payment_method(request: AccountRequest) -> HttpResponse:
    """Leads to the provider's own page, and back.

    A link and no form: nothing changes here, and a form would have to name every origin at which
    providers keep such pages.
    """
    subscription = _subscription(request)
    back = settings.SITE_URL + reverse("billing")
    with trouble_told(request):
        provider = providers.get(subscription.provider)
        address = provider.portal(subscription.provider_customer_id, back)
        return HttpResponseRedirect(address)
    return redirect("billing")


@require_POST
@limited("checkout", (by_user, "30/h"))
@member(Capability.BILLING)
def move(request: AccountRequest) -> HttpResponse:
    """Leads to the checkout of the provider that the seller uses now."""
    _subscription(request)
    try:
        order = provider_moves.start(request.account, user=request.user, now=clock.now())
    except provider_moves.CannotMove as error:
        messages.error(request, str(error))
    except ProviderUnavailable:
        messages.error(request, NOT_NOW)
    else:
        return HttpResponseRedirect(order.url, status=303)
    return redirect("billing")


# ------------------------------------------------------------------ asked, and done


def _ask(
    request: AccountRequest, subscription: Subscription, wish: Wish, title: str, status: int = 200
) -> HttpResponse:
    try:
        quote = plan_changes.quote(subscription, wish, clock.now())
    except Hindered as hindered:
        messages.error(request, OBSTACLES[hindered.obstacle])
        return redirect("billing")
    except Declined as error:
        messages.error(request, str(error))
        return redirect("billing")
    except ProviderUnavailable:
        messages.error(request, NOT_NOW)
        return redirect("billing")
    keys = issuance.keys_of(request.account).filter(state=ApiKey.State.ACTIVE).count()
    context = {
        "nav": "billing",
        "title": title,
        "subscription": subscription,
        "quote": quote,
        "wish": wish,
        "promises": catalogue.promises(wish.version),
        "keys_over": keys if keys > wish.version.key_limit else 0,
        "as_of": int(quote.as_of.timestamp()),
    }
    return render(request, "purchase/confirm.html", context, status=status)


def _buy(
    request: AccountRequest, subscription: Subscription, wish: Wish, title: str, done: str
) -> HttpResponse:
    now = clock.now()
    try:
        as_of = datetime.fromtimestamp(int(request.POST.get("as_of", "")), UTC)
        outcome = plan_changes.change_now(request.account, wish, as_of, now)
    except (OutOfDate, ValueError, OverflowError, OSError):
        messages.info(request, SHOWN_TOO_LONG_AGO)
        return _ask(request, subscription, wish, title, status=409)
    except Hindered as hindered:
        messages.error(request, OBSTACLES[hindered.obstacle])
    except ProviderUnavailable:
        messages.warning(request, UNSURE)
    except (NoSubscription, NotOffered):
        messages.error(request, "The plan is another meanwhile, so nothing was done.")
    else:
        if outcome.kind == "unpaid":
            reason = f"{outcome.reason} " if outcome.reason else ""
            messages.error(request, f"{reason}Nothing was taken and nothing has changed.")
            return _ask(request, subscription, wish, title, status=402)
        messages.success(request, done)
    return redirect("billing")


def _plan(
    request: AccountRequest, do: Callable[[datetime], Changed], done: str, *, back: str = "billing"
) -> HttpResponse:
    try:
        outcome = do(clock.now())
    except Hindered as hindered:
        messages.error(request, OBSTACLES[hindered.obstacle])
    except ProviderUnavailable:
        messages.info(request, NOTED)
    except (NoSubscription, NotOffered):
        messages.error(request, "That has ended meanwhile.")
    else:
        if outcome.kind == "unpaid":
            reason = outcome.reason or "The payment provider could not do it."
            messages.error(request, f"{reason} Nothing has changed.")
        else:
            messages.success(request, done)
    return redirect(back)
