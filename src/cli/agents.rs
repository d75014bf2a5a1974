//! `culm agents`: the executors that are configured, and whether they start.

use std::{ffi::OsString, process::ExitCode};

use culm::{
    config::Settings,
    executor::{config::Executors, process::Launch, trial},
    tasks::Tasks,
};

use super::Failure;

/// Starts each executor, in homes that are not kept. Fails when one of them does not start, or does not answer.
pub(crate) async fn list(settings: &Settings, check: bool) -> Result<ExitCode, Failure> {
    let executors = Executors::check(&settings.executors).map_err(|error| Failure::new(2, error))?;
    let homes = tempfile::tempdir().map_err(|error| Failure::new(1, error))?;
    let (launcher, tasks) = (launcher(), Tasks::default());
    let launch = Launch { launcher, homes: homes.path().into(), tasks: tasks.clone() };
    let executors = executors.start(&trial::surroundings(launch, settings.limits));
    if executors.is_empty() {
        println!("no executor is configured; see [executors] of the configuration file");
    }
    let mut all_start = true;
    for (name, executor) in &executors {
        let mut found = executor.probe().await;
        if check && found.is_ok() {
            found = trial::ask(&**executor).await.map(|answer| format!("answers: {}", answer.trim()));
        }
        executor.shut_down().await;
        all_start &= found.is_ok();
        let kind = settings.executors.get(name).map(ToString::to_string).unwrap_or_default();
        match found {
            Ok(what) => println!("{name} ({kind}): {what}"),
            Err(error) => println!("{name} ({kind}): FAILS: {error}"),
        }
    }
    tasks.finish().await;
    Ok(if all_start { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Agents are started by this very program, also when its file was replaced since.
pub(crate) fn launcher() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), "launch-agent".into()]
}
