"""Recognises failures of Celery's broker on every transport: no answer, a lost connection, an error reply.

The one place that lists them, for who publishes and for a worker's consumer. An error reply says that the
broker cannot serve now (a fail-over, a full disk, rights that are being changed), or that a queue was
declared otherwise than we declare it: somebody can set all of that right, and a message is only a hint.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from mainstem_shared.store.failures import RedisError

_FOREIGN = ("builtins", "vine.")


def of(connection: Connection) -> tuple[type[Exception], ...]:
    """Return the exceptions that mean such a failure, on the transport of `connection`.

    Without those that mean faults of the caller, too: kombu's Redis transport counts KeyError among its own.
    """
    listed = (*connection.connection_errors, *connection.channel_errors)
    own = (kind for kind in listed if issubclass(kind, OSError) or not kind.__module__.startswith(_FOREIGN))
    return tuple(dict.fromkeys((OperationalError, AMQPError, RedisError, OSError, *own)))
