"""The site's ASGI entry: `/gateway/…` goes to the data plane before Django sees it."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# whitenoise sends files as synchronous iterators; ours are small and read at once.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
django_application = get_asgi_application()

from gateway.asgi import Receive, Scope, Send  # noqa: E402
from gateway.asgi import application as gateway_application  # noqa: E402
from gateway.problems import http_date  # noqa: E402


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Routes lifespan and `/gateway/…` to the gateway, everything else to Django.

    The server writes no Date (RFC 9110 §6.6.1): the gateway passes its backend's on, pages get
    theirs here.
    """
    if scope["type"] == "lifespan":
        scope.setdefault("state", {})["gateway_prefix"] = b"/gateway/"
    if scope["type"] == "lifespan" or scope["path"].startswith("/gateway/"):
        await gateway_application(scope, receive, send)
        return

    async def send_dated(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"date", http_date())]}
        await send(message)

    await django_application(scope, receive, send_dated)
