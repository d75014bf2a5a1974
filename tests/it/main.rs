//! One binary for the whole suite. Each file tests one layer at its own boundary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[macro_use]
mod support;

mod append_cost;
mod attachment_reader;
mod cleanup_command;
mod cli;
mod clock;
mod deleted_at_random;
mod demo_model;
mod executor;
mod housekeeping;
mod http;
mod identity;
mod import;
mod lives;
mod log;
mod marked;
mod model_based;
mod plans;
mod processes;
mod races;
mod repository;
mod run_races;
mod schema;
mod scripted;
mod shell_search;
mod start;
mod storage;
mod tidy;
mod warm;
mod warm_agents;
mod worktree;
