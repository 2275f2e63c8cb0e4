"""Keys are on disk and in experiments: these values must never change."""

import numpy as np

from tailorbird.events import combine_keys, hash64, hash64s

VECTORS = {
    "": 0x2FE50816CD58E68F,
    "42": 0x09D0D824BD08AE35,
    "anon:c0ffee": 0xEBEB081357DF47B8,
    "Zürich ✓": 0xE6ED7C0B1E8BA47C,
    "i93": 0x814EE23E44EB6607,
}
COMBINED_42_I93 = 0x64EC8CB8F3A4D899
COMBINED_I93_42 = 0x8628665681B303B5
COMBINED_NOTHING = 0x243F6A8885A308D3


def test_the_hash_of_a_text_never_changes():
    assert {text: hash64(text) for text in VECTORS} == VECTORS


def test_many_texts_hash_as_one_does():
    keys = hash64s(VECTORS)
    assert keys.dtype == np.uint64
    assert keys.tolist() == list(VECTORS.values())
    assert hash64s([]).tolist() == []


def test_the_key_of_a_composite_never_changes_and_depends_on_the_order():
    user, item = hash64s(["42"]), hash64s(["i93"])
    assert combine_keys(user, item).tolist() == [COMBINED_42_I93]
    assert combine_keys(item, user).tolist() == [COMBINED_I93_42]
    assert int(combine_keys()) == COMBINED_NOTHING


def test_shapes_broadcast():
    users, items = hash64s(["a", "b"])[:, None], hash64s(["x", "y", "z"])
    keys = combine_keys(users, items)
    assert keys.shape == (2, 3)
    assert keys[1, 2] == combine_keys(hash64s(["b"]), hash64s(["z"]))[0]
