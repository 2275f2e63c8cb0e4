"""Merges of people to erase."""


def make_merge(event_id: str, user: str, into: str) -> dict:
    return {
        "event_id": event_id,
        "type": "merge",
        "user_id": user,
        "properties": {"merged_into": into},
    }
