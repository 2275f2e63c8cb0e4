"""The lake of a project: verification, repair, replay and upkeep."""
