"""Decisions on models: what a shadow, a canary and a champion show, and what follows.

evidence   tests of rates that hold at any time
champion   keep the champion, or roll back
shadow     judge a version that scores beside the champion
chain      which step a version takes next, from aliases and audit log alone
"""

from tailorbird.monitoring.decisions.chain import RolloutLimits, RolloutStep, next_step
from tailorbird.monitoring.decisions.champion import ChampionVerdict, judge_champion
from tailorbird.monitoring.decisions.shadow import ShadowVerdict, judge_shadow

__all__ = [
    "ChampionVerdict",
    "RolloutLimits",
    "RolloutStep",
    "ShadowVerdict",
    "judge_champion",
    "judge_shadow",
    "next_step",
]
