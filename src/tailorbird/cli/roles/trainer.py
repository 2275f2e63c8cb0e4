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

    stop_event = start_role()
    project = open_project(use_applied=True)
    check_receivers(project)
    figures_task = FiguresTask(project, project.clock())
    notify_task = NotifyTask(project, project.clock(), figures_task.last_hour_figures)
    with serve_probes(
        "trainer",
        project,
        stop_event,
        host=health_host,
        port=health_port,
        extra_collectors=lambda: [
            FiguresCollector(figures_task.last_hour_figures),
            RolloutCollector(
                figures_task.open_drift_causes,
                figures_task.recent_actions,
                figures_task.waiting_actions,
                figures_task.overdue_slots,
            ),
            NotifyCollector(notify_task.message_counts, notify_task.failing_by_receiver),
        ],
    ):
        run_trainer(project, project.clock(), stop_event, figures_task, notify_task)
