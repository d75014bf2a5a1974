//! The API on a real listener, with a real database, through a client that looks at every answer.

mod access;
mod at_random;
mod attachments;
mod bad_input;
mod beside_a_run;
mod cancel;
mod children;
mod cleanup;
mod client;
mod deltas;
mod edges;
mod events;
mod family;
mod late_writes;
mod lifecycle;
mod lifecycle_at_random;
mod messages;
mod openapi;
mod original;
mod original_events;
mod other_hands;
mod overload;
mod questions;
mod reconnecting;
mod runs;
mod search;
mod sessions;
mod shapes;
mod teardown;
mod worktree_ends;
mod worktrees;

pub(crate) use client::{Answer, Server};
