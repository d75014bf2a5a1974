//! The registry of runs between the run, who cancels it and who deletes its session, in many orders of events that a
//! scheduler chooses. The rules of its use are kept here as `runs` keeps them; then each is broken, and the scheduler
//! has to find the order in which that shows. What is in the database is one word.

use std::{panic::catch_unwind, sync::Arc};

use culm::{model::RunId, runs::Registry};
use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    rand::{Rng, thread_rng},
    scheduler::RandomScheduler,
    sync::Mutex,
    thread,
};

/// Orders of events to try: ten times as many as any flaw needs to be found.
const ORDERS: usize = 2000;
/// Steps after which somebody waits for what does not come.
const STEPS: usize = 5000;
const FOR_EVER: &str = "exceeded max_steps";
const ASKED: &str = "asked, though it was to stop before it began";
const EARLY: &str = "woken before the end was written";
const REMOVED: &str = "removed while it was under way";
const KEPT: &str = "an order to stop outlives its run";

/// How the rules can be broken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    CancelsOnlyWhatHasEntered,
    AsksWhateverTheTokenSays,
    LoadsBeforeEntering,
    EndsBeforeItIsWritten,
    NeverEnds,
    WhoCancelsRemoves,
    LeavesAnOrderThatCameTooLate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Row {
    Pending,
    Running,
    Ended,
    /// Deleted with its session.
    Gone,
}

struct World {
    flaw: Option<Flaw>,
    row: Mutex<Row>,
    /// With whether somebody gave the order to stop.
    registry: Mutex<(Registry, bool)>,
}

fn run() -> RunId {
    "r".parse().unwrap()
}

fn until(mut reached: impl FnMut() -> bool) {
    while !reached() {
        thread::yield_now();
    }
}

impl World {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn row(&self) -> Row {
        *self.row.lock().unwrap()
    }

    fn over(&self) -> bool {
        matches!(self.row(), Row::Ended | Row::Gone)
    }

    /// Goes from one word to another, if it is that one.
    fn turn(&self, from: Row, to: Row) -> bool {
        let mut row = self.row.lock().unwrap();
        let turns = *row == from;
        if turns {
            *row = to;
        }
        turns
    }

    /// Takes the run and carries it out; its executor ends by itself, or only when it is told to.
    fn carry_out(&self, lingers: bool) {
        if !self.turn(Row::Pending, Row::Running) {
            return;
        }
        let loaded_early = self.row();
        let (token, ordered) = {
            let mut registry = self.registry.lock().unwrap();
            (registry.0.enter(&run()), registry.1)
        };
        let loaded = if self.has(Flaw::LoadsBeforeEntering) { loaded_early } else { self.row() };
        let asks = !token.is_cancelled() || self.has(Flaw::AsksWhateverTheTokenSays);
        if asks && loaded != Row::Gone {
            assert!(!ordered, "{ASKED}");
            until(|| !lingers || token.is_cancelled());
        }
        if self.has(Flaw::EndsBeforeItIsWritten) {
            self.registry.lock().unwrap().0.end(&run());
        }
        self.turn(Row::Running, Row::Ended);
        let mut registry = self.registry.lock().unwrap();
        if !self.has(Flaw::EndsBeforeItIsWritten) {
            assert_eq!(registry.0.len(), 1, "{REMOVED}");
        }
        if !self.has(Flaw::NeverEnds) {
            registry.0.end(&run());
        }
    }

    fn cancel(&self) {
        if self.turn(Row::Pending, Row::Ended) || self.over() {
            return;
        }
        let ending = {
            let mut registry = self.registry.lock().unwrap();
            registry.1 = !self.has(Flaw::CancelsOnlyWhatHasEntered);
            registry.0.cancel(&run(), !self.has(Flaw::CancelsOnlyWhatHasEntered))
        };
        if self.has(Flaw::WhoCancelsRemoves) {
            self.registry.lock().unwrap().0.end(&run());
        }
        match ending {
            Some(ending) => until(|| *ending.borrow()),
            None => until(|| self.over()),
        }
        assert!(self.over(), "{EARLY}");
        if !self.has(Flaw::LeavesAnOrderThatCameTooLate) {
            self.registry.lock().unwrap().0.forget(&run());
        }
    }

    fn delete(&self) {
        *self.row.lock().unwrap() = Row::Gone;
        let ending = self.registry.lock().unwrap().0.cancel(&run(), false);
        if let Some(ending) = ending {
            until(|| *ending.borrow());
        }
    }
}

fn everything_at_once(flaw: Option<Flaw>) {
    let registry = Mutex::new((Registry::default(), false));
    let world = Arc::new(World { flaw, row: Mutex::new(Row::Pending), registry });
    let (lingers, deletes) = (thread_rng().gen_bool(0.5), thread_rng().gen_bool(0.3));
    let play = |role: Box<dyn Fn(&World) + Send>| {
        let world = world.clone();
        thread::spawn(move || role(&world))
    };
    let stop = || Box::new(if deletes { World::delete } else { World::cancel });
    let roles = [play(Box::new(move |world| world.carry_out(lingers))), play(Box::new(World::cancel)), play(stop())];
    roles.into_iter().for_each(|role| role.join().unwrap());
    let mut registry = world.registry.lock().unwrap();
    assert!(registry.0.is_empty(), "{REMOVED}");
    assert!(!registry.0.enter(&run()).is_cancelled(), "{KEPT}");
}

/// The same orders of events in every run of the suite; how many were tried.
fn explore(flaw: Option<Flaw>) -> usize {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    Runner::new(RandomScheduler::new_from_seed(7, ORDERS), config).run(move || everything_at_once(flaw))
}

#[test]
fn no_order_of_events_loses_a_run_or_an_order_to_stop() {
    assert_eq!(explore(None), ORDERS);
}

#[test]
fn each_rule_is_needed() {
    for (flaw, shows) in [
        (Flaw::CancelsOnlyWhatHasEntered, FOR_EVER),
        (Flaw::AsksWhateverTheTokenSays, ASKED),
        (Flaw::LoadsBeforeEntering, FOR_EVER),
        (Flaw::EndsBeforeItIsWritten, EARLY),
        (Flaw::NeverEnds, FOR_EVER),
        (Flaw::WhoCancelsRemoves, EARLY),
        (Flaw::LeavesAnOrderThatCameTooLate, KEPT),
    ] {
        let failed = catch_unwind(|| explore(Some(flaw))).expect_err(&format!("{flaw:?} was not found"));
        let said = failed.downcast_ref::<String>().unwrap();
        // A waiter that is woken too early and a run that is removed too early are two sides of one flaw.
        assert!(said.contains(shows) || shows == EARLY && said.contains(REMOVED), "{flaw:?}: {said}");
    }
}
