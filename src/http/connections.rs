//! Who may have a connection: rules, free of I/O.
//!
//! **No stranger locks a user out.** A connection is a stranger's until a request on it has shown the token. Strangers
//! have a share of all connections, and of that each address has a share; where it is used up, the stranger goes that was
//! accepted first and waits for nothing. Who has shown the token is counted apart, and is never closed to make room. The
//! share of an address does not hold for them: behind a reverse proxy all clients have one.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    /// Of those that have shown the token: subscribers that wait, most of them.
    pub(super) users: usize,
    /// Of those that have not.
    pub(super) strangers: usize,
    /// Of those that have not, from one address; an IPv6 network of 64 bits counts as one.
    pub(super) per_address: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self { users: 8_000, strangers: 2_000, per_address: 256 }
    }
}

/// All connections. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections {
    shares: Shares,
    here: Arc<Mutex<Here>>,
}

#[derive(Debug, Default)]
struct Here {
    next: u64,
    users: usize,
    /// In the order in which they were accepted.
    strangers: BTreeMap<u64, Arc<Inner>>,
    addresses: HashMap<IpAddr, usize>,
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    of: Connections,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    number: u64,
    address: IpAddr,
    /// Requests that are being answered.
    requests: AtomicUsize,
    closing: CancellationToken,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Connection);

impl Connections {
    pub(super) fn new(shares: Shares) -> Self {
        Self { shares, ..Self::default() }
    }

    /// Takes a stranger in, if need be in the place of another one. None where there is no room.
    pub(super) fn accept(&self, address: IpAddr) -> Option<Connection> {
        let address = network(address);
        let mut here = self.here();
        let is_full = here.addresses.get(&address).is_some_and(|count| *count >= self.shares.per_address);
        if is_full || here.strangers.len() >= self.shares.strangers {
            let waits = |other: &&Arc<Inner>| {
                other.requests.load(Ordering::Relaxed) == 0 && (!is_full || other.address == address)
            };
            let oldest = here.strangers.values().find(waits)?.clone();
            here.remove_stranger(&oldest);
            oldest.closing.cancel();
        }
        here.next += 1;
        let number = here.next;
        let (requests, closing) = (AtomicUsize::new(0), CancellationToken::new());
        let inner = Arc::new(Inner { number, address, requests, closing });
        here.strangers.insert(number, inner.clone());
        *here.addresses.entry(address).or_default() += 1;
        drop(here);
        Some(Connection { of: self.clone(), inner })
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here {
    /// Whether it was one.
    fn remove_stranger(&mut self, inner: &Inner) -> bool {
        if self.strangers.remove(&inner.number).is_none() {
            return false;
        }
        if let Some(count) = self.addresses.get_mut(&inner.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&inner.address);
            }
        }
        true
    }
}

impl Connection {
    /// Cancelled when it is to be closed.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// A request came, and is being answered.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// It has shown the token: it is a user's from now on, where there is room among them.
    pub(super) fn trust(&self) {
        if self.inner.requests.load(Ordering::Relaxed) & USER != 0 {
            return;
        }
        let mut here = self.of.here();
        if here.users < self.of.shares.users && here.remove_stranger(&self.inner) {
            here.users += 1;
            self.inner.requests.fetch_or(USER, Ordering::Relaxed);
        }
    }
}

/// A bit beside the number of requests: whether it is a user's.
const USER: usize = 1 << (usize::BITS - 1);

impl Drop for Connection {
    fn drop(&mut self) {
        let mut here = self.of.here();
        if self.inner.requests.load(Ordering::Relaxed) & USER != 0 {
            here.users -= 1;
        } else {
            here.remove_stranger(&self.inner);
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.inner.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one client can have many addresses of counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn connections() -> Connections {
        Connections::new(Shares { users: 2, strangers: 4, per_address: 3 })
    }

    /// How many users there are, strangers, and addresses of these.
    fn counts(all: &Connections) -> (usize, usize, usize) {
        let here = all.here();
        (here.users, here.strangers.len(), here.addresses.len())
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.closing().is_cancelled()
    }

    #[test]
    fn the_oldest_stranger_that_waits_gives_way() {
        let all = connections();
        let first = all.accept(A).unwrap();
        let busy = first.busy();
        let others: Vec<_> = (0..3).map(|_| all.accept(A).unwrap()).collect();
        assert_eq!((is_closed(&first), is_closed(&others[0]), is_closed(&others[1])), (false, true, false));
        drop(busy);
        let of_another = all.accept(B).unwrap();
        assert!(!is_closed(&first), "its own share is not used up");
        let again = all.accept(B).unwrap();
        assert!(is_closed(&first), "all strangers have a share, too");
        drop((first, others, of_another, again));
        assert_eq!(counts(&all), (0, 0, 0));
    }

    #[test]
    fn where_all_are_busy_there_is_no_room() {
        let all = connections();
        let here: Vec<_> = (0..3).map(|_| all.accept(A).unwrap()).collect();
        let _busy: Vec<_> = here.iter().map(Connection::busy).collect();
        assert!(all.accept(A).is_none());
        assert!(all.accept(B).is_some());
    }

    #[test]
    fn who_has_shown_the_token_stays_and_leaves_room() {
        let all = connections();
        let users: Vec<_> = (0..2).map(|_| all.accept(A).unwrap()).collect();
        users.iter().for_each(Connection::trust);
        users.iter().for_each(Connection::trust);
        let strangers: Vec<_> = (0..9).map(|_| all.accept(A).unwrap()).collect();
        assert!(!users.iter().any(is_closed));
        assert_eq!(strangers.iter().filter(|stranger| !is_closed(stranger)).count(), 3);
        let last = strangers.last().unwrap();
        last.trust();
        assert_eq!(counts(&all), (2, 3, 1), "no room among users");
        drop(users);
        last.trust();
        assert_eq!(counts(&all), (1, 2, 1));
        drop(strangers);
        assert_eq!(counts(&all), (0, 0, 0));
    }

    #[test]
    fn a_network_of_one_client_counts_as_one() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), A);
    }
}
