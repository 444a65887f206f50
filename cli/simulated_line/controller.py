"""What a controller does with a part: have it inspected, and ask once more when the reply was lost."""

import asyncio
from dataclasses import dataclass
from typing import Final

from cli.simulated_line.conveyor import Part
from service.client import AsyncInspectionClient, KeyReusedError, ServiceError, Verdict

Answer = Verdict | ServiceError

_OF_ONE_REPLY: Final = {"ms", "timing_ms", "replayed"}
"""What may differ between two replies about the same inspection."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What became of a part."""

    part: Part
    answer: Answer
    latency_s: float
    """From when the part was due to the answer, or to when there was none."""
    late_s: float
    """How long after it was due the part was posted."""
    repeated: Answer | None
    """The answer when it was posted once more."""

    @property
    def contradiction(self) -> str | None:
        """How the two answers contradict each other; `None` where they do not, or one of them is missing."""
        if isinstance(self.repeated, KeyReusedError) or isinstance(self.answer, KeyReusedError):
            return "the service takes the same part for another one"
        if not isinstance(self.answer, Verdict) or not isinstance(self.repeated, Verdict):
            return None
        first, second = (answer.model_dump(exclude=_OF_ONE_REPLY) for answer in (self.answer, self.repeated))
        differing = [f"{name} {first[name]!r}, then {second[name]!r}" for name in first if first[name] != second[name]]
        if differing:
            return "; ".join(differing)
        is_replay = self.repeated.replayed or (self.part.repeat == "meanwhile" and self.answer.replayed)
        return None if is_replay else "neither of two answers is a replay"


class Controller:
    """The controller of one station.

    Args:
        client: Of the service; belongs to this controller.
        recipe: What to inspect by; the service's default without.
        deadline_ms: How long a part waits for its answer, from when it is posted.
    """

    def __init__(self, client: AsyncInspectionClient, *, recipe: str | None, deadline_ms: int) -> None:
        self._client = client
        self._recipe = recipe
        self._deadline_ms = deadline_ms

    async def present(self, part: Part, due: float) -> Presented:
        """Have a part inspected that was due at that time of the event loop's clock."""
        clock = asyncio.get_running_loop().time
        late_s = clock() - due
        meanwhile = asyncio.create_task(self._ask(part)) if part.repeat == "meanwhile" else None
        answer = await self._ask(part)
        latency_s = clock() - due
        repeated: Answer | None = None
        if meanwhile is not None:
            repeated = await meanwhile
        elif part.repeat == "afterwards":
            repeated = await self._ask(part)
        return Presented(part, answer, latency_s, late_s, repeated)

    async def _ask(self, part: Part) -> Answer:
        try:
            return await self._client.inspect(
                part.specimen.image,
                deadline_ms=self._deadline_ms,
                recipe=self._recipe,
                station=part.station,
                lot=part.lot,
                serial=part.serial,
                trigger=part.trigger,
            )
        except ServiceError as error:
            return error
