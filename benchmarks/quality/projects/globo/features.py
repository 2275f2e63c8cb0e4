"""News lives for hours: what is read now, in the last hours and on this device; what goes with what this reader just read.

No feature is the time since the reader's last click: the publishers stamped each session's last click exactly 30 s after the one
before, so such a feature would know that a session ends. `session_clicks`, cut by pauses of 30 minutes, knows a
little of it: 7 % of the true gaps within sessions are longer, and none of the invented ones.
"""

from tailorbird.features import context, count, derived, entity, sequence, session

user = entity("user")
item = entity("item")
item_device = entity("item", "device")
by_device = entity("device")
everyone = entity()

# how often it is read, and how often anything is: traffic swings by a factor of ten, so only shares of it mean the same all day
clicks_15m = count("clicks_15m", item, "click", window="15m", hop="1m")
clicks_1h = count("clicks_1h", item, "click", window="1h", hop="5m")
clicks_3h = count("clicks_3h", item, "click", window="3h", hop="15m")
clicks_6h = count("clicks_6h", item, "click", window="6h", hop="30m")
clicks_1d = count("clicks_1d", item, "click", window="1d", hop="2h")
clicks_ever = count("clicks_ever", item, "click")
device_clicks_1h = count("device_clicks_1h", item_device, "click", window="1h", hop="5m")
device_clicks_6h = count("device_clicks_6h", item_device, "click", window="6h", hop="30m")
all_15m = count("all_15m", everyone, "click", window="15m", hop="1m")
all_1h = count("all_1h", everyone, "click", window="1h", hop="5m")
all_6h = count("all_6h", everyone, "click", window="6h", hop="30m")
all_1d = count("all_1d", everyone, "click", window="1d", hop="2h")
on_device_1h = count("on_device_1h", by_device, "click", window="1h", hop="5m")
on_device_6h = count("on_device_6h", by_device, "click", window="6h", hop="30m")

rate_15m = derived("rate_15m", "clicks_15m / (all_15m + 1)")
rate_1h = derived("rate_1h", "clicks_1h / (all_1h + 1)")
rate_6h = derived("rate_6h", "clicks_6h / (all_6h + 1)")
rate_1d = derived("rate_1d", "clicks_1d / (all_1d + 1)")
device_rate_1h = derived("device_rate_1h", "device_clicks_1h / (on_device_1h + 1)")
device_rate_6h = derived("device_rate_6h", "device_clicks_6h / (on_device_6h + 1)")
share_15m = derived("share_15m", "clicks_15m / (clicks_1h + 1)")
share_1h = derived("share_1h", "clicks_1h / (clicks_3h + 1)")
share_3h = derived("share_3h", "clicks_3h / (clicks_1d + 1)")
share_1d = derived("share_1d", "clicks_1d / (clicks_ever + 1)")
share_device = derived("share_device", "device_clicks_6h / (clicks_6h + 1)")

user_clicks_1d = count("user_clicks_1d", user, "click", window="1d", hop="2h")
user_clicks_ever = count("user_clicks_ever", user, "click")
session_clicks = session("session_clicks", "click")
recent = sequence("recent", user, "click", length=32)

device = context("device")
