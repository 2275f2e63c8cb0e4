"""Limits and defaults of declarations."""

from tailorbird.events.clock import DAY

HORIZON = 400 * DAY  # how far back a declaration may look
HORIZON_HOP = 25 * DAY
HOPS_MAX = 64
HOPS_DEFAULT = 12
SEQUENCE_LENGTH = 128
SEQUENCE_LENGTH_MAX = 1_024
SEQUENCE_VALUES_MAX = 8  # values per event of a sequence besides item, type and time
SESSION_LENGTH = 64
GAP_LENGTH = 32
RECENT_EVENTS_LENGTH = 64  # events of `favourite` and `seen`

# A decay has 4 tiles a half-life and forgets what is older than 8, a weight of 1/256.
DECAY_STEPS = 4
DECAY_HALF_LIVES = 8
# Squares are summed in two limbs: what is below this many bits, and the rest.
SQUARE_BITS = 31
# A sketch has 2^precision registers; ranks are cut off here, so that sums of 2^−rank are exact.
PRECISION_MIN, PRECISION_MAX = 4, 8
RANK_MAX = 40
# A sum must hold this many events of the largest value.
EVENTS_MAX = 1 << 30
EDGES_MAX = 32  # edges of a quantile's buckets
WORDS = 16  # words of a text or query that are compared
ELEMENTS_MAX = 256  # columns of one list
SIMILARITY_LENGTH = 10
SIMILARITY_LENGTH_MAX = 64  # items that a similarity compares with
