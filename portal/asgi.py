"""The site's ASGI entry: `/gateway/…` goes to the data plane before Django sees it."""

import os
import warnings

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# whitenoise sends files as synchronous iterators; ours are small and read at once.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
django_application = get_asgi_application()

from gateway.asgi import application as gateway_application  # noqa: E402
from gateway.forward import Receive, Send  # noqa: E402
from gateway.plane import Scope  # noqa: E402


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Routes lifespan and `/gateway/…` to the gateway, everything else to Django."""
    if scope["type"] == "lifespan" or scope["path"].startswith("/gateway/"):
        await gateway_application(scope, receive, send)
    else:
        await django_application(scope, receive, send)
