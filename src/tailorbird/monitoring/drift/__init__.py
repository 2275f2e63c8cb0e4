"""Drift: distributions of what is served and reported, and episodes in which they moved.

sketches   histograms of one hour: features, scores, sources, fields of events, traffic
distance   distances between histograms
detect     episodes at a stated rate of false alarms
training   the same against what the champion learned from
causes     the likely cause of an episode, with evidence and a runbook
judgement  the last look for drift, stored for status and messages
"""

from tailorbird.monitoring.drift.causes import Cause, name_cause
from tailorbird.monitoring.drift.detect import Episode, MovedSignal, Signal, find_episodes

__all__ = ["Cause", "Episode", "MovedSignal", "Signal", "find_episodes", "name_cause"]
