//! The service from outside, through its contract, on both engines.

mod accounts;
mod given_up;
mod personal;
mod reset;
mod second_factor;
mod sessions;
mod system;
mod verification;

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
    accounts::somebody_registers_and_logs_in,
    accounts::registering_needs_an_invitation_where_it_is_not_open,
    accounts::nobody_registers_where_registration_is_closed,
    accounts::an_invitation_gives_the_sites_that_it_names,
    accounts::an_invitation_works_once_and_expires,
    accounts::the_first_password_stands_in_a_file_until_it_is_changed,
    accounts::nobody_gives_more_than_the_own_role,
    accounts::the_last_admin_stays,
    accounts::an_update_takes_the_named_fields_and_refuses_unknown_ones,
    accounts::an_admin_narrowed_to_a_site_knows_its_users_only,
    accounts::users_are_listed_in_pages,
    accounts::another_tenants_users_do_not_exist,
    sessions::wrong_names_and_wrong_passwords_get_the_same_answer,
    sessions::guessing_makes_the_account_wait,
    sessions::guessing_many_accounts_makes_the_address_wait,
    sessions::a_used_refresh_token_ends_the_session,
    sessions::of_parallel_refreshes_one_succeeds,
    sessions::a_session_ends_when_it_is_not_refreshed,
    sessions::logging_out_ends_one_session_or_all,
    sessions::a_user_sees_the_own_sessions_and_ends_one,
    sessions::a_new_password_ends_the_other_sessions,
    sessions::a_smaller_role_and_a_disabled_account_take_effect_at_once,
    personal::a_program_acts_for_a_user_until_its_token_ends,
    personal::a_token_allows_no_more_than_its_user_may,
    personal::a_token_does_not_change_the_account,
    reset::what_was_mailed_sets_another_password_once,
    reset::a_mailed_secret_ends_by_itself_and_by_a_newer_one,
    reset::without_mail_nobody_is_told_that_it_comes,
    second_factor::a_log_in_needs_a_code_once_the_app_has_shown_one,
    second_factor::codes_cannot_be_tried_without_end,
    second_factor::a_right_password_makes_wrong_codes_not_forgotten,
    second_factor::the_operator_helps_who_is_locked_out,
    verification::tokens_are_verified_with_the_published_keys,
    verification::the_next_key_is_published_before_the_last_one_ends,
    verification::a_verifier_resumes_without_a_gap,
    verification::revocations_survive_a_restart,
    verification::users_may_not_watch,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);
