"""Music, games, news and television."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.first_files.held_out.drawing import (
    DIGITS,
    HEX,
    LOWER,
    blank,
    draw_actions,
    draw_choices,
    draw_codes,
    draw_even,
    draw_numbers,
    draw_titles,
    draw_uuids,
    format_times,
    pick,
    write_json_lines,
    write_table,
)
from benchmarks.first_files.layout import NONE, Layout


def _write_lastfm(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(10, n_rows // 300)
    n_tracks = max(40, n_rows // 6)
    n_artists = max(8, n_tracks // 8)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_tracks,
        start="2006-08-13",
        days=400,
        per_session=12,
        gap_s=220,
    )
    people = [f"user_{number:06d}" for number in range(1, n_people + 1)]
    artist_of = rng.integers(0, n_artists, n_tracks)
    artist_ids = blank(rng, draw_uuids(rng, n_artists), 0.04)
    artists = draw_titles(
        rng, n_artists, ["Björk", "The", "Sigur", "Rós", "Deep", "Dish", "坂本龍一"]
    )
    track_ids = blank(rng, draw_uuids(rng, n_tracks), 0.11)
    tracks = draw_titles(rng, n_tracks)
    # One person after the other, each from the newest play to the oldest.
    order = np.lexsort((-actions.second, actions.person))
    item = actions.item[order]
    write_table(
        folder / "userid-timestamp-artid-artname-traid-traname.tsv",
        {
            "userid": pick(people, actions.person[order]),
            "timestamp": format_times(actions.second[order], "%Y-%m-%dT%H:%M:%SZ"),
            "artid": pick(artist_ids, artist_of[item]),
            "artname": pick(artists, artist_of[item]),
            "traid": pick(track_ids, item),
            "traname": pick(tracks, item),
        },
        delimiter="\t",
        header=False,
    )
    write_table(
        folder / "userid-profile.tsv",
        {
            "#id": people,
            "gender": blank(rng, draw_even(rng, ["m", "f"], n_people), 0.11),
            "age": blank(rng, rng.integers(16, 60, n_people).tolist(), 0.71),
            "country": blank(
                rng, draw_choices(rng, ["United States", "Japan", "Poland"], n_people), 0.09
            ),
            "registered": format_times(
                rng.integers(1_080_000_000, 1_155_000_000, n_people), "%b %d, %Y"
            ),
        },
        delimiter="\t",
    )


def _write_steam(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 16)
    n_games = max(30, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows * 6 // 10,
        n_people=n_people,
        n_items=n_games,
        start="2015-01-01",
        days=30,
        per_session=5,
        distinct="person",
    )
    people = np.array(draw_numbers(rng, n_people, 5_000, 310_000_000))
    games = draw_titles(
        rng, n_games, ["The", "Elder", "Scrolls", "V", "Counter-Strike", "Dota", "2"]
    )
    order = np.argsort(actions.person, kind="stable")
    is_played = (rng.random(len(order)) < 0.55).tolist()
    hours = rng.lognormal(1.5, 1.8, len(order)).clip(0.1, 11_000).tolist()
    rows = []
    for person, game, played, time in zip(
        people[actions.person[order]].tolist(),
        pick(games, actions.item[order]),
        is_played,
        hours,
        strict=True,
    ):
        rows.append((person, game, "purchase", 1.0, 0))
        if played:
            rows.append((person, game, "play", round(time, 1 if time < 100 else 0), 0))
    columns = zip(*rows, strict=True)
    write_table(
        folder / "steam-200k.csv",
        dict(zip(("user", "game", "behavior", "value", "zero"), columns, strict=True)),
        header=False,
    )


def _write_mind(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 4)
    n_news = max(40, n_rows // 10)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_news,
        start="2019-11-09",
        days=7,
        per_session=1.6,
        gap_s=400,
    )
    n = len(actions)
    people = [f"U{number}" for number in draw_numbers(rng, n_people, 1, 94_058)]
    news = [f"N{number}" for number in draw_numbers(rng, n_news, 1, 130_380)]
    histories = [
        " ".join(pick(news, row[:length]))
        for row, length in zip(
            rng.integers(0, n_news, (n_people, 20)),
            rng.integers(0, 21, n_people).tolist(),
            strict=True,
        )
    ]
    shown = rng.integers(0, n_news, (n, 12))
    lengths = rng.integers(2, 13, n).tolist()
    slates = []
    for clicked, row, length in zip(actions.item.tolist(), shown, lengths, strict=True):
        codes = [f"{news[i]}-0" for i in row[:length].tolist() if i != clicked]
        codes.insert(len(codes) // 2, f"{news[clicked]}-1")
        slates.append(" ".join(codes))
    order = rng.permutation(n)
    write_table(
        folder / "behaviors.tsv",
        {
            "impression": range(1, n + 1),
            "user": pick(people, actions.person[order]),
            "time": format_times(actions.second[order], "%-m/%-d/%Y %-I:%M:%S %p"),
            "history": pick(histories, actions.person[order]),
            "impressions": pick(slates, order),
        },
        delimiter="\t",
        header=False,
    )
    kinds = [("news", "newspolitics"), ("sports", "football_nfl"), ("lifestyle", "lifestyleroyals")]
    kind_of = draw_choices(rng, kinds, n_news)
    entities = [
        json.dumps(
            [
                {
                    "Label": "Prince Philip, Duke of Edinburgh",
                    "Type": "P",
                    "WikidataId": "Q80976",
                    "Confidence": 1.0,
                    "OccurrenceOffsets": [48],
                    "SurfaceForms": ["Prince Philip"],
                }
            ]
        ),
        "[]",
    ]
    title_entities = draw_choices(rng, entities, n_news)
    # Quotes stand as they are: the file does not use them around values.
    lines = [
        "\t".join(parts) + "\n"
        for parts in zip(
            news,
            [kind for kind, _ in kind_of],
            [sub for _, sub in kind_of],
            draw_titles(rng, n_news, n_words=(5, 12)),
            [text or "" for text in blank(rng, draw_titles(rng, n_news, n_words=(8, 20)), 0.05)],
            [
                f"https://assets.msn.com/labs/mind/{code}.html"
                for code in draw_codes(rng, n_news, 7)
            ],
            title_entities,
            title_entities[::-1],
            strict=True,
        )
    ]
    (folder / "news.tsv").write_text("".join(lines), encoding="utf-8")


def _write_adressa(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 6)
    n_articles = max(30, n_rows // 40)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_articles,
        start="2017-01-01",
        days=7,
        per_session=3,
        gap_s=90,
    )
    n = len(actions)
    people = [f"cx:{code}" for code in draw_codes(rng, n_people, 25, LOWER + DIGITS)]
    articles = draw_codes(rng, n_articles, 40, HEX)
    titles = draw_titles(
        rng, n_articles, ["Rosenborg", "på", "Trondheim", "får", "Ørland", "ny", "bil"]
    )
    sections = draw_choices(rng, ["nyheter", "sport", "pluss", "kultur", "bolig"], n_articles)
    published = rng.integers(1_482_300_000, 1_483_700_000, n_articles)
    publish_times = format_times(published, "%Y-%m-%dT%H:%M:%S.000Z")
    urls = [
        f"http://adressa.no/{section}/2017/01/0{i % 7 + 1}/{title.replace(' ', '-')}-{13_900_000 + i}.ece"
        for i, (section, title) in enumerate(zip(sections, titles, strict=True))
    ]
    places = [("trondheim", "sor-trondelag"), ("oslo", "oslo"), ("orkanger", "sor-trondelag")]
    place_of = draw_choices(rng, places, n_people)
    systems = [("Windows", "Desktop"), ("iPhone OS", "Mobile"), ("Android", "Mobile")]
    system_of = draw_choices(rng, systems, n_people)
    is_front_page = (rng.random(n) < 0.3).tolist()
    active_times = rng.geometric(0.02, n).tolist()
    is_start = np.r_[True, actions.session[1:] != actions.session[:-1]].tolist()
    days: dict[str, list[dict[str, object]]] = {}
    for row, (person, item, second) in enumerate(
        zip(actions.person.tolist(), actions.item.tolist(), actions.second.tolist(), strict=True)
    ):
        event: dict[str, object] = {
            "eventId": 1_075_384_000 + row * 7,
            "city": place_of[person][0],
            "country": "no",
            "region": place_of[person][1],
            "userId": people[person],
            "time": second,
            "os": system_of[person][0],
            "deviceType": system_of[person][1],
            "sessionStart": is_start[row],
            "sessionStop": False,
            "referrerUrl": "http://adressa.no" if not is_start[row] else "https://www.google.no",
        }
        if is_front_page[row]:
            event |= {"url": "http://adressa.no", "canonicalUrl": "http://adressa.no"}
        else:
            event |= {
                "activeTime": active_times[row],
                "url": urls[item],
                "canonicalUrl": urls[item],
                "title": titles[item],
                "id": articles[item],
                "documentId": articles[item],
                "publishtime": publish_times[item],
                "category0": sections[item],
                "category1": f"{sections[item]}|lokalt",
                "keywords": f"{sections[item]},{titles[item].split()[0].lower()}",
                "author": ["Kari Nordmann"] if item % 3 else ["ola hansen", "kari nordmann"],
                "profile": [
                    {
                        "item": "0",
                        "groups": [{"count": 1, "group": "adressa-importance", "weight": 0.1}],
                    },
                    {
                        "item": titles[item].split()[0].lower(),
                        "groups": [{"count": 2, "group": "location", "weight": 0.7}],
                    },
                ],
            }
        days.setdefault(datetime.fromtimestamp(second, UTC).strftime("%Y%m%d"), []).append(event)
    for day, events in days.items():
        write_json_lines(folder / day, events, ensure_ascii=False)


def _write_spotify(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_tracks = max(40, n_rows // 8)
    n_sessions = max(4, round(n_rows / 15))
    lengths = rng.integers(10, 21, n_sessions)
    session = np.repeat(np.arange(n_sessions), lengths)
    n = len(session)
    position = np.arange(n) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    weights = 1.0 / (np.arange(n_tracks) + 3.0) ** 0.9
    track = rng.choice(n_tracks, n, p=weights / weights.sum())
    ids = [f"0_{code}" for code in draw_uuids(rng, n_sessions)]
    tracks = [f"t_{code}" for code in draw_uuids(rng, n_tracks)]
    skip = rng.random(n)
    reasons = ["trackdone", "fwdbtn", "backbtn", "clickrow", "endplay"]
    begin = int(np.datetime64("2018-07-15", "s").astype(np.int64))
    hour = rng.integers(5, 24, n_sessions)
    kinds = ["user_collection", "catalog", "editorial_playlist", "radio", "charts"]
    write_table(
        folder / "log_0_20180715_000000000000.csv",
        {
            "session_id": pick(ids, session),
            "session_position": position,
            "session_length": lengths[session],
            "track_id_clean": pick(tracks, track),
            "skip_1": _to_lower(skip < 0.42),
            "skip_2": _to_lower(skip < 0.52),
            "skip_3": _to_lower(skip < 0.65),
            "not_skipped": _to_lower(skip >= 0.65),
            "context_switch": (rng.random(n) < 0.04).astype(int),
            "no_pause_before_play": (rng.random(n) < 0.76).astype(int),
            "short_pause_before_play": (rng.random(n) < 0.14).astype(int),
            "long_pause_before_play": (rng.random(n) < 0.17).astype(int),
            "hist_user_behavior_n_seekfwd": rng.geometric(0.97, n) - 1,
            "hist_user_behavior_n_seekback": rng.geometric(0.96, n) - 1,
            "hist_user_behavior_is_shuffle": _to_lower(rng.random(n_sessions)[session] < 0.3),
            "hour_of_day": hour[session],
            "date": format_times(
                begin - (rng.random(n_sessions) < 0.05)[session] * 86_400, "%Y-%m-%d"
            ),
            "premium": _to_lower(rng.random(n_sessions)[session] < 0.8),
            "context_type": pick(draw_choices(rng, kinds, n_sessions), session),
            "hist_user_behavior_reason_start": draw_choices(rng, reasons, n),
            "hist_user_behavior_reason_end": draw_choices(rng, reasons, n),
        },
    )
    shares = (
        "acousticness bounciness danceability energy instrumentalness liveness speechiness valence"
    )
    write_table(
        folder / "tf_000000000000.csv",
        {
            "track_id": tracks,
            "duration": rng.normal(220, 50, n_tracks).clip(30, 900).round(6),
            "release_year": rng.integers(1955, 2019, n_tracks),
            "us_popularity_estimate": (100 - rng.exponential(0.4, n_tracks)).round(8),
            "acousticness": rng.random(n_tracks),
            "beat_strength": rng.random(n_tracks),
            **{name: rng.random(n_tracks) for name in shares.split()[1:]},
            "flatness": rng.normal(1, 0.05, n_tracks),
            "key": rng.integers(0, 12, n_tracks),
            "loudness": rng.normal(-9, 4, n_tracks).round(3),
            "mechanism": rng.random(n_tracks),
            "mode": draw_choices(rng, ["major", "minor"], n_tracks),
            "organism": rng.random(n_tracks),
            "tempo": rng.normal(120, 28, n_tracks).round(3),
            "time_signature": draw_choices(rng, [4, 3, 5], n_tracks),
            **{f"acoustic_vector_{k}": rng.normal(0, 0.5, n_tracks) for k in range(8)},
        },
    )


def _to_lower(flags: np.ndarray) -> list[str]:
    return ["true" if flag else "false" for flag in flags.tolist()]


def _write_tv(folder: Path, rng: np.random.Generator, n_rows: int) -> None:
    n_people = max(20, n_rows // 60)
    n_programs = max(30, n_rows // 25)
    actions = draw_actions(
        rng,
        n_rows,
        n_people=n_people,
        n_items=n_programs,
        start="2013-01-07",
        days=19 * 7,
        per_session=2.5,
        gap_s=2400,
    )
    hours = (actions.second - int(np.datetime64("2013-01-07", "s").astype(np.int64))) // 3600
    channel_of = rng.choice(draw_numbers(rng, 40, 1, 218), n_programs)
    genre_of = rng.integers(1, 9, n_programs)
    programs = np.array(draw_numbers(rng, n_programs, 202_000_000, 203_600_000))
    people = np.array(draw_numbers(rng, n_people, 1, 13_664))
    # An event is one broadcast of a program, so that the event's number follows program and hour.
    broadcasts = np.unique(actions.item * 10_000 + hours // 2, return_inverse=True)[1]
    write_table(
        folder / "tv-audience-dataset.csv",
        {
            "channel ID": channel_of[actions.item],
            "slot": hours % 168 + 1,
            "week": hours // 168 + 1,
            "genre ID": genre_of[actions.item],
            "subGenre ID": (genre_of * 12 + rng.integers(0, 9, n_programs))[actions.item],
            "user ID": people[actions.person],
            "program ID": programs[actions.item],
            "event ID": broadcasts + 3_450_000,
            "duration": rng.lognormal(2.6, 1, len(actions)).clip(1, 180).astype(int),
        },
        header=False,
    )


_LASTFM = "userid-timestamp-artid-artname-traid-traname.tsv"
LAYOUTS = (
    Layout(
        name="lastfm-1k-no-header",
        documented_by="http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html",
        write=_write_lastfm,
        time=f"{_LASTFM}:#2",
        person=f"{_LASTFM}:#1",
        item=f"{_LASTFM}:#5|{_LASTFM}:#6",
        type="=view|=play",
        user_profiles="userid-profile.tsv:#id",
        # The rows are of people, times, artists and tracks; that somebody listened is not in them.
        questions=frozenset({"type"}),
    ),
    Layout(
        name="steam-playtime-hours",
        documented_by="https://www.kaggle.com/datasets/tamber/steam-video-games",
        write=_write_steam,
        time=NONE,
        person="steam-200k.csv:#1",
        item="steam-200k.csv:#2",
        type="steam-200k.csv:#3",
        event_types={"purchase": "purchase", "play": "play|view"},
    ),
    Layout(
        name="mind-news-behaviours",
        documented_by="https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md",
        write=_write_mind,
        time="behaviors.tsv:#3",
        person="behaviors.tsv:#2",
        item="behaviors.tsv:#5",
        type="=click|=impression",
        item_profiles="news.tsv:#1",
    ),
    Layout(
        name="adressa-news-json",
        documented_by="https://reclab.idi.ntnu.no/dataset/",
        write=_write_adressa,
        time="20170101:time",
        person="20170101:userId",
        item="20170101:id|20170101:documentId|20170101:canonicalUrl|20170101:url",
        type="=view",
    ),
    Layout(
        name="spotify-sequential-skips",
        documented_by="Brost, Mehrotra, Jehan (2019), The Music Streaming Sessions Dataset, table 1",
        write=_write_spotify,
        time="log_0_20180715_000000000000.csv:date",
        person="log_0_20180715_000000000000.csv:session_id",
        item="log_0_20180715_000000000000.csv:track_id_clean",
        type="=view|=play",
        item_profiles="tf_000000000000.csv:track_id",
    ),
    Layout(
        name="epg-tv-viewing",
        documented_by="Turrin, Condorelli, Cremonesi, Pagano (2014), TV Audience Dataset, its README",
        write=_write_tv,
        # A slot is an hour of the week, and week 1 has no date: no column is an instant.
        time=NONE,
        person="tv-audience-dataset.csv:#6",
        item="tv-audience-dataset.csv:#7|tv-audience-dataset.csv:#8",
        type="=view",
        # Nine columns of whole numbers without a header.
        questions=frozenset({"time", "item", "type"}),
    ),
)
