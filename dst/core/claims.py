"""A sentence of a verdict, tied to the section that has its number and to the control it passed."""

from typing import Any

from dst.core.results import Result, result


@result
class Claim(Result):
    """One sentence of a verdict.

    Attributes:
        says: The sentence, with its number.
        rests_on: The part of the report that has the number: ``outcome``, ``inferred``, ``sum``,
            ``cause`` (its terms), ``arrival``, ``route``, ``repairs``, ``lens``, ``failure``, or
            the name of a section of the page.
        control: What was checked before it was said, with its number; "" for a plain reading.
    """

    says: str
    rests_on: str
    control: str = ""

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        return [{"says": self.says, "rests_on": self.rests_on, "control": self.control}]
