"""What a seller has to set to sell at Stripe, said in one line where it is missing."""

import os
import subprocess
import sys

import pytest
from django.conf import settings

READ = """
import portal.settings as read
print(read.PAYMENT_PROVIDER, read.CONTENT_SECURITY_POLICY["DIRECTIVES"]["form-action"])
"""
SECRETS = {"STRIPE_SECRET_KEY": "rk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}


def start(**variables):
    """Reads the settings as a process that starts does."""
    environment = os.environ | {"PAYMENT_PROVIDER": "stripe"} | variables
    return subprocess.run(
        [sys.executable, "-c", READ],
        cwd=settings.BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_key_and_secret_the_buttons_may_lead_to_stripe():
    started = start(**SECRETS)

    assert started.stdout.split()[0] == "stripe", started.stderr
    assert "https://checkout.stripe.com" in started.stdout
    assert "https://billing.stripe.com" in started.stdout


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (SECRETS | {"STRIPE_SECRET_KEY": ""}, "needs STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET"),
        (SECRETS | {"STRIPE_WEBHOOK_SECRET": " ,"}, "needs STRIPE_SECRET_KEY and STRIPE_WEBHOOK"),
        (SECRETS | {"STRIPE_TAX": "maybe"}, "STRIPE_TAX must be one of"),
        (SECRETS | {"STRIPE_TAX": "managed"}, "STRIPE_TAX=managed needs STRIPE_TAX_CODE"),
        (SECRETS | {"STRIPE_CHECKOUT_ORIGIN": "pay.example"}, "STRIPE_CHECKOUT_ORIGIN must"),
    ],
)
def test_what_is_missing_is_said_in_one_line(variables, sentence):
    started = start(**variables)

    assert started.returncode == 1
    assert sentence in started.stderr.splitlines()[-1]
