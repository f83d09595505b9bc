"""Signs webhooks and verifies signatures by Standard Webhooks (symmetric signatures, `v1`).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from mainstem_shared import errors

PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 5 * 60
"""How old or new a message may be for its receiver: the specification's libraries have the same."""
_BYTES: Final = range(24, 65)
"""How long a secret is, by the specification."""


def key_of(secret: str) -> bytes:
    """Return the key that a secret (`whsec_…`) stands for.

    Raises:
        Misconfigured: it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in _BYTES:
        raise errors.Misconfigured(
            "A webhook's secret is whsec_ and 24 to 64 random bytes in base64: "
            "`python -c 'import base64, os; print(\"whsec_\" + base64.b64encode(os.urandom(32)).decode())'`"
        )
    return key


def headers(keys: Sequence[bytes], *, event_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message: one signature for each key, so that a receiver may have either."""
    signed = f"{event_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    made = {"webhook-id": event_id, "webhook-timestamp": str(at_s)}
    if keys:
        made["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return made


def verify(secrets: Sequence[str], headers_: Mapping[str, str], body: bytes, *, now_s: float) -> str:
    """Return the id of a message that one of these secrets has signed, and not long ago.

    Raises:
        NotAuthenticated: none has.
    """
    given = {name.lower(): value for name, value in headers_.items()}
    event_id, at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not (at.isascii() and at.isdigit() and len(at) < 12) or abs(now_s - int(at)) > TOLERANCE_S:
        raise errors.NotAuthenticated("The webhook's timestamp is missing, or not of these minutes.")
    expected = headers([key_of(secret) for secret in secrets], event_id=event_id, at_s=int(at), body=body)
    genuine = expected.get("webhook-signature", "").split()
    for signature in given.get("webhook-signature", "").split():
        if any(hmac.compare_digest(signature.encode(), one.encode()) for one in genuine):
            return event_id
    raise errors.NotAuthenticated("The webhook's signature is not made with a secret known here.")
