"""A Stripe of one's own on loopback, for sellers without an account: `python -m tests.doubles`.

    STRIPE_SECRET_KEY=sk_test_double STRIPE_WEBHOOK_SECRET=whsec_double PAYMENT_PROVIDER=stripe \\
    STRIPE_API_BASE=http://127.0.0.1:8090 STRIPE_CHECKOUT_ORIGIN=http://127.0.0.1:8090 make run

Its pages pay or decline, and its webhooks are sent until the site takes them; `/control/<deed>`
(`stripe_payments`) renews, disputes, pauses. What it knows is gone when it ends.
"""

from __future__ import annotations

import argparse
import sys
import time

import requests

from tests.doubles.server import serving
from tests.doubles.stripe_payments import StripePayments

_EVERY_SECONDS = 1


def deliver(double: StripePayments, site: str) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--site", default="http://127.0.0.1:8000")
    options = parser.parse_args()
    double = StripePayments()
    with serving(double, options.port):
        sys.stderr.write(f"Stripe's double: {double.url}, {double.key}, {double.secret}\n")
        while True:
            deliver(double, options.site)
            time.sleep(_EVERY_SECONDS)


if __name__ == "__main__":
    main()
