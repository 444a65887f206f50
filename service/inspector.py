"""The way of one inspection: decode, score, judge, record, answer."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from typing import Any

import structlog

from atsnet.imaging import ImageError
from service import problems
from service.archive import Archive, Keepsake
from service.case import Case
from service.claims import Claims, RecentKeys
from service.decoding import Decoding
from service.latecomers import Latecomers
from service.metrics import Metrics
from service.preparation import Prepared
from service.problems import Problem
from service.recipes import UnknownRecipeError
from service.records.inspection import Inspection
from service.records.store import RecordStore
from service.records.writer import DuplicateKeyError, RecordError, RecordLateError
from service.refusals import RETRY_AFTER_S, as_problem, check_in_time, late, still_recording
from service.reply import Reply, Timing
from service.scheduler import DeadlinePassedError, EngineError, QueueFullError, SchedulerClosedError, Scored
from service.setups import Edition, Setup, hold, release
from service.submission import Submission, elapsed_ms
from service.verdict import RESULTS, NotFiniteError, find_regions, judge

log = structlog.get_logger(__name__)

Inspect = Callable[[Submission, AbstractAsyncContextManager[None]], Coroutine[Any, Any, Reply]]
"""See `Inspector.inspect`."""


class Inspector:
    """Takes submissions to verdicts, each with one setup from its decoding to its record.

    Args:
        edition: What requests may ask for.
        decoding: Makes frames of images.
        records: Where every verdict is written before it is answered.
        archive: Where images are kept afterwards.
        metrics: Where verdicts are counted.
        latecomers: Sees to records that are not written in time.
    """

    def __init__(
        self,
        edition: Edition,
        decoding: Decoding,
        records: RecordStore,
        archive: Archive,
        metrics: Metrics,
        latecomers: Latecomers,
    ) -> None:
        self.edition = edition
        """What requests may ask for; to be replaced by the next one, which those under way do not notice."""
        self._decoding = decoding
        self._records = records
        self._archive = archive
        self._metrics = metrics
        self._latecomers = latecomers
        self._claims = Claims()
        self._recent = RecentKeys()

    async def inspect(
        self, submission: Submission, client: AbstractAsyncContextManager[None], edition: Edition | None = None
    ) -> Reply:
        """Inspect one image, or replay the verdict that the same request got before.

        Args:
            submission: The image and what was said of it.
            client: A context that stops the work in it when the client has gone.
            edition: What the image was decoded by, where another process did; held by the caller. The current one by
                default.

        Raises:
            Problem: There is no verdict, and why.
            ClientDisconnect: The client left before there was one.
        """
        key = submission.fields.request_key
        try:
            if key is None:
                async with client:
                    case, outcome = await self._evaluate(submission, edition)
                return await self._settle(case, outcome)
            return await self._inspect_once(key, submission, client, edition)
        except (TimeoutError, DeadlinePassedError):
            raise late(submission) from None
        except (ImageError, UnknownRecipeError, QueueFullError, SchedulerClosedError, RecordError) as error:
            raise as_problem(error) from error

    @contextmanager
    def at_one_time(self) -> Iterator[Inspect]:
        """See `front.Inspects`."""
        edition = self.edition
        hold(edition)
        try:
            yield partial(self.inspect, edition=edition)
        finally:
            release(edition)

    async def _inspect_once(
        self,
        key: str,
        submission: Submission,
        client: AbstractAsyncContextManager[None],
        edition: Edition | None,
    ) -> Reply:
        """Inspect what has a key, unless it was before.

        Nearly every key is new, and the records refuse one that is not: only for keys that were recorded lately, and
        where there will be no verdict, is the look for an earlier one worth its time.
        """
        async with AsyncExitStack() as held:
            async with asyncio.timeout_at(submission.deadline), client:
                await held.enter_async_context(self._claims.hold(key))
                earlier = await self._records.find(key) if key in self._recent else None
                if earlier is not None:
                    return await self._replay(earlier, submission)
                try:
                    case, outcome = await self._evaluate(submission, edition)
                except (ImageError, UnknownRecipeError, Problem):
                    earlier = await self._records.find(key)
                    if earlier is None:
                        raise
                    return await self._replay(earlier, submission)
                if isinstance(outcome, EngineError):
                    earlier = await self._records.find(key)
                    if earlier is not None:
                        return await self._replay(earlier, submission)
            self._recent.add(key)
            return await self._settle(case, outcome, held)

    async def _evaluate(self, submission: Submission, edition: Edition | None) -> tuple[Case, Scored | EngineError]:
        setup = (self.edition if edition is None else edition).get(submission.fields.recipe)
        loaded = setup.loaded
        if loaded.unfit is not None:
            raise Problem(problems.NOT_READY, loaded.unfit, retry_after_s=RETRY_AFTER_S)
        loaded.hold()
        try:
            prepared, decode_ms = await self._decoding.prepare(submission, setup.plan)
            outcome = await _score(setup, prepared, submission.deadline)
        finally:
            loaded.release()
        return Case(submission, setup, prepared, decode_ms), outcome

    async def _settle(self, case: Case, outcome: Scored | EngineError, held: AsyncExitStack | None = None) -> Reply:
        """Judge and record: neither the deadline nor the client's leaving stops it, since there is an outcome.

        What is `held` of the request's key passes to the record where that takes longer than the request may.
        """
        if isinstance(outcome, EngineError):
            raise await self._failed(case, str(outcome), case.submission.deadline)
        reply = await self._conclude(case, outcome, held)
        check_in_time(case.submission, reply)
        return reply

    async def record_failure(self, submission: Submission, why: str) -> None:
        """Record that a submission was answered an error, elsewhere and before this."""
        try:
            setup = self.edition.get(submission.fields.recipe)
            prepared, decode_ms = await self._decoding.prepare(submission, setup.plan)
        except (Problem, ImageError, UnknownRecipeError):  # it never had a frame: its answer was a refusal
            return
        await self._failed(Case(submission, setup, prepared, decode_ms), why, math.inf)

    async def _conclude(self, case: Case, scored: Scored, held: AsyncExitStack | None) -> Reply:
        manifest = case.setup.bundle.manifest
        try:
            judgement = judge(scored.score, manifest.calibration.score_threshold, case.setup.recipe)
            regions = find_regions(scored.anomaly_map, case.prepared.frame.placement, manifest.input)
        except NotFiniteError as error:
            raise await self._failed(case, str(error), case.submission.deadline) from error
        inspection = case.inspection(
            case.timing(scored),
            request_key=case.submission.fields.request_key,
            result=RESULTS[judgement.verdict],
            code=0,
            verdict=judgement.verdict,
            score=judgement.score,
            raw_score=scored.score,
            regions=regions,
        )
        handed_over = time.monotonic()
        try:
            await self._records.write(inspection, case.submission.deadline)
        except DuplicateKeyError:
            # Another process on the same records was faster; its verdict is the one that counts.
            earlier = await self._records.find(str(inspection.request_key))
            if earlier is None:
                raise
            return await self._replay(earlier, case.submission)
        except RecordLateError as error:

            def then() -> None:
                self._keep(case, inspection, scored)
                self._count(case, inspection, scored, elapsed_ms(handed_over))

            self._latecomers.follow(inspection, error.written, then, None if held is None else held.pop_all())
            raise still_recording(case.submission) from None
        except RecordError as error:
            raise Problem(problems.FAILED, str(error)) from error
        record_ms = elapsed_ms(handed_over)
        self._keep(case, inspection, scored)
        heatmap = await self._decoding.picture(case.submission, inspection.layout, scored.anomaly_map)
        timing = self._count(case, inspection, scored, record_ms)
        return inspection.reply(timing=timing, heatmap=heatmap)

    def _keep(self, case: Case, inspection: Inspection, scored: Scored | None) -> None:
        anomaly_map = None if scored is None else scored.anomaly_map
        self._archive.keep(Keepsake(inspection.id, case.prepared.file, anomaly_map, inspection.verdict))

    def _count(self, case: Case, inspection: Inspection, scored: Scored, record_ms: float) -> Timing:
        """Tell all who follow the verdicts of one; where its time went."""
        timing = case.timing(scored, record_ms)
        quality, drift = case.prepared.quality, case.setup.drift
        assert inspection.score is not None
        if drift is not None and quality is not None:
            drift.observe(inspection.score, quality.brightness, quality.sharpness)
        self._metrics.verdict(inspection, inspection.score, timing)
        _log(inspection, timing)
        return timing

    async def _failed(self, case: Case, why: str, deadline: float) -> Problem:
        """Record a failure of the engine. It takes no request key, so that a retry is inspected afresh."""
        inspection = case.inspection(
            case.timing(),
            request_key=None,
            result=problems.FAILED.result,
            code=problems.FAILED.code,
            verdict="not_evaluated",
            detail=why,
        )

        def then() -> None:
            self._keep(case, inspection, None)
            _log(inspection, inspection.timing)

        try:
            await self._records.write(inspection, deadline)
        except RecordLateError as error:
            self._latecomers.follow(inspection, error.written, then)
            return still_recording(case.submission)
        except RecordError as error:
            return Problem(problems.FAILED, f"{why}; {error}")
        then()
        return Problem(problems.FAILED, why, extensions={"id": inspection.id})

    async def _replay(self, earlier: Inspection, submission: Submission) -> Reply:
        if await self._decoding.sha256(submission) != earlier.image_sha256:
            raise Problem(
                problems.KEY_REUSED,
                f"inspection {earlier.id} has the same idempotency key but another image; "
                "a new image needs a new key, or a new trigger",
            )
        heatmap = None
        if submission.fields.heatmap != "none":
            anomaly_map = await asyncio.to_thread(self._archive.anomaly_map, earlier.id)
            if anomaly_map is not None:
                heatmap = await self._decoding.picture(submission, earlier.layout, anomaly_map)
        log.info("replayed", id=earlier.id, verdict=earlier.verdict, station=earlier.station, serial=earlier.serial)
        return earlier.reply(replayed=True, heatmap=heatmap)


async def _score(setup: Setup, prepared: Prepared, deadline: float) -> Scored | EngineError:
    try:
        scored = await setup.loaded.scheduler.submit(prepared.frame.pixels, deadline)
    except SchedulerClosedError:
        raise
    except EngineError as error:
        return error
    if time.monotonic() >= deadline:
        raise DeadlinePassedError("the deadline passed while the image was inspected")
    return scored


def _log(inspection: Inspection, timing: Timing) -> None:
    log.info(
        "inspected",
        id=inspection.id,
        verdict=inspection.verdict,
        result=inspection.result,
        code=inspection.code,
        score=inspection.score,
        ms=timing.total,
        recipe=inspection.recipe,
        station=inspection.station,
        lot=inspection.lot,
        serial=inspection.serial,
        trigger=inspection.trigger,
    )
