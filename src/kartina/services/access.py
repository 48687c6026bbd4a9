"""Who asks: the local session, or an API key. Everything that is kept belongs to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from kartina import owners
from kartina.errors import ForbiddenError
from kartina.storage.usage import NONE, Quota

Scope = Literal["generate", "models", "keys", "data", "train", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ABOUT: dict[Scope, str] = {
    "generate": "make images; its own generations, gallery and assets",
    "models": "import, activate, roll back and delete models",
    "keys": "create, list and revoke API keys",
    "data": "upload, look at, change and delete its own data sets",
    "train": "train, evaluate and compare models; its own runs and studies (publishing also takes models)",
    "metrics": "read /metrics",
}


@dataclass(frozen=True)
class Caller:
    """Who asks, and what that one may do. Looking at models needs no scope."""

    owner: str
    scopes: frozenset[Scope]
    quota: Quota = NONE
    rate: str = ""  # as `limits` writes it, such as "60/minute"; "" for none
    name: str = ""
    prefix: str = ""  # how the key begins
    expires_at: datetime | None = None  # of the key

    def needs(self, scope: Scope) -> None:
        """Raises ForbiddenError without the scope."""
        if scope not in self.scopes:
            have = ", ".join(sorted(self.scopes)) or "none"
            raise ForbiddenError(
                f"Found a key with the scopes {have}; expected {scope!r} ({ABOUT[scope]}). Use a key that has it."
            )


LOCAL = Caller(owners.LOCAL, frozenset(SCOPES), name="local", prefix="local")


def as_scopes(names: Sequence[str]) -> frozenset[Scope]:
    """Scopes by their names; what is none is left out (a newer Kartina may have given it)."""
    return frozenset(scope for scope in SCOPES if scope in names)
