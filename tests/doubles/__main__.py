"""A payment provider of one's own on loopback, for sellers without an account.

    python -m tests.doubles

    STRIPE_SECRET_KEY=sk_test_double STRIPE_WEBHOOK_SECRET=whsec_double PAYMENT_PROVIDER=stripe \\
    STRIPE_API_BASE=http://127.0.0.1:8090 STRIPE_CHECKOUT_ORIGIN=http://127.0.0.1:8090 make run

    python -m tests.doubles dodo

    DODO_PAYMENTS_API_KEY=dodo_key PAYMENT_PROVIDER=dodo \\
    DODO_PAYMENTS_WEBHOOK_KEY=whsec_dGhlIGRvdWJsZSdzIHNlY3JldCwgMjQgYg== \\
    DODO_PAYMENTS_BASE_URL=http://127.0.0.1:8090 make run

Its pages pay or decline, and its webhooks are sent until the site takes them: repeated, shuffled,
late or never, as it is told. At Stripe's, `/control/<deed>` (`stripe_payments`) renews, disputes,
pauses. What it knows is gone when it ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import requests

from tests.doubles.dodo_books import Disorder
from tests.doubles.dodo_shop import DodoShop
from tests.doubles.server import serving
from tests.doubles.stripe_payments import StripePayments

_EVERY_SECONDS = 1


def deliver_stripe(double: StripePayments, site: str) -> None:
    """Sends what there is to tell; what isn't taken stays for the next time."""
    for event in list(double.outbox):
        body, headers = double.signed(event)
        try:
            answer = requests.post(
                f"{site}/webhooks/stripe", data=body, headers=headers, timeout=10
            )
        except requests.RequestException as error:
            sys.stderr.write(f"{event['type']}: {type(error).__name__}\n")
            return
        sys.stderr.write(f"{event['type']}: {answer.status_code}\n")
        if not answer.ok:
            return
        double.outbox.remove(event)


def deliver_dodo(double: DodoShop, site: str) -> None:
    waiting = list(double.outbox)
    try:
        statuses = double.deliver(site)
    except requests.RequestException as error:
        double.outbox = waiting
        sys.stderr.write(f"{type(error).__name__}\n")
        return
    if statuses:
        told = ", ".join(hint.type for hint in waiting)
        sys.stderr.write(f"{told}: {statuses}\n")


def serve(double: StripePayments | DodoShop, port: int, deliver: Callable[[], None]) -> None:
    with serving(double, port):
        sys.stderr.write(f"{double.url}, {double.key}, {double.secret}\n")
        while True:
            deliver()
            time.sleep(_EVERY_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.doubles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("provider", nargs="?", choices=("stripe", "dodo"), default="stripe")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--site", default="http://127.0.0.1:8000")
    disorder = parser.add_argument_group("deliveries of dodo")
    disorder.add_argument("--drop", type=int, default=0, metavar="PERCENT")
    disorder.add_argument("--repeat", type=int, default=0, metavar="TIMES")
    disorder.add_argument("--shuffle", action="store_true")
    disorder.add_argument("--delay", type=int, default=0, metavar="SECONDS")
    options = parser.parse_args()
    if options.provider == "dodo":
        told = Disorder(
            options.drop, options.repeat, options.shuffle, timedelta(seconds=options.delay)
        )
        dodo = DodoShop(disorder=told)
        serve(dodo, options.port, lambda: deliver_dodo(dodo, options.site))
    else:
        stripe = StripePayments()
        serve(stripe, options.port, lambda: deliver_stripe(stripe, options.site))


if __name__ == "__main__":
    main()
