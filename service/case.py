"""One inspection under way: what is known before its outcome, and the record that it becomes."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from service.preparation import Prepared
from service.records.inspection import FrameLayout, Inspection, new_id
from service.reply import Region, ResultCode, Timing, VerdictWord
from service.scheduler import Scored
from service.setups import Setup
from service.submission import Submission, elapsed_ms


@dataclass(frozen=True, slots=True)
class Case:
    """A prepared submission with all that will inspect it."""

    submission: Submission
    setup: Setup
    prepared: Prepared
    decode_ms: float

    def timing(self, scored: Scored | None = None, record_ms: float = 0.0) -> Timing:
        """Where the time went until now."""
        return Timing(
            decode=self.decode_ms,
            queue=round(scored.queue_s * 1000, 3) if scored else 0.0,
            inference=round(scored.inference_s * 1000, 3) if scored else 0.0,
            record=record_ms,
            total=elapsed_ms(self.submission.arrival),
        )

    def inspection(
        self,
        timing: Timing,
        *,
        request_key: str | None,
        result: ResultCode,
        code: int,
        verdict: VerdictWord,
        score: float | None = None,
        raw_score: float | None = None,
        regions: tuple[Region, ...] = (),
        detail: str | None = None,
    ) -> Inspection:
        """The record of an outcome."""
        fields, recipe, bundle = self.submission.fields, self.setup.recipe, self.setup.bundle
        manifest = bundle.manifest
        return Inspection(
            id=new_id(),
            created=datetime.now(UTC) - timedelta(seconds=time.monotonic() - self.submission.arrival),
            request_key=request_key,
            station=fields.station,
            lot=fields.lot,
            serial=fields.serial,
            trigger=fields.trigger,
            recipe=recipe.name,
            recipe_version=recipe.version,
            model=manifest.name,
            model_version=manifest.version,
            model_digest=bundle.digest,
            result=result,
            code=code,
            verdict=verdict,
            score=score,
            raw_score=raw_score,
            threshold=recipe.threshold,
            regions=regions,
            timing=timing,
            image_sha256=self.prepared.sha256,
            image_width=self.prepared.width,
            image_height=self.prepared.height,
            layout=FrameLayout(
                geometry=manifest.input, placement=self.prepared.frame.placement, style=self.setup.style
            ),
            detail=detail,
            face=None if fields.face is None else fields.face[0] + 1,
            faces=None if fields.face is None else fields.face[1],
        )
