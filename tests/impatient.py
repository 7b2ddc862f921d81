"""A server (gateway.wire) that waits for its clients so briefly that a test can, too."""

from gateway import wire

PATIENCE = wire.Patience(head_s=1.0, idle_s=1.0, stall_s=1.0, linger_s=1.5, leave_s=0.3)


class Server(wire.Server):
    patience = PATIENCE
