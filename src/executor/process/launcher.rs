//! The process between a server and an agent: it leads the agent's group, and ends the group when the server is gone,
//! however that went.
//!
//! The system tells a process of its parent's death, but not its parent's other descendants: an agent that starts
//! processes of its own would leave them behind.

use std::{ffi::OsString, io, process::ExitCode};

use rustix::process::{Signal, getpid, getppid, kill_process_group, set_parent_process_death_signal};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::found;

/// Becomes the launcher of a command, until that ends. `server` is the process that started it. Its own group is this
/// process's from here on: it must have been started as the leader of one.
pub async fn launch(server: i32, command: &[OsString]) -> io::Result<ExitCode> {
    // The usual ends are for the agent alone to obey: as long as it works, it must have its launcher.
    let _ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let mut orphaned = signal(SignalKind::user_defined1())?;
    set_parent_process_death_signal(Some(Signal::USR1))?;
    // It may have died before it could be told of.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != server) {
        return Ok(ExitCode::FAILURE);
    }
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut agent = Command::new(program).args(arguments).spawn()?;
    let status = tokio::select! {
        status = agent.wait() => status?,
        _ = orphaned.recv() => {
            // This process goes with it.
            kill_process_group(getpid(), Signal::KILL)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    for left in found::in_group(getpid()) {
        let _ = rustix::process::kill_process(left, Signal::KILL);
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
