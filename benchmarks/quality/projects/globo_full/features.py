"""News lives for hours: what is read now, in the last hours and on this device; what goes with what this reader just read.

No feature is the time since the reader's last click: the publishers stamped each session's last click exactly 30 s after the one
before, so such a feature would know that a session ends. `session_clicks` and its like, cut by pauses of 30 minutes, know a
little of it: 7 % of the true gaps within sessions are longer, and none of the invented ones. `user_fading_1d` moves with it, if little.
"""

from tailorbird.features import (
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    first,
    last,
    sequence,
    session,
    session_depth,
    session_length,
    share,
    time_since,
    time_since_first,
    trend,
)

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

# The fuller set: what fades, what rises, what is talked of by many, what belongs to this weekday and this referrer.

fading_15m = decayed("fading_15m", item, "click", half_life="15m")
fading_1h = decayed("fading_1h", item, "click", half_life="1h")
fading_6h = decayed("fading_6h", item, "click", half_life="6h")
all_fading_1h = decayed("all_fading_1h", everyone, "click", half_life="1h")
trend_1h = trend("trend_1h", item, "click", short="1h", long="6h", hop="30m")
trend_6h = trend("trend_6h", item, "click", short="6h", long="1d", hop="2h")
share_all_1h = share("share_all_1h", item, "click", within=everyone, window="1h", hop="5m")
share_all_1d = share("share_all_1d", item, "click", within=everyone, window="1d", hop="2h")
share_on_device_1h = share("share_on_device_1h", item_device, "click", within=by_device, window="1h", hop="5m")
readers_1h = distinct("readers_1h", item, "click", of="user", precision=6, window="1h", hop="10m")
readers_1d = distinct("readers_1d", item, "click", of="user", precision=7, window="1d", hop="6h")
sessions_1h = distinct("sessions_1h", item, "click", of="session", precision=6, window="1h", hop="10m")
age = time_since_first("age", item, "click")
quiet_for = time_since("quiet_for", item, "click")
by_weekday = count("by_weekday", entity("item", "weekday"), "click", window="7d", hop="1d")
direct_6h = count("direct_6h", item, "click", window="6h", hop="30m", where="referrer == '1'")
searched_6h = count("searched_6h", item, "click", window="6h", hop="30m", where="referrer == '2'")
direct_share = derived("direct_share", "direct_6h / (clicks_6h + 1)")
searched_share = derived("searched_share", "searched_6h / (clicks_6h + 1)")
fading_rate = derived("fading_rate", "fading_1h / (all_fading_1h + 1)")
rising = derived("rising", "fading_15m / (fading_6h + 1)")
again_1h = derived("again_1h", "clicks_1h / (readers_1h + 1)")

seen_by_me = count("seen_by_me", entity("user", "item"), "click", window="7d")
user_fading_1d = decayed("user_fading_1d", user, "click", half_life="1d")
user_items = distinct("user_items", user, "click", of="item", precision=5, window="7d")
user_first_item = first("user_first_device", user, "click", of="device")
user_last_device = last("user_last_device", user, "click", of="device")
depth = session_depth("depth", "click")
length = session_length("length", "click")
