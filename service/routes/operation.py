"""What the operators of the service ask: is it alive, is it able, what does it count."""

from fastapi import APIRouter, Request, Response

from service import examples
from service.problems import NOT_READY, Problem
from service.refusals import RETRY_AFTER_S
from service.routes.station import station_of

router = APIRouter(tags=["operation"])


@router.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    """200 as long as the process can answer at all."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    summary="Inspections are accepted",
    responses=examples.NOT_READY,
)
async def readyz(request: Request) -> dict[str, str | list[str]]:
    """200 when every active bundle is loaded, its golden samples passed and inspections are accepted; else `detail`
    says why.

    `restarting` names workers that ended and are not back yet; the others serve meanwhile.
    """
    station = station_of(request)
    station.check_ready()
    if station.unfit is not None:
        raise Problem(NOT_READY, station.unfit, retry_after_s=RETRY_AFTER_S)
    return {
        "status": "ready",
        "bundle": station.equipment.bundle_name,
        "digest": station.equipment.digest,
        "restarting": station.restarting,
    }


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """All metrics of the service, whichever process answers, in Prometheus's text format.

    Who asks for OpenMetrics (`Accept: application/openmetrics-text`), as Prometheus does, gets that, and with it the
    ids of the last inspections that did not pass, one for each bucket of the scores.
    """
    exposed = await station_of(request).exposition(request.headers.get("accept", ""))
    return Response(exposed.data, headers={"Content-Type": exposed.content_type})
