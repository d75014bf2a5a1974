//! Culm.
pub mod import;
pub mod model;
pub mod storage;
pub mod tasks;
