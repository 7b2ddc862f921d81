"""A gateway whose endless calls must be renewed all the time (gateway.renewal)."""

from gateway.asgi import Application
from gateway.renewal import Lease

LEASE = Lease(lasts_ms=500, renewed_every_s=0.1)

application = Application(LEASE)

# Longer than a gateway takes to find a Redis that is back.
ENDURING = Lease(lasts_ms=3000, renewed_every_s=0.5)

enduring = Application(ENDURING)
