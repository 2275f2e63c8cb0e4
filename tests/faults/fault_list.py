"""The faults under consideration, the promise under each, and the tests that show it.

docs/reliability.md is made from it. A test is named as pytest names it, without its parameters. A
fault without one says why.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault and its consequences.

    Attributes:
        promised: what a user may rely on.
        tests: those that show it; scenes and drills are named "chaos: …".
        missing: what is not shown, or not so, and why.
    """

    number: str
    fault: str
    promised: str
    tests: tuple[str, ...] = ()
    missing: str = ""


FAULTS = (
    Fault(
        "F1",
        "a role is killed (`kill -9`) at any sync or write, or at any time",
        "It starts again by itself and goes on; what was acknowledged is there once; what "
        "was not may be there or not, never by halves.",
        (
            "chaos: kill",
            "chaos: kills under load",
            "tests/faults/test_kill_roles.py::test_kills_of_each_role_lose_nothing_and_double_nothing",
            "tests/lake/test_crash.py::test_a_kill_loses_nothing_and_repeats_nothing",
            "tests/router/test_recovery.py::test_a_kill_at_any_point_changes_nothing",
        ),
        "strace counts calls by thread, so a write of one of deltalake's threads that is not "
        "the busiest one's is only hit by the random kills.",
    ),
    Fault(
        "F2",
        "a sync fails (EIO)",
        "The batch is refused and the role takes no more writes; no later sync is believed "
        "for what a failed one left in doubt. The collector opens its "
        "log anew after five seconds, writes what is in the WAL over itself before it syncs "
        "it, and checks it; other roles end and are started "
        "again. A log's names last before anything is written to it: SQLite ignores a failed "
        "sync of the folder.",
        (
            "chaos: sync",
            "tests/serving/collector/test_collector.py::test_a_failed_commit_refuses_and_takes_no_writes_until_reopened",
            "tests/lake/test_durable.py::test_a_failed_sync_is_not_tried_again",
            "tests/stream/test_embedded.py::test_what_a_writer_left_in_the_wal_is_written_anew_before_it_is_synced",
        ),
        "That the kernel throws away what a failed sync left is not simulated, since the "
        "error is injected above it: it is read from the trace "
        "whether a file was synced while bytes, or a name, that a failed sync had left in "
        "doubt had not been written anew.",
    ),
    Fault(
        "F3",
        "the disk is full",
        "The collector refuses with 507 before it takes anything, while `serve.disk_reserve_mb` "
        "are still free for the others; answers go on "
        "(they are counted as not logged). Once there is space events are taken again, by itself.",
        (
            "chaos: full",
            "chaos: a full disk",
            "tests/serving/collector/test_collector.py::test_an_almost_full_disk_refuses_before_it_is_full_and_goes_on_by_itself",
            "tests/stream/test_embedded.py::test_a_full_disk_is_told_and_what_was_acknowledged_stays",
        ),
    ),
    Fault(
        "F4",
        "a write that the disk confirms and swallows",
        "Found by a checksum, by the note that a log keeps of its last block apart from its "
        "blocks, by `lake verify` or by `features verify`, or "
        "harmless; a role names the file and stops, or says what is gone and goes on behind "
        "it. A state that ends its worker is moved aside at "
        "the next start and built anew.",
        (
            "chaos: lost",
            "tests/features/online/test_crash_loop.py::test_a_damaged_state_is_rebuilt_by_the_start_after_a_crash",
            "tests/features/online/test_crash_loop.py::test_a_damaged_list_of_free_pages_is_detected",
            "tests/stream/test_embedded.py::test_last_blocks_that_the_disk_lost_are_told_though_nobody_had_read_them",
            "tests/stream/test_embedded.py::test_damage_in_the_middle_stops_readers_and_writer_and_names_the_offset",
        ),
        "LMDB has no checksums: a page of the state that was swallowed may leave values that "
        "only a comparison with the lake shows. If a write "
        "into a log's WAL is swallowed and the process dies before it is brought into the "
        "file, SQLite drops it and all behind it, blocks and "
        "note alike, and their loss cannot be seen where nobody had read them. A swallowed "
        "page of the router's index of repeats may let one "
        "through. Misplaced and reordered writes are not tried.",
    ),
    Fault(
        "F5",
        "the power goes",
        "What was acknowledged is on the disk, and every role goes on from it by itself.",
        ("chaos: power", "chaos: power cuts under load"),
        "On ext4 only, with a copy of the file system's backing file; a drive that lies "
        "about its cache is F4.",
    ),
    Fault(
        "F6",
        "a commit of the lake is torn, empty, changed or missing",
        "The start names table, version and file. The last commit is set aside and its rows "
        "are appended again, if the log still has them; "
        "corruption in the middle stops the lake, and nothing is counted on it. `lake repair` "
        "rebuilds the table in a scratch folder, verifies it and swaps it in, or names what has "
        "no second source. Orphan commits, their checkpoints and hints to checkpoints that are "
        "not there are set aside, by the start and by `lake repair`.",
        (
            "tests/lake/test_check.py::test_a_torn_last_commit_is_set_aside_and_its_rows_are_appended_again",
            "tests/lake/test_check.py::test_a_torn_commit_that_the_ledger_never_saw_is_appended_again",
            "tests/lake/test_check.py::test_damage_in_the_middle_stops_the_role_and_is_named",
            "tests/lake/test_check.py::test_a_lost_data_file_stops_the_role_and_is_named",
            "tests/lake/test_check.py::test_a_damaged_checkpoint_never_makes_a_table_unreadable",
            "tests/lake/test_check.py::test_commits_of_others_are_told_with_what_mends_them_and_set_aside_at_the_start",
            "tests/faults/test_rebuild.py::test_a_file_that_is_gone_or_cut_is_rebuilt_where_it_has_a_second_source",
            "tests/faults/test_rebuild.py::test_an_orphan_commit_or_checkpoint_is_set_aside_and_everything_goes_on",
            "tests/faults/test_rebuild.py::test_a_rebuild_that_is_killed_is_completed_by_the_next_one",
        ),
        "Events and refusals whose log was pruned come from the archive, routed again, and "
        "count only if it gives the events that are left the same position, id, person and "
        "count: not after declarations have changed that, and not where the router's steps "
        "cannot be told from the commits. Answers' features are "
        "not in the archive. What the start does not mend of a lake in a bucket stays as it "
        "is, unless the bucket keeps versions of its objects, which few do unless told.",
    ),
    Fault(
        "F7",
        "a crash between two effects that belong together",
        "Both or neither: positions are in their consumer's own transaction; the lake's "
        "tables carry one each.",
        (
            "chaos: kill",
            "tests/router/test_recovery.py::test_a_kill_at_any_point_changes_nothing",
            "tests/registry/test_store.py::test_a_kill_at_any_step_leaves_a_valid_registry",
            "tests/lake/test_replay.py::test_a_kill_at_any_point_loses_nothing_and_doubles_nothing",
        ),
    ),
    Fault(
        "F8",
        "nobody knows whether a commit took place",
        "It is looked up, never guessed: a writer stops after an unknown outcome and reads "
        "where it is when it is opened again; a client "
        "sends again under the same `event_id`.",
        (
            "tests/stream/test_kafka.py::test_a_delivery_that_times_out_is_unknown_and_the_writer_stops_until_it_is_opened_again",
            "tests/stream/test_kafka.py::test_an_answer_that_comes_too_late_leaves_the_message_once",
            "tests/stream/test_embedded.py::test_a_failed_commit_ends_the_writer_until_it_is_opened_again",
        ),
    ),
    Fault(
        "F9",
        "the broker is away or slow",
        "The collector refuses with 503 after a stated time, and nothing is acknowledged without "
        "a delivery report. It says whether the events are "
        "surely not in the log (`log_unavailable`) or may be (`outcome_unknown`).",
        (
            "tests/faults/test_kafka_door.py::test_what_is_acknowledged_is_in_the_topic_and_what_is_refused_is_not",
            "tests/faults/test_kafka_door.py::test_a_door_that_does_not_wait_for_the_delivery_report_is_caught",
            "tests/stream/test_kafka.py::test_a_broker_that_is_not_there_is_told_in_time",
            "tests/stream/test_kafka.py::test_errors_that_pass_are_tried_again_and_nothing_is_doubled",
            "tests/stream/test_kafka.py::test_a_reader_waits_for_a_broker_that_comes_back",
        ),
        "Half-open connections and a broker that stands still for minutes are not tried with "
        "the whole system: the broker of the tests keeps "
        "nothing when it ends, and librdkafka's mock cluster knows no transactions of a router.",
    ),
    Fault(
        "F10",
        "a zombie: a writer that was thought dead writes again",
        "Its writes are nobody's: each message says at which offset it must stand, each "
        "state commit which one it follows.",
        (
            "tests/stream/test_kafka.py::test_what_a_zombie_wrote_is_nobodys_even_where_it_came_between",
            "tests/router/test_topic.py::test_of_two_routers_on_two_machines_the_newer_goes_on",
        ),
    ),
    Fault(
        "F11",
        "Valkey is killed, emptied, full or evicts",
        "Answers go on without what is missing, marked `degraded`; the worker writes all "
        "copies anew; a server that evicts is refused.",
        (
            "chaos: Kafka and Valkey",
            "tests/faults/test_drills.py::test_every_request_is_answered_with_items",
            "tests/serving/pipeline/test_degraded.py::test_without_the_store_a_person_is_scored_by_what_was_read_last",
            "tests/store/test_hedge.py::test_a_replica_that_lags_is_not_believed",
            "tests/store/test_published.py::test_lost_copies_are_told_to_readers_and_written_anew",
            "tests/store/test_published.py::test_a_full_server_stops_the_copies_and_not_the_store",
            "tests/features/online/test_copies.py::test_copies_read_like_the_state_and_a_loss_is_reported_and_repaired",
        ),
        "A stale replica that is promoted is not tried.",
    ),
    Fault(
        "F12",
        "LMDB: a full map, dead readers, a corrupt page",
        "The map grows by itself; slots of dead readers are cleared at opening and every "
        "half minute; a corrupt state is built anew.",
        (
            "tests/store/test_embedded.py::test_the_map_grows_when_it_is_full_and_the_change_is_run_again",
            "tests/store/test_embedded.py::test_a_dead_reader_does_not_hold_pages_back_for_ever",
            "tests/features/online/test_crash_loop.py::test_a_damaged_state_is_rebuilt_by_the_start_after_a_crash",
        ),
    ),
    Fault(
        "F13",
        "clocks that are wrong, jump, or differ between roles",
        "Nothing is lost, doubled or unequal. A clock that goes back by up to two seconds "
        "stands still; one that goes back by more was ahead, and "
        "times of receipt go back with it, so that what comes from then on is dated right, "
        "whether the server is started again or not. The log says "
        "so, `tailorbird_clock_set_back` counts it, and `tailorbird doctor` and "
        "`tailorbird_answers_ahead` tell of what is still dated ahead. Lake, archive and "
        "lease go on.",
        (
            "tests/faults/test_clocks.py::test_wrong_clocks_lose_nothing_and_leave_nothing_unequal",
            "tests/faults/test_clocks.py::test_once_a_clock_that_was_ahead_is_right_again_so_are_times",
            "tests/faults/test_clocks.py::test_a_server_that_is_started_while_its_clock_is_ahead_follows_it_back",
            "tests/faults/test_clocks.py::test_of_two_servers_one_whose_clock_was_ahead_holds_the_other_up_in_nothing",
            "tests/faults/test_clocks.py::test_an_answer_that_read_of_something_ahead_is_kept_counted_and_told",
            "tests/faults/test_clocks.py::test_the_lake_goes_on_when_its_clock_was_ahead",
        ),
        "What came in while a clock was ahead keeps times that are ahead, and answers that "
        "read of it are dated so: see [below](#a-clock-that-was-ahead). "
        "A server whose clock is set back though it was right receives at that time. An "
        "event that is sent again across a jump longer than "
        "`events.dedup` counts twice.",
    ),
    Fault(
        "F14",
        "memory: floods of bodies, bombs, ids",
        "Bounded before it is taken: 413 or 429, with `Retry-After`; entities beyond a cap "
        "are dropped, idle longest first, and counted.",
        (
            "tests/serving/auth/test_limits.py::test_bodies_that_do_not_fit_together_are_refused_and_their_room_is_given_back",
            "tests/serving/auth/test_limits.py::test_a_bomb_is_told_by_its_ratio_before_it_is_large",
            "tests/serving/collector/test_collector.py::test_a_full_queue_refuses_before_memory_grows",
            "tests/features/state/test_eviction.py::test_past_the_cap_those_idle_longest_are_dropped_and_counted",
        ),
        "No role is run under a limit of the kernel's; being killed by it is F1.",
    ),
    Fault(
        "F15",
        "a slow disk",
        "Senders of events wait for it; answers do not.",
        (
            "tests/faults/test_slow_disk.py::test_events_wait_for_a_slow_disk_and_answers_do_not",
            "tests/serving/auth/test_limits.py::test_a_stalled_disk_is_felt_by_the_senders_and_not_by_memory",
        ),
    ),
    Fault(
        "F16",
        "more load than there is capacity for",
        "What cannot be taken is refused (429, 503 with `Retry-After`) before memory grows; "
        "nothing acknowledged is lost, nothing refused for want "
        "of room is in the log, and when it is over all is as before. A thousand senders "
        "that never come to an end leave others working.",
        (
            "chaos: overload",
            "tests/faults/test_overload.py::test_at_ten_times_its_capacity_it_refuses_early_loses_nothing_and_recovers",
            "tests/faults/test_overload.py::test_a_thousand_slow_senders_leave_others_working_and_are_closed",
            "tests/serving/test_server.py::test_whoever_comes_while_all_connections_are_taken_is_told_when_to_come_again",
            "tests/serving/auth/test_limits.py::test_a_key_may_send_so_many_events_and_then_waits_as_it_is_told",
            "tests/serving/collector/test_collector.py::test_a_full_queue_refuses_before_memory_grows",
        ),
        "Events are refused by the room that they take, not by how long they wait: up to "
        "that bound senders wait for seconds. The sender of the "
        "drill is on the same cores as the site, so that what is held against each other is "
        "what the server takes for each second of its CPU.",
    ),
    Fault(
        "F17",
        "SIGTERM under load",
        "No request fails: for `serve.drain_for` whoever comes is answered and told to close, "
        "and `/readyz` says 503; then nothing new is accepted, and "
        "what runs is finished.",
        (
            "tests/serving/test_server.py::test_a_drain_fails_no_request",
            "tests/serving/test_server.py::test_a_server_that_is_told_to_stop_goes_on_answering_while_balancers_find_out",
        ),
        "A clean end of the other roles is a kill that they survive, see F1.",
    ),
    Fault(
        "F18",
        "a model that is damaged, of another schema, or ends the process that loads it",
        "Refused; the one before serves on, and an alarm counts. Each is loaded in a child "
        "process first. One whose scores turn out to be no numbers "
        "leaves its answers to the one before.",
        (
            "tests/serving/models/test_artifacts.py::test_a_damaged_champion_is_refused_the_one_before_answers_and_an_alarm_counts",
            "tests/serving/models/test_artifacts.py::test_a_model_that_ends_or_holds_its_loader_does_so_to_a_child_alone",
            "tests/serving/models/test_artifacts.py::test_a_model_that_passes_its_golden_rows_and_gives_no_numbers_later_is_left_for_the_one_before",
            "tests/serving/models/test_bundles.py::test_a_damaged_champion_is_refused_and_the_previous_one_serves_on",
            "tests/serving/models/test_bundles.py::test_a_loader_that_dies_of_a_bundle_dies_alone",
            "tests/ranking/test_bundle.py::test_damage_under_fitting_checksums_is_refused_or_harmless_and_never_crashes",
        ),
    ),
    Fault(
        "F19",
        "events made to break whoever reads them",
        "Accepted, or refused with a code and kept whole in the quarantine; no role ends.",
        (
            "tests/serving/http/test_fuzz.py::test_each_row_of_a_damaged_body_is_accepted_or_refused_for_a_reason",
            "tests/faults/test_bad_events.py::test_a_bad_event_is_refused_with_its_reason_and_counts_nowhere",
            "tests/serving/http/test_codes.py::test_door_and_quarantine_name_the_same_reason",
        ),
        "`make fuzz-decoder` goes on for as long as it is let.",
    ),
    Fault(
        "F20",
        "files and declarations of another version",
        "Files say their format, and another is refused at the start; columns that a lake "
        "lacks are added; declarations change under traffic.",
        (
            "tests/stream/test_embedded.py::test_a_file_that_is_no_log_or_anothers_is_refused",
            "tests/lake/test_columns.py::test_it_gets_the_new_columns_and_goes_on",
            "tests/faults/test_evolution.py::test_declarations_change_under_traffic_and_back",
        ),
        "There is no released version yet whose files could be kept as fixtures.",
    ),
    Fault(
        "F21",
        "bits flip in files at rest",
        "`lake verify` finds each in archive, tables, logs of tables, ledger; a log never "
        "gives a changed block out; no changed model is loaded. "
        "`lake repair` rebuilds the table or file from a second source, or says what is lost.",
        (
            "tests/lake/test_verify.py::test_a_flipped_bit_in_any_file_is_found",
            "tests/faults/test_rebuild.py::test_a_flipped_bit_is_found_and_rebuilt_exactly_or_named_with_what_is_lost",
            "tests/stream/test_embedded.py::test_flipped_bytes_never_come_out_as_data",
            "tests/ranking/test_bundle.py::test_every_flipped_byte_is_refused",
        ),
        "Not in the state (LMDB has no checksums): `features verify` compares it with the "
        "lake. A damaged routed log is named, not mended: what "
        "the router knows of the last days stands there alone.",
    ),
    Fault(
        "F22",
        "people: a second start, a lost or restored file",
        "A second writer is refused, and told who the first is; a lost lake or position is "
        "named, never begun anew in silence. A raw log "
        "that was lost, or came back older, is set aside and goes on behind what router and "
        "lake hold of it, and says so (log, `doctor`, "
        "`/v1/status`, `tailorbird_log_set_aside`); what the archive lacks of it is named by "
        "`lake verify` from then on; a topic that did is not written to, and the error names "
        "the page that says what to do.",
        (
            "tests/faults/test_kill_roles.py::test_a_second_up_on_the_same_project_is_refused",
            "tests/lake/test_role.py::test_a_lake_that_was_lost_after_the_log_was_pruned_is_not_begun_anew_in_silence",
            "tests/router/test_router.py::test_a_raw_log_that_lost_rows_stops_the_router",
            "tests/stream/test_held.py::test_a_lost_log_goes_on_behind_what_was_read_of_it",
            "tests/stream/test_held.py::test_a_log_that_was_lost_before_the_archive_has_a_file_of_it_goes_on",
            "tests/stream/test_held.py::test_an_older_copy_is_kept_beside_the_log_that_goes_on",
            "tests/backup/test_copies.py::test_a_short_log_that_no_server_opens_is_set_aside",
            "tests/serving/collector/test_collector_kafka.py::test_a_topic_that_lost_what_the_lake_has_is_not_written_to",
            "tests/stream/test_lost_topics.py::test_a_server_under_another_name_goes_on",
        ),
        "A log restored from a copy that ends where its consumers are is not told from the "
        "lost one; nor is a lost one where neither "
        "router nor lake can be read. What a lost topic had that nobody had read is gone "
        "with it, uncounted.",
    ),
    Fault(
        "F23",
        "the network falls apart between roles",
        "Each role waits for what it needs and goes on by itself; answers are given all the "
        "while. All roles of a machine share its files, so "
        "it is broker, Valkey and bucket that they are cut off from, each alone and all at "
        "once, by resets and by silence.",
        ("tests/faults/test_network.py::test_whoever_is_cut_off_waits_and_goes_on_by_itself",),
        "Brokers cut off from each other are the broker's own affair; ours is one.",
    ),
    Fault(
        "F24",
        "the disk with the state is lost",
        "It is built anew from lake and log, equal bit for bit, while answers go on without it.",
        (
            "chaos: kill",
            "tests/faults/test_bootstrap.py::test_a_state_from_the_lake_is_the_state_from_the_log",
            "tests/faults/test_bootstrap.py::test_a_server_does_without_features_until_they_are_built",
        ),
    ),
    Fault(
        "F25",
        "a role hangs: stopped, in a deadlock, or in front of a disk that does not answer",
        "It is found within 10 s (90 s with Kafka, Valkey or a bucket), killed and started "
        "again; the reason stands in the log and is counted.",
        (
            "tests/platform/test_availability.py::test_a_stopped_role_and_one_in_a_deadlock_are_found_and_named",
            "tests/platform/test_availability.py::test_nobody_is_refused_while_a_server_up_and_the_version_change",
        ),
        "A loop that computes forever is only found in a server; other roles may compute for "
        "long. Threads that hang beside a main loop that goes on are not found.",
    ),
    Fault(
        "F26",
        "a server or the supervisor is killed, or replaced by a new version",
        "Nobody is refused; of a killed server, only the requests fail that are under way in it.",
        (
            "tests/platform/test_availability.py::test_nobody_is_refused_while_a_server_up_and_the_version_change",
        ),
        "Where cores are busy, a few requests may be refused for load during a replacement, see above.",
    ),
    Fault(
        "F27",
        "the disk with the project is lost, and a backup is elsewhere",
        "What was acknowledged before the backup comes back, once, with an equal state; who was "
        "erased later is erased again.",
        (
            "tests/backup/test_running.py::test_a_running_site_comes_back_with_all_it_acknowledged",
            "tests/backup/test_erased.py::test_erased_people_stay_erased",
            "tests/backup/test_topics.py::test_a_restored_project_goes_on_in_its_topics",
        ),
        "What came after the backup is gone, but for what clients send again and topics hold.",
    ),
)
