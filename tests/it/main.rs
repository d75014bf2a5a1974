//! One test binary: behaviours at each layer's own boundary.
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod http;
mod import;
