//! Commands that are more than a call of the library, and what they share.

pub(crate) mod agents;
pub(crate) mod cleanup;
pub(crate) mod demo_model;
mod failure;
pub(crate) mod import;
pub(crate) mod place;
pub(crate) mod process;

pub(crate) use failure::{EXIT_CODES, Failure, OTHER_FILE, exit_after_failed_sync};
