"""Settings with their sources, and projects with their loaded declarations."""

from tailorbird.config.paths import Paths, paths_of
from tailorbird.config.project import (
    SETTINGS_FILE,
    Project,
    data_folder,
    find_project,
    open_project,
)
from tailorbird.config.settings import Settings, SettingWithSource, load_settings

__all__ = [
    "SETTINGS_FILE",
    "Paths",
    "Project",
    "SettingWithSource",
    "Settings",
    "data_folder",
    "find_project",
    "load_settings",
    "open_project",
    "paths_of",
]
