//! The schema itself.
