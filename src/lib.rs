//! Culm.
pub mod model;
pub mod storage;
pub mod tasks;
