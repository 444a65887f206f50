"""What is answered where there is no verdict, as the contract has it."""

import time
from typing import Final

from atsnet.imaging import ImageError, ImageTooLargeError, NotAnImageError
from service import problems
from service.problems import Problem
from service.recipes import UnknownRecipeError
from service.reply import Reply
from service.scheduler import QueueFullError
from service.submission import Submission, elapsed_ms

RETRY_AFTER_S: Final = 1


def late(submission: Submission) -> Problem:
    """The deadline passed before there was a verdict."""
    detail = f"no verdict {elapsed_ms(submission.arrival)} ms after arrival, when the deadline had passed"
    return Problem(problems.DEADLINE_PASSED, detail)


def still_recording(submission: Submission) -> Problem:
    """The deadline passed before the verdict was recorded, which it will be."""
    detail = (
        f"the record was still being written {elapsed_ms(submission.arrival)} ms after arrival, when the deadline had "
        "passed; once it is, a retry with the same key gets its verdict"
    )
    return Problem(problems.DEADLINE_PASSED, detail)


def check_in_time(submission: Submission, reply: Reply) -> None:
    """Raise the `Problem` (code 41) that a verdict is when it comes after its deadline, if it does."""
    if time.monotonic() >= submission.deadline:
        detail = (
            f"the verdict was recorded as {reply.id}, but {elapsed_ms(submission.arrival)} ms after arrival, when "
            "the deadline had passed; a retry with the same key gets it"
        )
        raise Problem(problems.DEADLINE_PASSED, detail, extensions={"id": reply.id})


def as_problem(error: Exception) -> Problem:
    """What is answered to an image, a recipe or a queue that is not as it should be."""
    match error:
        case ImageTooLargeError():
            return Problem(problems.TOO_LARGE, str(error))
        case NotAnImageError():
            return Problem(problems.NOT_AN_IMAGE, str(error))
        case ImageError():
            return Problem(problems.UNUSABLE_IMAGE, str(error))
        case UnknownRecipeError():
            return Problem(problems.UNKNOWN, str(error))
        case QueueFullError():
            return Problem(problems.OVERLOADED, str(error), retry_after_s=RETRY_AFTER_S)
        case _:  # the scheduler is closing, or the records do not answer
            return Problem(problems.NOT_READY, str(error), retry_after_s=RETRY_AFTER_S)
