"""From “Buy” to the first key: what is bought, the wait for the money, the claim.

Prices and checkouts are billing's, keys are `keys.issuance`'s; this module leads a person
through them. The return from the provider proves nothing: the page waits for the checkout's
own state, which the webhook (or a later fetch) sets.
"""

from enum import StrEnum
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from billing import catalogue, checkout, free_plan, subscriptions
from billing.models import Checkout, Plan, PlanVersion
from billing.providers import ProviderUnavailable
from keys import clock, issuance
from keys.models import ApiKey, ClaimLink
from portal import samples, verification
from portal.access import AccountRequest, member
from portal.ratelimits import by_address, by_user, limited
from portal.roles import Capability, may


class Stage(StrEnum):
    """How far a checkout is, as its page tells it."""

    WAITING = "waiting"
    RETRY = "retry"
    PENDING = "pending"
    DECLINED = "declined"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    PAID = "paid"


STAGES = {
    Checkout.State.FAILED: Stage.DECLINED,
    Checkout.State.EXPIRED: Stage.EXPIRED,
    Checkout.State.SUPERSEDED: Stage.SUPERSEDED,
    Checkout.State.COMPLETED: Stage.PAID,
}


@require_http_methods(["GET", "POST"])
@limited("checkout", (by_user, "30/h"))
@member(Capability.BILLING, strangers_go_to="account_signup")
def buy(request: AccountRequest, plan: str) -> HttpResponse:
    """Says what is bought; a POST starts Free or leads to the provider's checkout page."""
    product = get_object_or_404(Plan, slug=plan, listed=True)
    if product.kind == Plan.Kind.ENTERPRISE:
        return redirect("enterprise")
    version = _version(request, product)
    if version is None:
        return render(request, "purchase/not_on_sale.html", {"plan": product}, status=404)
    if request.method == "POST":
        if product.kind == Plan.Kind.FREE:
            return _start_free(request, version)
        return _start_checkout(request, version)
    return _offer(request, version)


def _version(request: AccountRequest, product: Plan) -> PlanVersion | None:
    """The version that the address names; without a word, in the account's own currency."""
    interval = request.GET.get("interval", PlanVersion.Interval.MONTH)
    own = catalogue.currency_of(request.account.pk)
    if currency := request.GET.get("currency", ""):
        return catalogue.current(product.slug, interval=interval, currency=currency)
    named = catalogue.current(product.slug, interval=interval, currency=own)
    return named or catalogue.current(product.slug, interval=interval)


@require_GET
@member()
def checkout_page(request: AccountRequest, checkout_id: UUID) -> HttpResponse:
    """Where the provider sends the buyer back to; polls until the money's fate is known."""
    order = get_object_or_404(
        request.account.checkouts.select_related("version__plan"), pk=checkout_id
    )
    stage = stage_of(order)
    if request.htmx and request.GET.get("seen") == stage:
        return HttpResponse(status=204)
    key = request.account.keys.filter(origin=ApiKey.Origin.FIRST).first()
    return render(
        request,
        "purchase/_progress.html" if request.htmx else "purchase/checkout.html",
        {
            "nav": "billing",
            "checkout": order,
            "plan": order.version.plan,
            "stage": stage,
            "stage_template": f"purchase/_{stage}.html",
            "poll_every": {Stage.WAITING: "1s", Stage.RETRY: "1s", Stage.PENDING: "5s"}.get(stage),
            "key": key,
            "returning": key is not None and key.created_at < order.created_at,
            "may_manage": may(request.membership.role, Capability.KEYS),
        },
    )


def stage_of(order: Checkout) -> Stage:
    """What the buyer is told; “paid” means that the webhook's work is done, key and all."""
    if order.state == Checkout.State.OPEN:
        if order.payment_pending:
            return Stage.PENDING
        return Stage.RETRY if order.error else Stage.WAITING
    return STAGES[Checkout.State(order.state)]


@require_http_methods(["GET", "POST"])
@limited("claim link", (by_address, "60/h"))
@never_cache
def claim_link(request: HttpRequest, token: str) -> HttpResponse:
    """The one-time link of the buyer's mail; needs no session. GET shows a button only.

    A link that was never sent, was used or is too old is the same 404: nothing can be
    learned by trying.
    """
    now = clock.now()
    if request.method == "POST":
        try:
            key, secret = issuance.claim_by_link(
                token, address=request.META["REMOTE_ADDR"], now=now
            )
        except (ClaimLink.DoesNotExist, issuance.ClaimExpired, issuance.AlreadyClaimed):
            return render(request, "purchase/dead_link.html", status=404)
        context = {"key": key, "secret": secret, "curl": samples.curl(secret)}
        return render(request, "purchase/claimed.html", context)
    found = issuance.key_of_link(token, now)
    if found is None:
        return render(request, "purchase/dead_link.html", status=404)
    return render(request, "purchase/claim_link.html", {"key": found})


def _offer(
    request: AccountRequest, version: PlanVersion, *, trouble: str = "", status: int = 200
) -> HttpResponse:
    product = version.plan
    current = subscriptions.alive(request.account)
    currency = catalogue.currency_of(request.account.pk)
    days = catalogue.trial_days(request.account.pk, request.user.pk, version)
    context = {
        "nav": "billing",
        "plan": product,
        "version": version,
        "promises": catalogue.promises(version),
        "current": current,
        "other_currency": currency if currency not in ("", version.currency) else "",
        "trial": catalogue.trial_text(version, days),
        "upgrades_free": current is not None
        and current.version.plan.kind == Plan.Kind.FREE
        and product.kind == Plan.Kind.PAID,
        "needs_address": product.kind == Plan.Kind.FREE
        and not verification.is_verified(request.user),
        "verify_url": _verify_url(product),
        "trouble": trouble,
    }
    return render(request, "purchase/buy.html", context, status=status)


def _start_checkout(request: AccountRequest, version: PlanVersion) -> HttpResponse:
    try:
        order = checkout.start(request.account, version, user=request.user, now=clock.now())
    except checkout.NotForSale:  # published anew, or taken off the list, since it was looked up
        return redirect("buy", plan=version.plan.slug)
    except (subscriptions.AlreadySubscribed, checkout.OtherCurrency):
        return _offer(request, version, status=409)
    except ProviderUnavailable:
        trouble = (
            "The payment provider does not answer at the moment. Nothing was charged; "
            "please try again in a minute."
        )
        return _offer(request, version, trouble=trouble, status=503)
    return HttpResponseRedirect(order.url, status=303)


def _start_free(request: AccountRequest, version: PlanVersion) -> HttpResponse:
    try:
        free_plan.start(request.account, request.user, clock.now())
    except free_plan.AddressNotVerified:
        return redirect(_verify_url(version.plan))
    except subscriptions.AlreadySubscribed:
        return _offer(request, version, status=409)
    except free_plan.FreeTaken:
        trouble = "There is one Free plan per person, and you have it in another account."
        return _offer(request, version, trouble=trouble, status=409)
    return redirect("overview")


def _verify_url(product: Plan) -> str:
    """The page that proves the address, and comes back to this plan."""
    query = urlencode({"next": resolve_url("buy", plan=product.slug)})
    return f"{resolve_url('address_verify')}?{query}"
