"""A process that takes in the log in small steps, publishes and saves after each; tests kill it at
a fault point.
"""

import os
import sys

from tailorbird.candidates.role import CandidatesRole
from tailorbird.config import open_project
from tailorbird.config.candidates import required_contract
from tailorbird.events import SystemClock


def main(root: str) -> None:
    """Follow the log of a project to its end."""
    os.chdir(root)
    project = open_project()
    project.paths.candidates.mkdir(exist_ok=True)
    with CandidatesRole(
        project.routed, project.paths.candidates, required_contract(project), clock=SystemClock()
    ) as role:
        while role.step(rows_max=200):
            role.publish(everything=True)
            role.save_snapshot()
        role.publish(everything=True)


if __name__ == "__main__":
    main(sys.argv[1])
