//! The cache between readers, writers, deletes and other processes, in many orders of events that a scheduler chooses.
//! The rules of its use are kept here as the repository keeps them; then each is broken, and the scheduler has to find
//! the order in which that shows. Nothing here knows storage: what is committed is a list.

use std::{panic::catch_unwind, sync::Arc};

use culm::repository::{Cache, Key, Ticket};
use shuttle::{
    Config, FailurePersistence, Runner,
    rand::{Rng, thread_rng},
    scheduler::RandomScheduler,
    sync::Mutex,
    thread,
};

use crate::support::id;

/// Orders of events to try: ten times as many as any flaw needs to be found.
const ORDERS: usize = 2000;
const BUDGET: usize = 10;
const OLDER: &str = "older than what was acknowledged";
const UNCOMMITTED: &str = "never committed";

/// How the rules can be broken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    ForgetsNothing,
    ForgetsBeforeTheCommitOnly,
    AcknowledgesBeforeForgetting,
    DeletesWithoutForgetting,
    HearsOfOthersAndLeavesTicketsValid,
    TakesTicketsAfterReading,
    KeepsWhatIsNotCommitted,
}

/// A session's content; none when it is deleted. No two changes make the same.
type State = Option<u64>;

struct World {
    flaw: Option<Flaw>,
    committed: Mutex<Vec<State>>,
    /// The place in `committed` that everybody may rely on.
    acknowledged: Mutex<usize>,
    cache: Mutex<Cache<u64>>,
}

impl World {
    fn new(flaw: Option<Flaw>) -> Arc<Self> {
        let (committed, cache) = (Mutex::new(vec![Some(0)]), Mutex::new(Cache::new(BUDGET)));
        Arc::new(Self { flaw, committed, acknowledged: Mutex::new(0), cache })
    }

    fn with_cache<T>(&self, does: impl FnOnce(&mut Cache<u64>) -> T) -> T {
        does(&mut self.cache.lock().unwrap())
    }

    fn read(&self) {
        let acknowledged = *self.acknowledged.lock().unwrap();
        let Some(shown) = self.shown() else { return };
        let place = self.committed.lock().unwrap().iter().position(|state| *state == Some(shown));
        assert!(place.expect(UNCOMMITTED) >= acknowledged, "{OLDER}");
    }

    fn shown(&self) -> State {
        let key = what_shows_it();
        if let Some(kept) = self.with_cache(|cache| cache.get(&key)) {
            return Some(*kept);
        }
        let early = self.with_cache(|cache| cache.ticket(key.clone()));
        let state = *self.committed.lock().unwrap().last().unwrap();
        self.with_cache(|cache| match self.flaw {
            Some(Flaw::TakesTicketsAfterReading) => {
                cache.give_up(early);
                keep(cache, key, state);
            }
            _ => keep_with(cache, early, state),
        });
        state
    }

    /// Commits, forgets, acknowledges.
    fn change(&self, state: State, forget: impl Fn(&mut Cache<u64>)) {
        match self.flaw {
            Some(Flaw::ForgetsBeforeTheCommitOnly) => self.with_cache(&forget),
            Some(Flaw::KeepsWhatIsNotCommitted) => self.with_cache(|cache| keep(cache, what_shows_it(), state)),
            _ => {}
        }
        let Some(place) = self.commit(state) else { return };
        match self.flaw {
            Some(Flaw::ForgetsNothing | Flaw::ForgetsBeforeTheCommitOnly) => self.acknowledge(place),
            Some(Flaw::AcknowledgesBeforeForgetting) => {
                self.acknowledge(place);
                self.with_cache(forget);
            }
            _ => {
                self.with_cache(forget);
                self.acknowledge(place);
            }
        }
    }

    /// Deleted stays deleted: no commit comes after that one.
    fn commit(&self, state: State) -> Option<usize> {
        let mut committed = self.committed.lock().unwrap();
        committed.last()?.as_ref()?;
        committed.push(state);
        Some(committed.len() - 1)
    }

    fn acknowledge(&self, place: usize) {
        let mut acknowledged = self.acknowledged.lock().unwrap();
        *acknowledged = place.max(*acknowledged);
    }

    fn write(&self, value: u64) {
        self.change(Some(value), |cache| cache.forget(&[id("a")]));
    }

    fn delete(&self) {
        match self.flaw {
            Some(Flaw::DeletesWithoutForgetting) => self.change(None, |_| {}),
            _ => self.change(None, Cache::forget_all),
        }
    }

    /// Another process's commit is acknowledged when it is heard of.
    fn hear_of_another(&self, value: u64) {
        match self.flaw {
            Some(Flaw::HearsOfOthersAndLeavesTicketsValid) => self.change(Some(value), crowd_out),
            _ => self.change(Some(value), Cache::forget_all),
        }
    }
}

/// A session shows by itself and in a list.
fn what_shows_it() -> Key {
    match thread_rng().gen_bool(0.5) {
        true => Key::Row(id("a")),
        false => Key::List("all".into()),
    }
}

fn keep(cache: &mut Cache<u64>, key: Key, state: State) {
    let ticket = cache.ticket(key);
    keep_with(cache, ticket, state);
}

fn keep_with(cache: &mut Cache<u64>, ticket: Ticket, state: State) {
    match state {
        Some(value) => cache.keep(ticket, Arc::new(value), 1),
        None => cache.give_up(ticket),
    };
}

/// Clears the entries and no ticket: one entry that takes all the room.
fn crowd_out(cache: &mut Cache<u64>) {
    let ticket = cache.ticket(Key::Row(id("large")));
    assert!(cache.keep(ticket, Arc::new(0), BUDGET));
}

/// Two readers, and two that change the session: any two.
fn everything_at_once(flaw: Option<Flaw>) {
    let world = World::new(flaw);
    let play = |role: Box<dyn Fn(&World) + Send>| {
        let world = world.clone();
        thread::spawn(move || role(&world))
    };
    let reads = |world: &World| (0..2).for_each(|_| world.read());
    let change = |value| match thread_rng().gen_range(0..3) {
        0 => Box::new(move |world: &World| world.write(value)) as Box<dyn Fn(&World) + Send>,
        1 => Box::new(move |world: &World| world.hear_of_another(value)),
        _ => Box::new(World::delete),
    };
    let roles = [Box::new(reads), Box::new(reads), change(1), change(2)];
    roles.map(play).into_iter().for_each(|role| role.join().unwrap());
}

/// The same orders of events in every run of the suite; how many were tried.
fn explore(flaw: Option<Flaw>) -> usize {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    Runner::new(RandomScheduler::new_from_seed(7, ORDERS), config).run(move || everything_at_once(flaw))
}

#[test]
fn no_order_of_events_makes_the_cache_lie() {
    assert_eq!(explore(None), ORDERS);
}

#[test]
fn each_rule_is_needed() {
    for (flaw, lie) in [
        (Flaw::ForgetsNothing, OLDER),
        (Flaw::ForgetsBeforeTheCommitOnly, OLDER),
        (Flaw::AcknowledgesBeforeForgetting, OLDER),
        (Flaw::DeletesWithoutForgetting, OLDER),
        (Flaw::HearsOfOthersAndLeavesTicketsValid, OLDER),
        (Flaw::TakesTicketsAfterReading, OLDER),
        (Flaw::KeepsWhatIsNotCommitted, UNCOMMITTED),
    ] {
        let lied = catch_unwind(|| explore(Some(flaw))).expect_err(&format!("{flaw:?} was not found"));
        let said = lied.downcast_ref::<String>().unwrap();
        assert!(said.contains(lie), "{flaw:?}: {said}");
    }
}
