"""A server (gateway.patience) that waits for its clients so briefly that a test can, too."""

from gateway import wire
from gateway.patience import Patience

PATIENCE = Patience(head_s=1.0, idle_s=1.0, stall_s=1.0, linger_s=1.5, leave_s=0.3)


class Server(wire.Server):
    patience = PATIENCE
