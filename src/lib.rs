//! Culm.
pub mod config;
pub mod http;
pub mod model;
pub mod repository;
pub mod storage;
pub mod tasks;
