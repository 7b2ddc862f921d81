"""The one settings file. Every value that differs between places comes from the environment."""

import re
import ssl
from base64 import b64decode
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django_stubs_ext
import environ
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from portal import beat, logs

# Lets classes that are generic in their stubs be subscripted at run time: ModelAdmin[Plan].
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()


def required(name: str) -> str:
    """The variable's value; one clear line at start where it is missing or empty."""
    value: str = env.str(name, default="")
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set. `make run` sets it by itself; elsewhere see .env.example."
        )
    return value


DEBUG = env.bool("DEBUG", default=False)
DEMO = env.bool("KEYSTILE_DEMO", default=False)
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var")))

SECRET_KEY = required("SECRET_KEY")
KEY_PEPPER = required("KEY_PEPPER")
KEY_PEPPER_PREVIOUS = env.str("KEY_PEPPER_PREVIOUS", default="")
_ends = env.str("KEY_PEPPER_PREVIOUS_ENDS", default="")
try:
    KEY_PEPPER_PREVIOUS_ENDS = date.fromisoformat(_ends) if _ends else None
except ValueError:
    raise ImproperlyConfigured("KEY_PEPPER_PREVIOUS_ENDS must be a day: 2027-01-31.") from None
FIELD_KEY = required("FIELD_KEY")

SITE_URL = required("SITE_URL").rstrip("/")
GATEWAY_URL = env.str("GATEWAY_URL", default=SITE_URL).rstrip("/")
SITE_NAME = env.str("SITE_NAME", default="Keystile")
_site = urlsplit(SITE_URL)
if _site.scheme not in ("http", "https") or not _site.hostname:
    raise ImproperlyConfigured("SITE_URL must be an address such as https://example.com.")
ON_LOOPBACK = _site.hostname in ("localhost", "127.0.0.1", "::1")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[_site.hostname])
if ON_LOOPBACK:
    ALLOWED_HOSTS += ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = [SITE_URL]

INSTALLED_APPS = [
    "portal",
    "billing",
    "gateway",
    "keys",
    "portal.staff.apps.StaffAdminConfig",  # django.contrib.admin, arranged for staff
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "auditlog",
    "csp",
    "django_htmx",
    "drf_spectacular",
    "rest_framework",
]

MIDDLEWARE = [
    "portal.proxies.client_address",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "auditlog.middleware.AuditlogMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "portal.context.site",
            ],
        },
    }
]

# ------------------------------------------------------------------ stores
required("DATABASE_URL")
DATABASES: dict[str, dict[str, Any]] = {"default": env.db_url("DATABASE_URL")}
# Under ASGI each request has a thread of its own, and a connection that is kept is kept for nobody.
DATABASES["default"]["CONN_MAX_AGE"] = env.int("DATABASE_CONN_MAX_AGE", default=0)
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = required("REDIS_URL")
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
        "OPTIONS": {"IGNORE_EXCEPTIONS": True, "SOCKET_TIMEOUT": 2, "SOCKET_CONNECT_TIMEOUT": 2},
    }
}
DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS = True
RATELIMIT_FAIL_OPEN = True  # with Redis away people can still sign in (portal.ratelimits)

# ------------------------------------------------------------------ people
AUTH_USER_MODEL = "portal.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/dashboard/"
LOGOUT_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "portal.signup.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
# An account starts with email and password; the address is proved by our own code, which
# Free asks for before its first key (portal.verification).
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_RATE_LIMITS = False  # portal's views limit themselves with django-ratelimit

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _site.scheme == "https"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "manifest-src": [SELF],
    }
}

# ------------------------------------------------------------------ mail
EMAIL_URL = env.str("EMAIL_URL", default="")
# Everybody's mails on a page, codes and claim links too: for the one at this machine only.
MAILBOX = DEMO and ON_LOOPBACK and not EMAIL_URL
if EMAIL_URL:
    vars().update(env.email_url("EMAIL_URL"))
elif DEMO:
    EMAIL_BACKEND = "portal.demo.mail_files.EmailBackend"
    EMAIL_FILE_PATH = str(DATA_DIR / "mail")
else:
    raise ImproperlyConfigured("EMAIL_URL is not set, for example smtp+tls://user:pw@host:587.")
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default=f"{SITE_NAME} <hello@localhost>")
STAFF_EMAIL = env.str("STAFF_EMAIL", default="staff@example.com" if DEMO else "")

# ------------------------------------------------------------------ payments
PAYMENT_PROVIDER = env.str("PAYMENT_PROVIDER", default="sandbox" if DEMO else "")
PROVIDERS = ("sandbox", "stripe", "dodo")
if PAYMENT_PROVIDER not in PROVIDERS:
    raise ImproperlyConfigured(f"PAYMENT_PROVIDER must be one of: {', '.join(PROVIDERS)}.")
if PAYMENT_PROVIDER == "sandbox":
    SANDBOX_WEBHOOK_SECRET = required("SANDBOX_WEBHOOK_SECRET")
    if not ON_LOOPBACK and not env.bool("ALLOW_SANDBOX", default=False):
        raise ImproperlyConfigured(
            "PAYMENT_PROVIDER=sandbox gives everything away and SITE_URL is not on loopback. "
            "Choose a real provider, or set ALLOW_SANDBOX=1 if that is what you want."
        )
# Whether staff may move the product's time ahead, to rehearse a year of billing.
CLOCK_CAN_MOVE = env.bool("CLOCK_CAN_MOVE", default=DEMO) and PAYMENT_PROVIDER == "sandbox"
# For subscriptions at these providers, checkouts or none; empty: they can't be asked.
STRIPE_SECRET_KEY = env.str("STRIPE_SECRET_KEY", default="")
STRIPE_WEBHOOK_SECRET = env.str("STRIPE_WEBHOOK_SECRET", default="")
STRIPE_API_BASE = env.str("STRIPE_API_BASE", default="https://api.stripe.com").rstrip("/")
STRIPE_CHECKOUT_ORIGIN = env.str("STRIPE_CHECKOUT_ORIGIN", default="https://checkout.stripe.com")
# Who reckons the tax of a checkout (docs/payments.md).
STRIPE_TAX = env.str("STRIPE_TAX", default="none")
if STRIPE_TAX not in ("none", "automatic", "managed"):
    raise ImproperlyConfigured("STRIPE_TAX must be one of: none, automatic, managed.")
STRIPE_TAX_CODE = env.str("STRIPE_TAX_CODE", default="")
if STRIPE_TAX == "managed" and not STRIPE_TAX_CODE:
    raise ImproperlyConfigured(
        "STRIPE_TAX=managed needs STRIPE_TAX_CODE, for example txcd_10103001."
    )
if PAYMENT_PROVIDER == "stripe" and not (STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET.strip(", ")):
    raise ImproperlyConfigured(
        "PAYMENT_PROVIDER=stripe needs STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET "
        "(docs/payments.md)."
    )
if STRIPE_SECRET_KEY:
    # Browsers ask it of the redirect that answers a button, too: to a checkout, to the portal.
    CONTENT_SECURITY_POLICY["DIRECTIVES"]["form-action"] += [
        STRIPE_CHECKOUT_ORIGIN,
        "https://billing.stripe.com",
    ]
DODO_PAYMENTS_API_KEY = env.str("DODO_PAYMENTS_API_KEY", default="")
DODO_PAYMENTS_WEBHOOK_KEY = env.str("DODO_PAYMENTS_WEBHOOK_KEY", default="")
# Real money moves only where somebody says so.
DODO_PAYMENTS_BASE_URL = env.str(
    "DODO_PAYMENTS_BASE_URL", default="https://test.dodopayments.com"
).rstrip("/")
if PAYMENT_PROVIDER == "dodo":
    required("DODO_PAYMENTS_API_KEY")
    required("DODO_PAYMENTS_WEBHOOK_KEY")
    # “Buy” is a form whose answer leads there.
    CONTENT_SECURITY_POLICY["DIRECTIVES"]["form-action"].append(
        {
            "https://live.dodopayments.com": "https://checkout.dodopayments.com",
            "https://test.dodopayments.com": "https://test.checkout.dodopayments.com",
        }.get(DODO_PAYMENTS_BASE_URL, DODO_PAYMENTS_BASE_URL)
    )
if DODO_PAYMENTS_WEBHOOK_KEY:
    try:
        b64decode(DODO_PAYMENTS_WEBHOOK_KEY.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ImproperlyConfigured(
            "DODO_PAYMENTS_WEBHOOK_KEY must be whsec_ and base64, as Dodo's dashboard shows it."
        ) from None
for _name, _address in (
    ("STRIPE_API_BASE", STRIPE_API_BASE),
    ("STRIPE_CHECKOUT_ORIGIN", STRIPE_CHECKOUT_ORIGIN),
    ("DODO_PAYMENTS_BASE_URL", DODO_PAYMENTS_BASE_URL),
):
    if not _address.startswith(("http://", "https://")):
        raise ImproperlyConfigured(f"{_name} must start with https://.")
SHIPPING_SECONDS = env.int("SHIPPING_SECONDS", default=60)
if SHIPPING_SECONDS < 1:
    raise ImproperlyConfigured("SHIPPING_SECONDS must be 1 or more.")
# Who sells, as it is written on invoices and credit notes; lines of the address by ";".
SELLER_NAME = env.str("SELLER_NAME", default="") or SITE_NAME
SELLER_ADDRESS = env.str("SELLER_ADDRESS", default="", multiline=True)
SELLER_TAX_ID = env.str("SELLER_TAX_ID", default="")
RENEWAL_GRACE_HOURS = 72  # traffic goes on while a renewal is unconfirmed
PAST_DUE_GRACE_DAYS = 7  # after a failed payment, until `payment_required`

# ------------------------------------------------------------------ leaked keys
GITHUB_META_URL = env.str(
    "GITHUB_META_URL", default="https://api.github.com/meta/public_keys/secret_scanning"
)
if not GITHUB_META_URL.startswith(("http://", "https://")):
    raise ImproperlyConfigured("GITHUB_META_URL must start with https://.")

# Opens /metrics to who is not on this machine: Authorization: Bearer <token>.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

# ------------------------------------------------------------------ gateway
# How many proxies in front of it may say who the client is (X-Forwarded-For, from the right).
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
# Certificates of authorities that backends are verified against, besides the system's.
UPSTREAM_CA_FILE = env.str("UPSTREAM_CA_FILE", default="")
if UPSTREAM_CA_FILE:
    try:
        ssl.create_default_context(cafile=UPSTREAM_CA_FILE)
    except OSError as error:
        raise ImproperlyConfigured(
            f"UPSTREAM_CA_FILE ({UPSTREAM_CA_FILE}) is not a file of PEM certificates: {error}."
        ) from None
GATEWAY_REDIS_TIMEOUT_SECONDS = env.float("GATEWAY_REDIS_TIMEOUT_SECONDS", default=2.0)
# Calls that wait for the ledger; at this many (Postgres is away) nothing more is admitted.
GATEWAY_MAX_STREAM_ENTRIES = env.int("GATEWAY_MAX_STREAM_ENTRIES", default=1_000_000)

# ------------------------------------------------------------------ ledger
# Months that single calls are kept after their own is over (gateway.partitions).
_months = env.str("LEDGER_RETENTION_MONTHS", default="13")
if not re.fullmatch("[1-9][0-9]{0,3}", _months):
    raise ImproperlyConfigured("LEDGER_RETENTION_MONTHS must be a whole number from 1 to 9999.")
LEDGER_RETENTION_MONTHS = int(_months)

# ------------------------------------------------------------------ tasks
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # goes on for ever
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_DEFAULT_QUEUE = "keystile"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = beat.schedule(
    shipping_seconds=SHIPPING_SECONDS, with_sandbox=PAYMENT_PROVIDER == "sandbox"
)

# ------------------------------------------------------------------ API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.1",
    "TITLE": f"{SITE_NAME} management API",
    "DESCRIPTION": "Manages what an account has here: its keys. For programs that hold a service "
    "token (`kst_…`). Errors are RFC 9457 problem details with a `code`.",
    "VERSION": "1",
    "SERVERS": [{"url": SITE_URL}],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "COMPONENT_SPLIT_PATCH": True,
}

# ------------------------------------------------------------------ texts, files, logs
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
FORMAT_MODULE_PATH = ["portal.formats"]
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

LOG_JSON = env.bool("LOG_JSON", default=not DEMO)
LOGGING = logs.configuration(json=LOG_JSON, level=env.str("LOG_LEVEL", default="INFO"))
