"""Names of versions: the live one, the one being tried, and earlier champions."""

import msgspec

HISTORY_MAX = 50
ALIAS_NAMES = ("champion", "challenger", "previous", "canary", "shadow")


class Aliases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names, as `aliases.json` has them.

    `history` is newest last. `canary` serves `share` of the people since `canary_at`
    (microseconds), and is advanced or ended by its metrics if `automatic`. The scores of `shadow`
    are logged but never served.
    """

    champion: str = ""
    challenger: str = ""
    history: tuple[str, ...] = ()
    shadow: str = ""
    canary: str = ""
    share: float = 0.0
    canary_at: int = 0
    automatic: bool = True

    @property
    def previous(self) -> str:
        """The champion before this one, to which a rollback returns."""
        return self.history[-1] if self.history else ""

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """Return the aliases of a version."""
        return tuple(name for name in ALIAS_NAMES if self.version_named(name) == version)

    def version_named(self, name: str) -> str:
        """Return the version of one of `ALIAS_NAMES`, or ""."""
        return getattr(self, name)

    def after_promotion(self, version: str) -> "Aliases":
        """Return the aliases after a promotion.

        A canary was compared with the old champion, so it ends with it.
        """
        history = (*self.history, self.champion) if self.champion else self.history
        return Aliases(
            version,
            "" if self.challenger == version else self.challenger,
            history[-HISTORY_MAX:],
            "" if self.shadow == version else self.shadow,
        )

    def after_rollback(self) -> "Aliases":
        """Return the aliases with the previous champion in its place again."""
        return Aliases(self.previous, self.challenger, self.history[:-1], self.shadow)
