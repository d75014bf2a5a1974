//! Idempotency keys: what a request is known by, and what it was answered.

use serde_json::Value;

/// An idempotency key with what it is valid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Token, method and path, hashed.
    pub scope: String,
    /// The client's key.
    pub key: String,
    /// The request's body, hashed.
    pub body_hash: String,
}

/// What a request with an idempotency key was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The hash of the body that came with the key.
    pub body_hash: String,
    /// The status.
    pub status: u16,
    /// Ids for a success, the problem for a refusal.
    pub body: Value,
}
