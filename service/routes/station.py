"""How a route gets at the station of its application."""

from typing import cast

from fastapi import Request

from service.front import Front


def station_of(request: Request) -> Front:
    """The station that the application serves."""
    return cast("Front", request.app.state.station)
