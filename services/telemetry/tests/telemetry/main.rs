//! The service from outside, through its contract, on both engines.

mod buckets;
mod calibration;
mod completeness;
mod deletion;
mod devices;
mod durability;
mod export;
mod given_up;
mod history;
mod isolation;
mod merging;
mod quality;
mod quarantine;
mod recorded;
mod replicas;
mod resolution;
mod retention;
mod rows;
mod stream;
mod summaries;
mod system;
mod watch;

use system::Engine;

/// Makes two tests of each: one on SQLite and one on PostgreSQL, where there is a server for tests.
macro_rules! on_both_engines {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::Engine::Sqlite).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(url) = sensormesh_testkit::postgres::url_for_new_database() {
                    super::$module::$name(super::Engine::Postgres(url)).await;
                }
            })*
        }
    };
}

on_both_engines!(
    rows::readings_come_back_as_they_were_sent,
    rows::each_refused_reading_is_named_and_the_rest_is_taken,
    rows::a_request_of_which_nothing_can_be_taken_fails_and_names_the_fields,
    rows::a_reading_sent_again_is_a_duplicate_or_a_revision,
    rows::the_same_batch_id_gives_the_first_answer,
    rows::values_out_of_range_are_kept_and_left_out_of_aggregates,
    rows::recorded_data_is_taken_from_1990_on,
    stream::batches_are_acknowledged_in_order_and_read_back,
    stream::what_cannot_be_taken_is_rejected_with_its_place,
    stream::a_batch_sent_again_is_known,
    stream::a_wrong_number_or_size_ends_the_stream,
    stream::f30_a_sender_that_never_ends_is_ended_in_its_time,
    history::blocks_and_tail_read_as_one,
    history::late_readings_and_revisions_find_their_place_in_sealed_blocks,
    history::pages_go_both_ways_and_are_complete,
    history::aggregates_equal_a_naive_recount,
    history::what_was_just_written_is_read_with_its_cursor,
    merging::blocks_are_merged_and_the_readings_stay,
    merging::a_reader_is_not_disturbed_by_a_merge,
    retention::old_readings_end_with_their_retention,
    retention::summaries_of_what_is_gone_come_from_its_rollups,
    retention::readings_are_deleted_by_who_may,
    deletion::a_watcher_is_told_what_was_deleted,
    durability::what_was_acknowledged_survives_a_crash,
    durability::the_log_is_cut_and_the_readings_stay,
    durability::sensors_known_before_are_taken_without_devices,
    durability::numbers_are_given_though_who_asked_for_them_has_gone,
    quarantine::readings_of_unknown_sensors_wait_until_devices_is_back,
    quarantine::what_is_kept_aside_is_shown_let_go_and_thrown_away,
    quality::what_tests_find_stands_beside_the_readings_and_outlives_a_restart,
    quality::sealed_readings_keep_what_was_found,
    quality::late_readings_are_said_to_be_late_and_not_evaluated,
    quality::a_watcher_sees_a_spike_once_it_is_one,
    quality::sensors_beyond_the_quota_are_refused_on_both_doors,
    quality::tests_of_a_profile_that_changes_hold_from_then_on,
    resolution::readings_are_rounded_by_whichever_door_they_come,
    resolution::decimals_of_a_profile_that_changes_hold_from_then_on,
    resolution::what_was_kept_aside_is_rounded_when_it_is_let_go,
    calibration::every_read_is_calibrated_unless_it_asks_for_raw_values,
    calibration::versions_hold_for_their_time_and_can_be_deleted,
    calibration::what_makes_no_sense_as_a_calibration_is_refused_by_name,
    completeness::what_is_missing_is_counted_and_its_gaps_are_listed,
    isolation::tenants_do_not_see_each_other,
    isolation::a_user_narrowed_to_a_site_sees_and_sends_that_site_only,
    isolation::a_deleted_sensors_readings_stay,
    watch::the_latest_readings_come_first_then_what_arrives,
    watch::a_watcher_that_resumes_sees_everything_once,
    watch::only_what_was_asked_for_is_sent,
    watch::columns_and_latest_say_the_same_in_fewer_words,
    watch::cursors_that_cannot_be_resumed_are_refused,
    watch::a_reader_that_takes_nothing_is_ended_with_its_cursor,
    recorded::a_recording_comes_back_and_its_means_are_exact,
    recorded::a_recordings_means_outlive_its_readings,
    summaries::statistics_equal_a_naive_recount_on_every_page,
    summaries::a_counters_increases_add_up_over_resets_and_pages,
    summaries::days_are_those_of_the_time_zone,
    summaries::gaps_are_filled_as_asked_on_every_page,
    summaries::what_makes_no_sense_is_refused_by_its_field,
    summaries::a_chart_keeps_its_ends_and_its_peaks,
    export::history_is_a_table_of_everything_in_the_zone_asked_for,
    export::summaries_are_a_table_sensor_after_sensor,
    export::an_export_is_refused_before_its_first_byte,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);

/// Makes tests of several replicas, which only PostgreSQL has.
macro_rules! with_replicas {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod several {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(url) = sensormesh_testkit::postgres::url_for_new_database() {
                    super::$module::$name(url).await;
                }
            })*
        }
    };
}

with_replicas!(
    replicas::what_one_replica_takes_all_of_them_serve,
    replicas::a_batch_has_one_answer_whichever_replica_is_asked,
    replicas::sensors_get_one_number_though_replicas_number_at_once,
    replicas::replicas_that_write_at_once_lose_and_repeat_nothing,
    replicas::what_one_replica_seals_the_others_let_go,
    replicas::a_turn_that_is_not_given_back_is_waited_for,
    deletion::readings_are_deleted_at_whichever_replica_is_asked,
    deletion::a_watcher_is_told_what_another_replica_deleted,
    deletion::replicas_that_delete_and_write_at_once_agree,
    quality::a_replica_judges_by_what_another_one_took,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_taken_in_process() {
    durability::batches_are_taken_in_process().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_older_than_the_blocks_loses_nothing_it_has() {
    durability::a_log_that_is_older_than_the_blocks_loses_nothing_it_has().await;
}
