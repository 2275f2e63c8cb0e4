"""Why an answer is as general, short or empty as it is, in sentences with what to do: what `recommend` prints below its list."""

from typing import Any

from tailorbird.config import Project
from tailorbird.events import to_iso
from tailorbird.lake import Lake
from tailorbird.registry import Registry
from tailorbird.serving.messages import DEGRADED


def explain_answer(project: Project, answer: dict[str, Any], user: str, command: str) -> list[str]:
    """Return a sentence for each thing that made an answer general, short or empty.

    Args:
        answer: as the API gives it.
        user: who was asked for, "" for a stranger.
        command: `tailorbird` with the folder of the project.
    """
    told = [f"features as of {to_iso(answer['t'])[:16].replace('T', ' ')} UTC"]
    told += [DEGRADED[code] for code in answer["degraded"] if code in DEGRADED]
    if baseline := Registry(project.paths.registry, clock=project.clock()).info(answer["model"]).baseline:
        told.append(f"{answer['model']} is no model, but the best judged baseline: {baseline}. {command} train learns one")
    if answer["arm"]:
        told.append(f"arm {answer['arm']} of the slot's experiment: other people may be in another")
    if not user:
        told.append(f"for a stranger; for somebody: {command} recommend --user ID")
    elif not _events_of(project, user):
        told.append(f"nothing is known of user {user}: the list is a stranger's")
    return told


def _events_of(project: Project, user: str) -> int:
    """Return how many events of a user the lake holds; 1 where it cannot say."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return 1
    pseudonyms = project.pseudonyms(note=False)
    person = (user if pseudonyms is None else pseudonyms.user_id(user)).replace("'", "''")
    return int(lake.sql(f"SELECT count(*) AS n FROM events WHERE user_id = '{person}'").column("n")[0].as_py())
