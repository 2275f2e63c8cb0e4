"""Output of the fields that an explained value lacks."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailorbird.cli.output import console, this_command

if TYPE_CHECKING:
    from tailorbird.features.explain import Explanation


def print_missing_fields(explanation: "Explanation", entity_texts: Sequence[str]) -> None:
    """Print why a value is missing for lack of a field, and how to pass the field."""
    for explained_value in (explanation, *explanation.inputs):
        if explained_value.value == explained_value.value or not explained_value.missing_fields:
            continue
        fields = [name for name in explained_value.missing_fields if "." not in name]
        attributes = [name for name in explained_value.missing_fields if "." in name]
        if attributes:
            console().print(
                f"{explained_value.name} is missing: no profile says {', '.join(attributes)}"
            )
        if fields:
            arguments = " ".join(
                shlex.quote(text) for text in (*entity_texts, *(f"{name}:VALUE" for name in fields))
            )
            command = f"{this_command()} features show {arguments} --why {explained_value.name}"
            console().print(
                f"{explained_value.name} is missing: it is about {', '.join(fields)} too, "
                f"which was not said. Try {command}"
            )
