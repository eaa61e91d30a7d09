//! The service from outside, through its contract, on both engines. Telemetry and `devices` are fakes behind the same layers.

mod access;
mod fakes;
mod given_up;
mod interruptions;
mod system;
mod tests;

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
    tests::a_healthy_sensor_passes_and_a_sick_one_fails_the_test,
    tests::a_test_of_nothing_says_what_there_is,
    tests::a_test_ends_when_time_is_up,
    tests::the_same_request_id_gives_the_same_test,
    tests::what_makes_no_sense_is_refused,
    tests::further_tests_take_their_turn,
    tests::too_many_tests_are_refused,
    tests::a_test_is_cancelled_once,
    tests::a_sensor_that_was_not_heard_of_yet_is_asked_for,
    tests::without_devices_what_was_heard_of_holds,
    tests::recorded_data_and_old_readings_do_not_count,
    tests::old_tests_are_deleted,
    access::a_viewer_reads_and_may_not_start,
    access::tests_and_readings_of_another_tenant_are_not_seen,
    access::a_user_narrowed_to_a_site_sees_that_site_only,
    access::tests_are_listed_the_newest_first_in_pages,
    interruptions::a_test_survives_a_restart,
    interruptions::a_test_goes_on_when_telemetry_is_back,
    interruptions::a_test_without_telemetry_waits_and_says_so,
    interruptions::readings_that_were_missed_are_told,
    interruptions::of_two_replicas_one_counts,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);
