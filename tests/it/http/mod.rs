//! The API on a real listener, with a real database, through a client that looks at every answer.

mod access;
mod at_random;
mod attachments;
mod bad_input;
mod cancel;
mod children;
mod client;
mod events;
mod family;
mod lifecycle;
mod lifecycle_at_random;
mod messages;
mod openapi;
mod questions;
mod runs;
mod search;
mod sessions;
mod teardown;
mod worktree_ends;
mod worktrees;

pub(crate) use client::{Answer, Server};
