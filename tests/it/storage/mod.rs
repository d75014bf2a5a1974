//! The storage contract: each behaviour is written once, as `async fn(&dyn Storage)`, and run on each backend.
//! What only SQLite has is in `sqlite_only`.

mod agent_sessions;
mod append;
mod attachments;
mod backends_on_sqlite;
mod children;
mod cleanup;
mod clock;
mod deletion;
mod events;
mod history;
mod idempotency;
mod jobs;
mod lists;
mod runs;
mod search;
mod sessions;
mod sqlite_only;
mod typed;
mod usage;
mod whole;
mod worktrees;

/// The behaviours of every backend. A function that is not listed here is reported as unused.
macro_rules! on_each_backend {
    ($($file:ident { $($behaviour:ident),* $(,)? })*) => {
        on_backend!(on_sqlite, crate::support::sqlite, $($file { $($behaviour),* })*);
        on_backend!(on_repository, crate::support::repository, $($file { $($behaviour),* })*);
    };
}

macro_rules! on_backend {
    ($backend:ident, $open:path, $($file:ident { $($behaviour:ident),* })*) => {
        mod $backend {
            $( mod $file { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let database = $open().await;
                    crate::storage::$file::$behaviour(database.storage()).await;
                }
            )* } )*
        }
    };
}

on_each_backend! {
    sessions {
        a_session_is_read_as_it_was_created,
        a_system_prompt_becomes_the_first_message,
        a_blank_title_is_the_default_one,
        an_absent_session_is_none_and_no_error,
        the_same_creation_sent_twice_is_answered_and_another_one_is_refused,
        a_child_takes_its_place_below_its_parent,
        a_child_needs_a_parent_that_is_there,
        a_child_cannot_take_the_id_of_a_root,
        an_update_changes_what_it_names_and_raises_the_version_by_one,
        an_update_that_changes_nothing_leaves_the_version,
        metadata_is_merged_and_null_removes_a_key,
        model_and_provider_together_say_model_ref_and_one_alone_ends_it,
        an_update_based_on_another_version_is_refused,
        updates_of_different_fields_at_once_all_survive,
        a_list_shows_a_change_at_once,
        renaming_and_pinning_do_not_reorder_the_list,
        a_tree_holds_all_below_in_the_order_of_creation,
        a_tree_is_cut_off_at_its_deepest,
    }
    children {
        a_child_and_its_run_are_stored_together_or_not_at_all,
        a_new_assignment_forgets_what_was_derived,
        a_child_goes_on_with_one_run_at_a_time,
    }
    lists {
        roots_are_listed_by_default_newest_activity_first,
        each_filter_leaves_out_what_it_says,
        titles_are_found_by_words_that_are_never_syntax,
        the_order_of_creation_does_not_move,
        pages_lose_nothing_and_repeat_nothing_while_sessions_are_added,
    }
    append {
        messages_are_stored_in_order_with_all_their_fields,
        a_message_brought_twice_is_stored_once,
        another_message_under_a_used_id_is_refused_and_nothing_is_stored,
        one_batch_with_one_id_twice_stores_it_once_or_not_at_all,
        message_ids_are_unique_within_their_session_only,
        an_append_expecting_another_last_seq_is_refused,
        a_seq_is_never_given_twice,
        concurrent_appends_all_survive_with_increasing_places,
        concurrent_appends_expecting_one_place_are_won_by_one,
        an_append_raises_the_version_and_the_activity,
        an_append_to_no_session_is_not_found,
        numbers_in_metadata_come_back_as_they_were,
    }
    history {
        pages_go_on_in_both_directions,
        a_window_around_a_place_shows_both_sides,
        a_role_filters_pages_and_what_lies_beyond,
        a_page_ends_where_its_bytes_are_used_up,
        an_empty_page_says_what_lies_beyond,
        reading_the_messages_of_no_session_is_not_found,
        an_edit_replaces_an_assistants_text_and_forgets_what_was_derived,
        only_an_assistants_plain_text_is_edited,
        a_deleted_message_is_gone_and_only_that_one,
        a_change_of_a_message_based_on_another_version_is_refused,
        truncating_after_the_last_user_message_keeps_it,
        truncating_after_a_message_keeps_it,
        truncating_nothing_changes_nothing,
        a_retry_drops_calls_without_results_and_results_without_calls,
        a_retry_drops_calls_and_results_without_an_id,
        clearing_keeps_the_first_system_message_and_nothing_derived,
        clearing_based_on_another_version_is_refused,
    }
    deletion {
        deleting_removes_the_tree_and_says_exactly_what,
        deleting_a_child_takes_its_grandchildren_and_leaves_its_siblings,
        deleting_again_is_not_found,
        a_pinned_session_below_refuses_a_forceless_delete,
        deleting_another_version_is_refused,
        no_write_brings_a_deleted_session_back,
        a_child_is_not_created_below_a_deleted_parent,
        appends_racing_a_delete_leave_nothing,
    }
    cleanup {
        cleaning_up_all_removes_all,
        cleaning_up_empty_never_removes_content,
        cleaning_up_children_leaves_the_roots,
        a_pinned_session_protects_what_is_above_and_below,
        sessions_that_were_active_lately_stay_with_what_is_above,
        a_dry_run_says_what_the_real_one_does_and_removes_nothing,
        an_attachment_is_content,
        what_has_an_active_run_is_never_inactive,
        archived_sessions_stay_with_what_is_above_and_below,
        filters_and_ids_name_what_goes_with_everything_below,
        a_cleanup_goes_tree_by_tree_and_can_be_stopped_and_resumed,
    }
    whole {
        a_whole_session_comes_back_as_it_was_saved,
        a_session_from_the_future_is_active_now,
        a_save_of_a_used_id_is_refused,
        a_save_keeps_messages_that_others_appended,
        a_save_does_not_bring_back_messages_that_others_deleted,
        a_save_writes_only_what_its_holder_changed,
        a_title_changed_on_both_sides_is_the_databases,
        a_save_without_changes_leaves_the_version,
        a_saved_child_takes_its_place_below_its_parent,
        a_saved_child_needs_a_parent_that_is_there,
        one_message_twice_in_a_save_is_refused_or_stored_once,
        sessions_are_saved_together_and_a_refused_one_fails_alone,
        two_holders_of_one_session_are_saved_together,
        concurrent_saves_of_one_session_lose_no_message,
        saving_after_a_delete_does_not_bring_the_session_back,
        messages_keep_their_identity_from_load_to_load,
    }
    search {
        what_people_type_finds_what_they_mean,
        a_title_a_summary_and_a_message_are_found_in_one_ranking,
        each_filter_of_a_search_leaves_out_what_it_says,
        relevance_prefers_what_says_it_more_and_of_equals_the_newer,
        pages_of_a_search_lose_nothing_and_repeat_nothing_while_messages_come,
        a_snippet_shows_the_place_and_is_cut_between_words,
        relevance_among_very_many_is_bounded_and_says_so,
        a_search_sees_a_write_as_soon_as_it_returns_and_no_more_what_is_gone,
    }
    typed {
        composed_and_decomposed_texts_are_one,
        marks_do_not_split_words_and_scripts_without_spaces_match_by_part,
        signs_names_and_command_lines_are_found_as_they_are,
        where_nothing_has_all_words_the_best_partial_matches_follow_and_are_said_to_be,
        a_grouped_search_gives_each_session_once_with_its_best_hits,
        a_search_can_be_limited_to_a_workspace_and_a_model,
        a_snippet_of_a_tool_call_is_read_and_not_escaped,
    }
    usage {
        usage_records_come_back_in_order_page_by_page,
        usage_of_no_session_is_not_found,
    }
    idempotency {
        an_answer_is_kept_with_the_write_it_speaks_of,
        a_write_that_fails_keeps_no_answer,
        a_refusal_is_kept_under_its_key,
        keys_are_apart_by_scope,
    }
    attachments {
        an_attachment_comes_back_byte_for_byte,
        an_attachment_is_read_from_any_place,
        a_type_is_taken_as_declared_and_told_from_the_bytes,
        an_attachment_is_stored_once,
        attachments_are_apart_by_session_and_by_whole_id,
        attachments_show_in_the_session_and_go_with_a_clear,
        attachments_of_no_session_are_not_found,
        attachments_are_listed_in_order_page_by_page,
        a_deleted_attachment_is_out_of_reach,
        an_upload_that_breaks_off_leaves_nothing,
        an_upload_is_not_seen_before_its_end_nor_after_a_delete,
        an_attachment_goes_with_the_last_message_that_shows_it,
        a_message_keeps_only_what_it_names,
    }
    runs {
        runs_are_taken_in_order_and_never_twice,
        a_session_has_one_active_run,
        a_run_ends_once,
        a_run_that_is_not_running_stores_nothing,
        a_pending_run_is_cancelled_and_a_running_one_is_not,
        settling_interrupts_what_runs_and_nothing_else,
        an_answer_is_stored_once_and_goes_to_who_asked,
        a_question_goes_with_who_asked_or_when_another_run_is_asked_for,
        active_runs_are_those_below_where_asked,
        a_page_of_runs_ends_where_it_has_eight_mebibytes,
    }
    worktrees {
        a_worktree_is_its_whole_trees_and_comes_back_as_it_was,
        a_tree_has_one_worktree_and_a_worktree_one_tree,
        a_worktree_takes_only_steps_that_follow,
        a_worktree_stays_while_a_run_of_its_tree_is_active,
        a_worktree_goes_with_its_root_and_not_with_a_child,
    }
    events {
        each_write_tells_what_it_did_in_order,
        a_write_that_fails_tells_nothing,
        the_log_is_read_page_by_page_in_any_scope,
        a_commit_is_announced,
    }
    agent_sessions {
        a_backend_is_made_once_and_is_what_was_written_of_it,
        a_backend_of_no_session_is_refused,
        another_kind_of_agent_under_the_same_name_knows_nothing,
        backends_are_listed_page_by_page,
        a_history_that_changes_is_forgotten_and_one_that_grows_is_not,
        a_run_that_ends_was_seen_by_its_own_executor_alone,
        what_an_agent_knows_is_certain_when_its_run_has_ended,
        closing_closes_the_tree_and_is_idempotent,
        archiving_closes_and_each_is_taken_back_by_itself,
        what_is_in_use_is_not_closed,
        a_closed_session_is_opened_by_an_append_and_by_a_run,
    }
    jobs {
        a_delete_leaves_a_job_for_each_backend_and_hands_it_out,
        a_cleanup_leaves_jobs_and_a_dry_run_none,
        a_delete_that_is_refused_leaves_no_job,
        a_backend_that_could_not_be_ended_stays_warm_until_it_is,
        a_job_that_is_done_closes_no_backend_that_was_used_since,
        a_deleted_trees_worktree_is_known_by_its_job_alone,
        a_worktree_goes_with_its_last_open_session,
        runs_wait_for_a_worktree_that_is_being_removed,
    }
}
