//! Culm, the session server for AI agents.
//!
//! Everything durable is in one SQLite database, and every change is one transaction of it. A request comes in through
//! [`http`], which knows status codes and nothing of SQL; it calls the [`repository`], a cache that never lies in front
//! of [`storage`]; storage's contract is one trait, and its one implementation so far sends every write through one
//! writer that commits together whatever is queued. [`import`] brings the sessions of other systems. [`model`] has the
//! nouns that all of them speak of; [`tasks`] is the only place that spawns; [`removal`] deletes directories that tools
//! left read-only, and [`program`] finds programs; [`config`] reads what a server is told;
//! [`children`] is what a parent can do with the sessions below it;
//! an [`executor`] carries runs out, reads images through [`attachments`], and has written down what it keeps warm
//! through [`agent_sessions`]; [`demo_model`], [`demo_agent`] and [`demo_opencode`] are there to try them with.
//!
//! `ARCHITECTURE.md` says which invariants hold, and where each is kept.

pub mod agent_sessions;
pub mod attachments;
pub mod children;
pub mod config;
pub mod demo_agent;
pub mod demo_model;
pub mod demo_opencode;
pub mod executor;
pub mod feed;
pub mod http;
pub mod import;
pub mod lifecycle;
pub mod model;
pub mod program;
pub mod removal;
pub mod repository;
pub mod runs;
pub mod storage;
pub mod tasks;
pub mod worktree;
