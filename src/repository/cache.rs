//! The cache's rules, free of I/O: what may be kept, for how long, and in how many bytes.
//!
//! **The cache never lies.** Whoever reads storage for the cache takes a [`Ticket`] first. A commit forgets its session
//! after it happened and before it is acknowledged, and with it every ticket that was out: what was read before the
//! commit finds its ticket void and is not kept. So an entry is never older than the last acknowledged change.

use std::{collections::HashMap, sync::Arc};

use lru::LruCache;

use crate::model::SessionId;

/// What is kept of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Its row.
    Row,
    /// Its newest messages.
    Recent,
}

type Key = (SessionId, Part);

/// The right to keep what is about to be read, until its session changes.
#[derive(Debug)]
pub struct Ticket {
    key: Key,
    epoch: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
}

/// Sessions that were out for reading, and how often they changed since.
#[derive(Debug, Default)]
struct Reading {
    epoch: u64,
    tickets: usize,
}

/// Entries up to a number of bytes; the least recently used go first.
#[derive(Debug)]
pub struct Cache<V> {
    entries: LruCache<Key, Entry<V>>,
    bytes: usize,
    budget: usize,
    /// Only what is being read right now: as large as there are readers.
    reading: HashMap<Key, Reading>,
}

impl<V> Cache<V> {
    /// An empty cache that keeps at most this many bytes.
    pub fn new(budget: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, budget, reading: HashMap::new() }
    }

    /// What is kept.
    pub fn get(&mut self, id: &SessionId, part: Part) -> Option<Arc<V>> {
        self.entries.get(&(id.clone(), part)).map(|entry| entry.value.clone())
    }

    /// To be taken before storage is read; to be given back with [`Self::keep`] or [`Self::give_up`].
    pub fn ticket(&mut self, id: &SessionId, part: Part) -> Ticket {
        let key = (id.clone(), part);
        let reading = self.reading.entry(key.clone()).or_default();
        reading.tickets += 1;
        Ticket { key, epoch: reading.epoch }
    }

    /// Keeps what was read, unless its session has changed since the ticket was taken. Whether it was kept.
    pub fn keep(&mut self, ticket: Ticket, value: Arc<V>, bytes: usize) -> bool {
        let key = ticket.key.clone();
        let valid = self.give_up(ticket);
        if !valid || bytes > self.budget {
            return false;
        }
        self.remove(&key);
        self.bytes += bytes;
        self.entries.put(key, Entry { value, bytes });
        while self.bytes > self.budget {
            match self.entries.pop_lru() {
                Some((_, oldest)) => self.bytes -= oldest.bytes,
                None => self.bytes = 0,
            }
        }
        true
    }

    /// Gives a ticket back. Whether it was still valid.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let Some(reading) = self.reading.get_mut(&ticket.key) else { return false };
        let valid = reading.epoch == ticket.epoch;
        reading.tickets -= 1;
        if reading.tickets == 0 {
            self.reading.remove(&ticket.key);
        }
        valid
    }

    /// Forgets a session: to be called after each commit that changed it, before that is acknowledged.
    pub fn forget(&mut self, id: &SessionId) {
        for part in [Part::Row, Part::Recent] {
            let key = (id.clone(), part);
            self.remove(&key);
            if let Some(reading) = self.reading.get_mut(&key) {
                reading.epoch += 1;
            }
        }
    }

    /// Forgets everything: somebody else has changed the database.
    pub fn forget_all(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        for reading in self.reading.values_mut() {
            reading.epoch += 1;
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let mut cache = Cache::new(100);
        let (early, other) = (cache.ticket(&id("a"), Part::Row), cache.ticket(&id("b"), Part::Row));
        cache.forget(&id("a"));
        let late = cache.ticket(&id("a"), Part::Row);
        assert!(!cache.keep(early, Arc::new(1), 1));
        assert!(cache.keep(late, Arc::new(2), 1) && cache.keep(other, Arc::new(3), 1));
        assert_eq!(cache.get(&id("a"), Part::Row).as_deref(), Some(&2));
        let ticket = cache.ticket(&id("a"), Part::Row);
        cache.forget_all();
        assert!(!cache.keep(ticket, Arc::new(4), 1));
        assert_eq!((cache.bytes(), cache.reading.len()), (0, 0));
    }

    #[test]
    fn the_least_recently_used_goes_when_the_bytes_are_used_up() {
        let mut cache = Cache::new(10);
        for (name, bytes) in [("a", 4), ("b", 4), ("huge", 11)] {
            let ticket = cache.ticket(&id(name), Part::Row);
            cache.keep(ticket, Arc::new(()), bytes);
        }
        cache.get(&id("a"), Part::Row);
        let ticket = cache.ticket(&id("c"), Part::Row);
        cache.keep(ticket, Arc::new(()), 4);
        let kept = |cache: &mut Cache<()>, name| cache.get(&id(name), Part::Row).is_some();
        assert!(kept(&mut cache, "a") && kept(&mut cache, "c"));
        assert!(!kept(&mut cache, "b") && !kept(&mut cache, "huge"));
        assert_eq!(cache.bytes(), 8);
    }
}
