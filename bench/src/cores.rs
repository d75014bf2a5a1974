//! Where programs run. With one client and one server, an answer takes three times as long when the system has put them
//! on two cores, each asleep until the other wakes it, than when both are on one: more than what is compared differs.

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::Outcome;

/// Does work while this thread and all threads of a program are on one core.
pub(crate) fn with_on_one<T>(program: u32, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).ok_or("no core to run on")?;
    let mut one = CpuSet::new();
    one.set(first);
    put(program, &one)?;
    let done = work();
    put(program, &all)?;
    done
}

fn put(program: u32, cores: &CpuSet) -> Outcome<()> {
    sched_setaffinity(None, cores)?;
    for thread in std::fs::read_dir(format!("/proc/{program}/task"))? {
        let id = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        // One that has ended in between runs nowhere.
        let _ = sched_setaffinity(id, cores);
    }
    Ok(())
}
