//! Processes of agents: found again by what their rows say, and ended.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Error;
use crate::model::{AgentSession, Process};

/// How long the system may take to remove a process that was killed.
const KILL: Duration = Duration::from_secs(5);
/// How often is looked whether it is gone.
const LOOK: Duration = Duration::from_millis(10);

/// Ends what is left of a backend that another process of the server started: its group, if the process is still the
/// same one.
pub async fn reap(backend: &AgentSession) -> Result<(), Error> {
    let Some(process) = backend.process else { return Ok(()) };
    let ended = async {
        while is_there(process) {
            // A signal to group 1 would go to everybody.
            if let Some(group) = Pid::from_raw(process.pid).filter(|group| !group.is_init()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::time::timeout(KILL, ended).await;
    ended.map_err(|_| Error::Failed("a process of the agent cannot be ended".into()))
}

/// Whether a process is there that has this number and began then, and is no zombie.
fn is_there(process: Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    // The fields from the third on, the state: what is before may hold spaces.
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let started = fields.get(19).and_then(|field| field.parse().ok());
    started == Some(process.started) && !matches!(fields.first(), Some(&"Z" | &"X"))
}
