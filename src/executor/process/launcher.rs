//! The process between a server and an agent, or git: it leads the group, and ends the group when the server is gone,
//! however that went.
//!
//! The system tells a process of its parent's death, but not its parent's other descendants: an agent that starts
//! processes of its own would leave them behind. The system also tells of the end of the thread that was the parent,
//! which says nothing: **it looks at its parent before it kills**.

use std::{ffi::OsString, io, os::unix::process::ExitStatusExt, process::ExitCode};

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
    let is_alone = || getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != server);
    // It may have died before it could be told of.
    if is_alone() {
        return Ok(ExitCode::FAILURE);
    }
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut agent = Command::new(program).args(arguments).spawn()?;
    let status = loop {
        tokio::select! {
            status = agent.wait() => break status?,
            _ = orphaned.recv() => if is_alone() {
                // This process goes with it.
                kill_process_group(getpid(), Signal::KILL)?;
                return Ok(ExitCode::FAILURE);
            },
        }
    };
    for left in found::in_group(getpid()) {
        let _ = rustix::process::kill_process(left, Signal::KILL);
    }
    // As shells have it: one that was ended by a signal must not look as if it had said no.
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
