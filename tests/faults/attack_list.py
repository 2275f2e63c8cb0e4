"""The attacks on collector, lake, Valkey and secrets that are thought of, what is promised under each,
and which test shows it.

docs/reliability.md is made from it, as from `fault_list`. Bundles, console and dependencies are not
here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """An attack and what becomes of it; `missing` is what is not shown, or not so, and why."""

    surface: str
    attack: str
    promised: str
    tests: tuple[str, ...] = ()
    missing: str = ""


ATTACKS = (
    Attack(
        "collector",
        "no key, a wrong one, one of another scope, on any route",
        "401 or 403; a route that nobody declared fails the build.",
        (
            "tests/serving/http/test_matrix.py::test_every_route_that_can_be_served_is_declared",
            "tests/serving/http/test_matrix.py::test_each_route_takes_its_own_scope_only",
            "tests/serving/http/test_matrix.py::test_no_other_method_reaches_a_handler",
        ),
    ),
    Attack(
        "collector",
        "a public address without a key",
        "Refuses to start; the default is 127.0.0.1.",
        (
            "tests/serving/http/test_attacks.py::test_only_this_machine_is_served_without_a_key",
            "tests/serving/http/test_attacks.py::test_the_default_is_this_machine_and_a_public_start_without_a_key_is_refused",
            "tests/serving/auth/test_keys.py::test_a_public_bind_is_safe_with_a_file_of_keys",
        ),
    ),
    Attack(
        "collector",
        "fields that are the server's, sent by a client",
        "Refused or left out, in every format; never believed.",
        (
            "tests/serving/http/test_attacks.py::test_no_field_of_the_servers_is_taken_from_a_client",
            "tests/serving/http/test_attacks.py::test_nor_through_the_formats_of_others",
        ),
    ),
    Attack(
        "collector",
        "large bodies, bombs, deep JSON, endless numbers",
        "413 or 400 while the body is read; memory has a bound over all bodies.",
        (
            "tests/serving/auth/test_limits.py::test_a_bomb_is_told_by_its_ratio_before_it_is_large",
            "tests/serving/http/test_app.py::test_a_body_of_unknown_length_is_cut_off_while_it_comes",
            "tests/serving/http/test_attacks.py::test_depth_length_and_numbers_beyond_sense_are_refused_at_once",
            "tests/faults/test_overload.py::test_at_ten_times_its_capacity_it_refuses_early_loses_nothing_and_recovers",
        ),
    ),
    Attack(
        "collector",
        "slow senders: no head, half a head, half a body; all connections taken",
        "Closed by a deadline; others work meanwhile; past the number of connections, of all "
        "or of one address, 503 with `Retry-After`.",
        (
            "tests/serving/test_server.py::test_a_silent_and_a_half_said_connection_are_closed",
            "tests/faults/test_overload.py::test_a_thousand_slow_senders_leave_others_working_and_are_closed",
            "tests/serving/test_server.py::test_whoever_comes_while_all_connections_are_taken_is_told_when_to_come_again",
            "tests/serving/test_server.py::test_one_address_cannot_take_all_connections",
        ),
        "Behind a proxy of `serve.trusted_proxies` the bound is the proxy's. Who has many addresses "
        "takes as many times 512.",
    ),
    Attack(
        "collector",
        "request smuggling",
        "What two servers might read differently is a 400, and the connection is closed.",
        ("tests/serving/test_server.py::test_ambiguous_requests_are_refused_and_closed",),
        "Two spaces in a request line are read as one, which no body depends on.",
    ),
    Attack(
        "collector",
        "floods from one key, one address, with many ids",
        "429 with `Retry-After`; questions have buckets of their own.",
        (
            "tests/serving/auth/test_limits.py::test_a_key_may_send_so_many_events_and_then_waits_as_it_is_told",
            "tests/serving/auth/test_limits.py::test_a_flood_from_one_address_does_not_stop_the_page_for_others",
            "tests/serving/auth/test_limits.py::test_a_key_that_invents_people_is_stopped_until_the_hour_is_over",
        ),
    ),
    Attack(
        "collector",
        "lines and labels injected into logs and metrics",
        "Escaped; nothing that is sent becomes a label.",
        (
            "tests/serving/http/test_logs.py::test_nobody_writes_a_line_of_their_own",
            "tests/serving/http/test_logs.py::test_an_id_that_is_not_fit_for_a_log_is_replaced",
            "tests/serving/http/test_attacks.py::test_nothing_that_is_sent_becomes_a_label",
        ),
    ),
    Attack(
        "collector",
        "events forged in a browser",
        "A browser's key can only append what people do, from its origins, at a rate; of "
        "clicks and the like an address has at most "
        "`serve.address_clicks_per_hour` at once and as many an hour.",
        (
            "tests/serving/auth/test_browser_keys.py::test_each_key_sends_its_types_of_events_only",
            "tests/serving/auth/test_keys.py::test_a_key_of_the_page_holds_for_its_origins_only",
            "tests/serving/auth/test_limits.py::test_forged_clicks_of_one_address_are_bounded",
        ),
        "What a share of forged clicks does to a trained ranking is not measured.",
    ),
    Attack(
        "collector",
        "paths that lead out of what is served",
        "404.",
        ("tests/serving/http/test_attacks.py::test_no_path_leads_out_of_what_is_served",),
    ),
    Attack(
        "lake",
        "ids made to break out of a query or a predicate",
        "An id is a value, never part of a query; SQL only reads.",
        (
            "tests/privacy/test_people.py::test_an_id_is_a_value_and_never_part_of_a_query",
            "tests/lake/test_query.py::test_what_is_not_reading_is_refused",
        ),
    ),
    Attack(
        "lake",
        "what was erased comes back or is still there",
        "A byte search over every file finds nothing; repairs, retries, imports and replays "
        "bring nothing back.",
        (
            "tests/privacy/test_erasure.py::test_a_hundred_canaries_are_nowhere_and_others_keep_their_values",
            "tests/privacy/test_suppression.py::test_retries_imports_and_replays_bring_nothing_back",
        ),
    ),
    Attack(
        "lake",
        "formulas in exported tables",
        "`sql --csv` puts ' before texts that begin with = + - @, tab or return, lone "
        "numbers apart; other exports are JSON or Parquet.",
        ("tests/cli/test_commands.py::test_sql_runs_nothing_in_a_spreadsheet",),
        "`--as-is`, for programs, writes what is there.",
    ),
    Attack(
        "Valkey",
        "a stranger's server or certificate; scripting and foreign keys",
        "TLS with an authority of one's own; a user of the server's list needs its own keys "
        "and commands alone.",
        (
            "tests/store/test_valkey.py::test_a_certificate_of_a_stranger_is_refused",
            "tests/store/test_valkey.py::test_a_user_of_the_servers_list_needs_its_own_keys_alone",
            "tests/store/test_published.py::test_foreign_and_cut_records_are_never_taken_for_ours",
        ),
    ),
    Attack(
        "secrets",
        "keys and passwords in logs, errors, metrics, files",
        "Stored as hashes or not at all; shown as stars; in no output.",
        (
            "tests/faults/test_secrets.py::test_no_secret_of_the_environment_is_in_any_output_or_file",
            "tests/serving/http/test_logs.py::test_no_output_tells_ids_questions_or_keys",
            "tests/serving/auth/test_keys.py::test_the_file_holds_no_key_and_only_its_owner_reads_it",
            "tests/stream/test_secured.py::test_a_wrong_password_is_called_one_and_shown_nowhere",
        ),
        "Memory dumps of a process hold them.",
    ),
)
