"""What routes are given: the services of the app that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from kartina.api.security import LocalAccess
from kartina.services.generations import Generations
from kartina.services.models import Models


@dataclass(frozen=True)
class Services:
    models: Models
    generations: Generations
    access: LocalAccess


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]
