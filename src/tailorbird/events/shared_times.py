"""Times that several packages, the tracker included, must agree on."""

from tailorbird.events.clock import MINUTE

SESSION_GAP = 30 * MINUTE  # a longer pause between events of a person begins a session
ATTRIBUTION = 30 * MINUTE  # by default, how long a click without request_id belongs to a response
