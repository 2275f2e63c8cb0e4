"""`tailorbird run trainer`: watches figures and retrains."""

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import start_role


def trainer(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Watch live metrics and retrain when they fall; the gate decides about promotion.

    Example:  tailorbird -C shop run trainer
    """
    from tailorbird.config import open_project
    from tailorbird.monitoring.figures.collector import FiguresCollector, RolloutCollector
    from tailorbird.monitoring.notify.collector import NotifyCollector
    from tailorbird.platform.monitoring import FiguresTask
    from tailorbird.platform.notify import NotifyTask, check_receivers
    from tailorbird.platform.runtime.trainer import run_trainer

    stop = start_role()
    project = open_project(applied=True)
    check_receivers(project)
    figures = FiguresTask(project, project.clock())
    notify = NotifyTask(project, project.clock(), figures.newest)
    with serve_probes(
        "trainer",
        project,
        stop,
        host=health_host,
        port=health_port,
        extra_collectors=lambda: [
            FiguresCollector(figures.newest),
            RolloutCollector(figures.causes, figures.actions, figures.waiting, figures.overdue),
            NotifyCollector(notify.counts, notify.failing),
        ],
    ):
        run_trainer(project, project.clock(), stop, figures, notify)
