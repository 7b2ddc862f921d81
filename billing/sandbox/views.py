"""The sandbox's hosted checkout page: what a real provider shows on a site of its own."""

from typing import Any

from django import forms
from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from billing import money, tasks
from billing.sandbox import cards, orders
from billing.sandbox.models import SandboxOrder
from keys import clock


class CardForm(forms.Form):
    """A test card's number. It lives as long as the request and is stored nowhere."""

    number = forms.CharField(
        label="Card number",
        max_length=30,
        widget=forms.TextInput(
            attrs={"inputmode": "numeric", "autocomplete": "off", "placeholder": "4242 4242 …"}
        ),
    )

    def clean_number(self) -> cards.Card:
        card = cards.of_number(self.cleaned_data["number"])
        if card is None:
            raise forms.ValidationError("No test card has this number. Choose one from the list.")
        return card


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def checkout(request: HttpRequest, order_id: str) -> HttpResponse:
    """Pays with a test card and returns to the seller; a declined card stays for another try."""
    if settings.PAYMENT_PROVIDER != "sandbox":
        raise Http404
    order = get_object_or_404(SandboxOrder, pk=order_id)
    now = clock.now()
    if request.method == "POST":
        form = CardForm(request.POST)
        if form.is_valid():
            order = orders.pay(order.pk, form.cleaned_data["number"], now)
            # Robust: where the broker is away, the next tick of beat sends the webhooks.
            transaction.on_commit(tasks.sandbox_tick.delay, robust=True)
            if order.state in (*orders.LIVING, SandboxOrder.State.PENDING):
                return HttpResponseRedirect(order.return_url)
    else:
        chosen = cards.of_name(request.GET.get("card", ""))
        form = CardForm(initial={"number": chosen.grouped} if chosen else None)
    context: dict[str, Any] = {
        "order": order,
        "amount": money.text(order.amount_minor, order.currency),
        "form": form,
        "cards": cards.CARDS,
        "payable": order.state == SandboxOrder.State.OPEN and not orders.has_expired(order, now),
    }
    return render(request, "sandbox/checkout.html", context)
