//! The API on a real listener, with a real database, through a client that looks at every answer.

mod access;
mod attachments;
mod bad_input;
mod children;
mod client;
mod family;
mod messages;
mod openapi;
mod search;
mod sessions;

pub(crate) use client::{Answer, Server};
