"""How a route gets at the station of its application."""

from typing import cast

from fastapi import Request

from service.station import Station


def station_of(request: Request) -> Station:
    """The station that the application serves."""
    return cast("Station", request.app.state.station)
