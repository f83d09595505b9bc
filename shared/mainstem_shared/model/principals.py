"""A principal is who asks: the user, and the tenant, in whose name runs are started and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

LOCAL_USER: Final = "local"
DEFAULT_TENANT: Final = "default"


class Owned(Protocol):
    """Anything that belongs to a user: a run, or its spec."""

    @property
    def user_id(self) -> str: ...
    @property
    def tenant(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A user of a tenant. An admin reads, follows and aborts the runs of all users of their tenant."""

    user_id: str = LOCAL_USER
    tenant: str = DEFAULT_TENANT
    is_admin: bool = False

    @property
    def sees(self) -> str | None:
        """Whose runs this user may read: their own, or (None) those of everybody in the tenant."""
        return None if self.is_admin else self.user_id

    def owns(self, thing: Owned) -> bool:
        """Tell whether it is this user's; if not, it does not exist for them."""
        return thing.user_id == self.user_id and thing.tenant == self.tenant

    def may_read(self, thing: Owned) -> bool:
        """Tell whether it is there for this user to read."""
        return thing.tenant == self.tenant and (self.is_admin or thing.user_id == self.user_id)
