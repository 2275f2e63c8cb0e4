"""Limits and defaults of declarations."""

from tailorbird.events.clock import DAY

LOOK_BACK_MAX = 400 * DAY  # how far back a declaration may look
LOOK_BACK_HOP = 25 * DAY  # hop of a feature without a window
HOPS_MAX = 64  # hops of a window
HOPS_DEFAULT = 12
SEQUENCE_LENGTH_DEFAULT = 128
SEQUENCE_LENGTH_MAX = 1_024
SEQUENCE_VALUES_MAX = 8  # values per event of a sequence besides item, type and time
SESSION_EVENTS_MAX = 64  # last events of a person that are searched for the session
GAP_EVENTS_DEFAULT = 32  # events of `gap_mean` and the other gaps
RECENT_EVENTS_DEFAULT = 64  # events of `favourite` and `seen`

# A decay has 4 tiles a half-life and forgets what is older than 8, a weight of 1/256.
HALF_LIFE_TILES = 4
DECAY_HALF_LIVES = 8
# Squares are summed in two limbs: what is below this many bits, and the rest.
SQUARE_BITS = 31
# A sketch has 2^precision registers; ranks are cut off here, so that sums of 2^−rank are exact.
PRECISION_MIN = 4
PRECISION_MAX = 8
RANK_MAX = 40
# A sum must hold this many events of the largest value.
SUMMED_EVENTS_MIN = 1 << 30
EDGES_MAX = 32  # edges of a quantile's buckets
WORDS_MAX = 16  # words of a text or query that are compared
ELEMENTS_MAX = 256  # columns of one list
SIMILARITY_LENGTH_DEFAULT = 10
SIMILARITY_LENGTH_MAX = 64  # items that a similarity compares with
