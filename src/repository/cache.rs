//! The cache's rules, free of I/O: what may be kept, for how long, and in how many bytes.
//!
//! **The cache never lies.** Whoever reads storage for the cache takes a [`Ticket`] first. A commit forgets its session
//! after it happened and before it is acknowledged, and with it every ticket that was out: what was read before the
//! commit finds its ticket void and is not kept. So an entry is never older than the last acknowledged change.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lru::LruCache;

use crate::model::SessionId;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A session's row.
    Row(SessionId),
    /// A session's newest messages.
    Recent(SessionId),
    /// A page of a list of sessions, by all that was asked for. Whatever changes may show in it.
    List(String),
}

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
    /// Which of the entries are lists: every change takes them out.
    lists: HashSet<Key>,
    bytes: usize,
    budget: usize,
    /// Only what is being read right now: as large as there are readers.
    reading: HashMap<Key, Reading>,
}

impl<V> Cache<V> {
    /// An empty cache that keeps at most this many bytes.
    pub fn new(budget: usize) -> Self {
        Self { entries: LruCache::unbounded(), lists: HashSet::new(), bytes: 0, budget, reading: HashMap::new() }
    }

    /// What is kept.
    pub fn get(&mut self, key: &Key) -> Option<Arc<V>> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    /// To be taken before storage is read; to be given back with [`Self::keep`] or [`Self::give_up`].
    pub fn ticket(&mut self, key: Key) -> Ticket {
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
        if let Key::List(_) = key {
            self.lists.insert(key.clone());
        }
        self.entries.put(key, Entry { value, bytes });
        while self.bytes > self.budget
            && let Some(oldest) = self.entries.peek_lru().map(|(key, _)| key.clone())
        {
            self.remove(&oldest);
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

    /// Forgets these sessions, and all lists: to be called after each commit that changed them, before that is
    /// acknowledged.
    pub fn forget(&mut self, ids: &[SessionId]) {
        for key in ids.iter().flat_map(|id| [Key::Row(id.clone()), Key::Recent(id.clone())]) {
            self.remove(&key);
            if let Some(reading) = self.reading.get_mut(&key) {
                reading.epoch += 1;
            }
        }
        for key in std::mem::take(&mut self.lists) {
            self.remove(&key);
        }
        for (_, reading) in self.reading.iter_mut().filter(|(key, _)| matches!(key, Key::List(_))) {
            reading.epoch += 1;
        }
    }

    /// Forgets everything: somebody else has changed the database.
    pub fn forget_all(&mut self) {
        self.entries.clear();
        self.lists.clear();
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
        if let Key::List(_) = key {
            self.lists.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SessionId {
        text.parse().unwrap()
    }

    fn row(text: &str) -> Key {
        Key::Row(id(text))
    }

    fn list(text: &str) -> Key {
        Key::List(text.into())
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let mut cache = Cache::new(100);
        let (early, other) = (cache.ticket(row("a")), cache.ticket(row("b")));
        cache.forget(&[id("a")]);
        let late = cache.ticket(row("a"));
        assert!(!cache.keep(early, Arc::new(1), 1));
        assert!(cache.keep(late, Arc::new(2), 1) && cache.keep(other, Arc::new(3), 1));
        assert_eq!(cache.get(&row("a")).as_deref(), Some(&2));
        let ticket = cache.ticket(row("a"));
        cache.forget_all();
        assert!(!cache.keep(ticket, Arc::new(4), 1));
        assert_eq!((cache.bytes(), cache.reading.len()), (0, 0));
    }

    #[test]
    fn the_least_recently_used_goes_when_the_bytes_are_used_up() {
        let mut cache = Cache::new(10);
        for (name, bytes) in [("a", 4), ("b", 4), ("huge", 11)] {
            let ticket = cache.ticket(row(name));
            cache.keep(ticket, Arc::new(()), bytes);
        }
        cache.get(&row("a"));
        let ticket = cache.ticket(row("c"));
        cache.keep(ticket, Arc::new(()), 4);
        let kept = |cache: &mut Cache<()>, name| cache.get(&row(name)).is_some();
        assert!(kept(&mut cache, "a") && kept(&mut cache, "c"));
        assert!(!kept(&mut cache, "b") && !kept(&mut cache, "huge"));
        assert_eq!(cache.bytes(), 8);
    }

    #[test]
    fn a_change_of_any_session_ends_every_list() {
        let mut cache = Cache::new(100);
        for key in [list("old"), row("b")] {
            let ticket = cache.ticket(key);
            cache.keep(ticket, Arc::new(1), 1);
        }
        let early = cache.ticket(list("new"));
        cache.forget(&[id("a")]);
        assert!(!cache.keep(early, Arc::new(2), 1), "it was read before the change");
        assert_eq!((cache.get(&list("old")), cache.get(&row("b")).as_deref()), (None, Some(&1)));
        assert_eq!((cache.bytes(), cache.lists.len(), cache.reading.len()), (1, 0, 0));
    }

    #[test]
    fn a_list_that_had_to_go_is_no_list_any_more() {
        let mut cache = Cache::new(10);
        for n in 0..100 {
            let ticket = cache.ticket(list(&n.to_string()));
            cache.keep(ticket, Arc::new(()), 4);
        }
        assert_eq!((cache.bytes(), cache.entries.len(), cache.lists.len()), (8, 2, 2));
    }
}
