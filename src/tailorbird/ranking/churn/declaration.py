"""The declaration of a churn model in `churn.py`: the population and the definition of churn.

from tailorbird.ranking import Churn, Contact

churn = Churn("churn", types=("purchase",), window="90d", contact=Contact(cost=1.0, value=40.0,
success=0.1))

    origin        gap          window
    ──┼────────────┼──────────────────────────────┼──►      gone: none of `types` within the window
      │ features look back from here, and labels forward from the end of the gap

`ranking.churn.bundle` describes trained models; labels and models are in `training.tasks.churn` and
`models`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tailorbird.errors import DeclarationError, UsageError
from tailorbird.events import format_duration, parse_duration
from tailorbird.pages.notebook import notebook_repr

DEFAULT_PERIODS = 12  # of a window, unless `period` says otherwise
PERIODS_MAX = 64
COUNT_UNITS = ("day", "event")


@dataclass(frozen=True)
class Contact:
    """The costs and benefits of contacting a user at risk, such as with a voucher.

    Args:
        cost: of one contact, whoever gets it.
        value: of one retained user.
        success: the share of leavers that a contact retains; measure it by an experiment.
    """

    cost: float = 1.0
    value: float = 20.0
    success: float = 0.1

    def __post_init__(self) -> None:
        if self.cost < 0 or self.value < 0 or not 0 <= self.success <= 1:
            raise DeclarationError(
                f"expected cost and value of at least 0 and success from 0 to 1, got {self}",
                where="Contact",
            )


@notebook_repr
@dataclass(frozen=True)
class Churn:
    """The definition of churn, and the population to score.

    Args:
        name: of the model in the registry, and what `tailorbird train NAME` takes.
        types: events that show that a person is still there.
        window: a user without any of them for so long has churned.
        gap: from the time of scoring to the start of the window, as the time to act; "" for none.
        active: the population: users with such an event within this time; "" for all who ever had
            one.
        per: "day" counts several events of a UTC day as one purchase, "event" counts each. A day
            split by a cut counts on either side with events.
        period: the step of the hazard; "" takes a twelfth of the window.
        trust: columns that may read profiles without a time, or all of one import time. Such a
            profile may contain later knowledge.
        leave_out: columns that the model must not see.
        recency, frequency, age, amount: numeric columns with the seconds since a user's last
            purchase, the number of purchases, the seconds since the first, and the total amount.
            With them, BG/NBD and a regression on these four are learned and blended too; both are
            strong where data is scarce.
        contact: costs and benefits of contacting a user, for the report.
    """

    name: str = "churn"
    types: Sequence[str] = ("purchase",)
    window: str = "90d"
    gap: str = ""
    active: str = ""
    per: str = "day"
    period: str = ""
    trust: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    recency: str = ""
    frequency: str = ""
    age: str = ""
    amount: str = ""
    contact: Contact = Contact()

    def __post_init__(self) -> None:
        where = f"churn {self.name}"
        if not self.types or isinstance(self.types, str):
            raise DeclarationError(
                'types needs a list of event types, such as ("purchase",)', where=where
            )
        if self.per not in COUNT_UNITS:
            raise DeclarationError(
                f"unknown per {self.per!r}", where=where, fix=f"use {' or '.join(COUNT_UNITS)}"
            )
        for field in ("window", "gap", "active", "period"):
            text = getattr(self, field)
            try:
                if text or field == "window":
                    parse_duration(text)
            except UsageError as error:
                raise DeclarationError(f"{field}: {error.message}", where=where) from None
        if bool(self.recency) + bool(self.frequency) + bool(self.age) not in (0, 3):
            raise DeclarationError(
                "recency, frequency and age are named together or not at all", where=where
            )
        if self.period and self.window_us % self.period_us:
            raise DeclarationError(
                f"a window of {self.window} is no whole number of periods of {self.period}",
                where=where,
            )
        if self.periods > PERIODS_MAX:
            raise DeclarationError(
                f"{self.periods} periods of {self.period}: at most {PERIODS_MAX}",
                where=where,
                fix="a longer period",
            )

    @property
    def rfm(self) -> tuple[str, ...]:
        """The columns named as recency, frequency, age and optionally amount.

        Empty unless declared.
        """
        required_columns = (self.recency, self.frequency, self.age)
        return (
            (*required_columns, *((self.amount,) if self.amount else ()))
            if all(required_columns)
            else ()
        )

    @cached_property
    def window_us(self) -> int:
        return parse_duration(self.window)

    @cached_property
    def gap_us(self) -> int:
        return parse_duration(self.gap) if self.gap else 0

    @cached_property
    def active_us(self) -> int:
        """The activity window in microseconds, 0 for unlimited."""
        return parse_duration(self.active) if self.active else 0

    @cached_property
    def period_us(self) -> int:
        return parse_duration(self.period) if self.period else self.window_us // DEFAULT_PERIODS

    @property
    def periods(self) -> int:
        """The number of periods in the window."""
        return max(1, round(self.window_us / self.period_us))

    def describe(self) -> str:
        """Describe the definition in a sentence."""
        population = f"with any within {self.active}" if self.active else "who ever had one"
        gap_text = f", from {self.gap} after the moment of asking" if self.gap else ""
        window = format_duration(self.window_us) or self.window
        return (
            f"no {' or '.join(self.types)} for {window}{gap_text}; asked about people {population}"
        )
