"""`tailorbird run score` away from the state: it reads what the workers copied to a Valkey, and
waits until that has an event.
"""

import shutil
from pathlib import Path

import pytest
from tests.support.network.stores import needs_valkey, start_server
from tests.support.people import CLOCK, make_site

from tailorbird.cli.roles.scoring import ScoreModels
from tailorbird.config import open_project
from tailorbird.errors import NotReadyError
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.serving.messages import RecommendQuery

SCORES = (
    'from tailorbird.ranking import NextBest\n\nnext_home = NextBest("home", size=2, '
    'on=["click"], every="1m")\n'
)


def test_a_model_that_ends_its_loader_does_not_end_the_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path, canaries=1, others=3)
    (site.root / "scores.py").write_text(SCORES)
    monkeypatch.setenv("TAILORBIRD_FAULTS", "serving.probe=kill")
    models = ScoreModels(open_project(site.root), CLOCK)
    try:
        with pytest.raises(NotReadyError):
            models.next_best(RecommendQuery(slot="home", user_id="other-user-002"))
    finally:
        models.close()


@pytest.mark.slow
@needs_valkey
@pytest.mark.parametrize("same_machine", [False, True])
def test_away_from_the_state_it_reads_what_was_copied(tmp_path: Path, same_machine: bool) -> None:
    with start_server(tmp_path / "valkey") as server:
        site = make_site(
            tmp_path,
            canaries=1,
            others=3,
            settings=f'\n[store]\nurl = "{server.url}"\nprefix = "shop"\n',
        )
        (site.root / "scores.py").write_text(SCORES)
        project = open_project(site.root)
        with FeatureWorker(
            project.routed,
            project.paths.state,
            project.features,
            clock=CLOCK,
            copies=project.copy_target(),
        ) as worker:
            while worker.step().rows:
                pass
            worker.republish()
            position = worker.position.log_position
        if not same_machine:
            shutil.rmtree(project.paths.state)
        models = ScoreModels(project, CLOCK)
        try:
            models.refresh()
            assert models.reached_position() == position
            answer = models.next_best(RecommendQuery(slot="home", user_id="other-user-002"))
            assert answer.items
            assert "features" not in answer.degraded
        finally:
            models.close()
