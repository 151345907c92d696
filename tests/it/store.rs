//! The conformance suite of the store: what `trait Store` promises, checked for every back end. A back end is one line; those that need a server are
//! in `servers/store.rs`.

pub(crate) mod act;
pub(crate) mod application;
pub(crate) mod claim;
pub(crate) mod complete;
pub(crate) mod fixture;
pub(crate) mod held;
pub(crate) mod idempotency;
pub(crate) mod insert;
pub(crate) mod isolation;
pub(crate) mod lease;
pub(crate) mod look;
pub(crate) mod nonsense;
mod open;
pub(crate) mod outlook;
pub(crate) mod prepare;
pub(crate) mod purge;
pub(crate) mod settings;
pub(crate) mod storm;
pub(crate) mod strays;
pub(crate) mod transitions;

/// The suite for one back end: a module per subject, a test per promise.
macro_rules! conformance {
    ($backend:ident) => {
        $crate::store::suite! { $backend;
            prepare:
                once_by_several_nodes_at_once a_later_start_with_another_project_leaves_the_default what_an_older_build_left_goes_on verify_changes_nothing
                printed_sql_makes_a_store_that_verifies printed_sql_upgrades_the_tables_of_an_older_build a_prefix_keeps_stores_apart the_tables_of_an_application_are_left_alone
                a_closed_store_has_no_connection;
            application:
                four_columns_are_enough every_column_may_be_written ids_are_unique only_what_is_committed_is_seen
                a_row_of_another_project_is_not_taken a_key_of_bytes_goes_before_a_text;
            insert:
                what_was_submitted_is_read_back an_empty_batch_is_nothing when_it_is_due when_it_expires a_leased_message_is_being_sent
                a_thousand_at_once a_payload_of_some_mebibytes an_override_of_the_policy_is_kept;
            idempotency:
                a_known_key_is_a_duplicate_or_a_conflict a_batch_goes_on_around_known_keys twice_in_one_batch
                a_key_is_forgotten_after_its_time a_key_belongs_to_its_project_and_source keys_differ_by_every_byte
                at_once_from_many_one_is_new;
            claim:
                the_longest_due_first_and_level_by_level nothing_before_its_time at_most_the_limit at_most_so_many_bytes_but_always_one
                from_a_mark_on those_due_at_one_time_from_a_mark_on from_where_others_ended_on a_payload_too_large_is_not_read what_is_taken_is_not_taken_again it_says_where_a_message_stands
                retrying_messages_come_again many_claimers_take_no_row_twice;
            nonsense:
                a_row_without_a_project_or_due_time_goes_the_usual_way a_priority_out_of_range_is_clamped headers_that_are_none
                a_payload_of_none_or_of_text absurd_retries_are_clamped absurd_counters_do_not_stop_the_others
                a_time_that_is_none_is_a_stray times_as_applications_write_them an_id_of_its_own_kind
                what_fails_by_its_numbers_goes_where_no_failure_is_kept;
            complete:
                success a_retry_is_due_by_the_databases_clock failure_for_good nothing_was_sent the_attempt_log_grows_and_collapses
                it_goes_without_history a_token_that_is_not_ours_changes_nothing a_mixed_batch_of_a_thousand_in_order
                twice_counts_once nothing_is_nothing counters_are_exact;
            lease:
                renewed_it_holds_longer renewing_says_what_is_lost released_it_is_as_if_never_claimed
                taken_over_only_after_it_ran_out of_two_takers_one_wins the_old_token_is_fenced_off
                two_tokens_of_one_message_do_not_hide_each_other
                a_leased_insert_lapses_like_a_claim at_most_the_limit_is_taken_over what_is_excepted_is_not_taken_over
                one_that_is_refused_keeps_no_other_from_being_taken_over
                one_that_never_expires_does_not_once_it_is_lost no_more_is_written_out_than_befits_what_is_taken;
            held:
                it_is_told_as_being_sent a_claim_that_is_closed_leaves_the_others the_claim_of_another_does_not_serve
                outcomes_of_the_same_claims_do_not_wait_crosswise it_is_found_where_it_stood_and_where_it_went
                it_is_claimed_or_cancelled_never_both it_is_claimed_or_a_stray_never_both;
            strays:
                an_unknown_source_is_taken_once_old_enough what_a_node_knew_within_the_last_day_is_left
                what_a_dead_node_was_sending_for_a_source_of_nobody who_lost_it_and_what_is_on_record_is_told
                one_that_is_refused_keeps_no_other_kind_from_being_taken without_a_source at_most_the_limit of_however_many_sources_all_are_taken_in_one_go
                what_lacks_a_project_or_a_due_time_is_given_it_up_to_the_limit what_is_served_comes_before_what_nobody_serves neighbours_are_left_alone;
            outlook:
                the_earliest_of_each_source_and_level only_of_the_levels_asked_for nothing_of_others a_lapsed_lease_is_told the_next_end_of_a_lease_is_told_beforehand unserved_rows_are_told
                lost_attempts_that_nobody_takes_over_are_told a_node_lives_as_long_as_it_beats nodes_that_died_are_forgotten
                waiting_messages_are_counted made_up_sources_are_counted_together one_counts_for_all what_was_written_before_the_clock_was_set_back_holds_nothing_up;
            look:
                one_message a_payload_too_large_is_told_and_not_shown every_filter_narrows what_finished_within_a_time page_by_page ids_of_their_own_kind_end_no_list attempts_in_order;
            act:
                a_retry_begins_a_new_epoch a_retry_of_what_waits_makes_it_due a_retry_is_refused_elsewhere
                a_cancel_gives_up_what_waits a_cancel_is_refused_elsewhere the_answers_are_in_order
                a_payload_is_replaced_only_once_failed a_thousand_at_once;
            purge:
                exactly_what_is_past_its_retention never_is_never at_most_so_many_rows_stay
                of_those_that_ended_together_no_more_than_are_too_many in_bounded_batches keys_past_their_time only_of_its_own_project
                what_was_put_back_is_not_purged attempts_of_messages_that_somebody_deleted;
            isolation:
                every_verb_keeps_to_its_project;
            transitions:
                those_on_the_chart_and_no_others;
            storm:
                a_lock_of_another_session_ends_in_time;
        }
    };
}
pub(crate) use conformance;

/// Tests that only make sense for a server: several sessions at once.
macro_rules! conformance_of_a_server {
    ($backend:ident) => {
        $crate::store::suite! { $backend;
            settings:
                due_now_in_whatever_time_zone people_who_look_take_no_connections_from_sending a_wrong_password_is_a_fault_of_the_configuration a_server_that_is_away_is_unavailable
                a_committed_row_wakes_whoever_can_listen;
            purge:
                turns_of_sources_that_no_node_knows;
            storm:
                what_was_answered_is_there_whatever_was_dropped a_server_that_stalls_ends_in_time
                rows_that_a_stopped_application_holds_are_skipped an_application_that_inserts_sees_no_deadlock
                a_row_that_somebody_holds_keeps_no_lapsed_lease_from_being_taken_over what_somebody_has_locked_is_told_at_once
                rows_that_somebody_holds_keep_nobody_waiting_who_names_others
                rows_that_somebody_holds_keep_no_later_claims_from_being_taken_over a_claim_says_how_long_it_waited_for_its_turn
                a_node_that_stops_during_a_claim_holds_up_no_other;
        }
    };
}
pub(crate) use conformance_of_a_server;

/// A `#[tokio::test]` for each name, each on a store of its own.
macro_rules! suite {
    ($backend:ident; $($module:ident: $($test:ident)+;)+) => {
        $(
            mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $test() {
                        $crate::store::fixture::run($crate::support::Backend::$backend, $crate::store::$module::$test).await;
                    }
                )+
            }
        )+
    };
}
pub(crate) use suite;

mod sqlite {
    crate::store::conformance!(Sqlite);

    mod of_its_kind {
        crate::store::suite! { Sqlite;
            claim: due_times_with_a_fraction;
            nonsense: an_id_that_can_not_be_mended_keeps_no_later_message;
            prepare: a_writer_is_waited_for;
            lease: what_is_refused_is_not_gone_through_anew_each_time;
            purge: one_that_can_be_no_smaller_is_not_tried_again;
        }
    }
}
