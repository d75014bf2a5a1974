//! One binary for the whole suite. Each file tests one layer at its own boundary.

#[macro_use]
mod support;

mod append_cost;
mod model_based;
mod schema;
mod storage;
mod tidy;
