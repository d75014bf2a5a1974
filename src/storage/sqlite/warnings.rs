//! What an operator should know about the database although it takes writes: a checkpoint that fails, a write-ahead log
//! that grows, housekeeping that fails, a disk that is nearly full.
//!
//! A warning stands until what it is about has passed. It is logged when it comes and when it goes, not in between.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The warnings that stand now, each under a name of its own. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Warnings {
    /// Sets or clears one.
    pub(super) fn set(&self, name: &'static str, warning: Option<String>) {
        let mut standing = self.standing();
        match warning {
            Some(warning) => {
                if standing.insert(name, warning.clone()).is_none() {
                    tracing::warn!(name, "{warning}");
                }
            }
            None => {
                if standing.remove(name).is_some() {
                    tracing::info!(name, "what was warned of has passed");
                }
            }
        }
    }

    /// In words, those that stand.
    pub(super) fn all(&self) -> Vec<String> {
        self.standing().values().cloned().collect()
    }

    fn standing(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
