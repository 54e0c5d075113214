"""When something that happens every so many steps is due, also if the step it fell on was left out."""


def is_due(every_steps: int, last: int, now: int) -> bool:
    """Whether a multiple of `every_steps` lies above step `last`, where it was seen to last, and not above `now`."""
    return now // every_steps > last // every_steps
