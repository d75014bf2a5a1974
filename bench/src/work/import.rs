//! The import of a Bamboo home: how many messages a second, and the most memory that it takes.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    bench::{Bench, remove},
    figures::Unit,
    home::Home,
    server::memory,
};

/// How often the memory is looked at; the system remembers the most that it was.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let sizes = bench.sized(&[1000, 10_000][..], &[500]);
    for sessions in sizes {
        of_size(bench, *sessions, Some(sessions) == sizes.last())?;
    }
    Ok(())
}

fn of_size(bench: &mut Bench, sessions: usize, is_last: bool) -> Outcome<()> {
    let place = bench.place("import-home");
    let home = Home { sessions, messages: 20, long: None };
    home.write(&place, &bench.texts)?;
    let (mut rates, mut sizes) = (Vec::new(), Vec::new());
    // The whole one takes long: twice shows whether it is the same.
    for _ in 0..2 {
        let (took, most) = import(bench, &place)?;
        rates.push(home.messages() as f64 / took.as_secs_f64());
        sizes.push(most);
    }
    bench.add_sized("import.messages_per_second_messages", home.messages(), Unit::PerSecond, &rates);
    if is_last {
        bench.add_values("import.messages_per_second", Unit::PerSecond, &rates);
        bench.add_values("import.memory", Unit::Mebibytes, &sizes);
    }
    Ok(std::fs::remove_dir_all(place)?)
}

fn import(bench: &Bench, home: &Path) -> Outcome<(Duration, f64)> {
    let db = bench.place("import.db");
    remove(&db)?;
    let mut command = Command::new(&bench.programs.server);
    command.args(["import", "bamboo"]).arg(home).arg("--db").arg(&db).stdout(Stdio::null());
    let (begun, mut import, mut most) = (Instant::now(), command.spawn()?, 0f64);
    let status = loop {
        if let Some(status) = import.try_wait()? {
            break status;
        }
        most = most.max(memory(import.id(), "VmHWM").unwrap_or(0.0));
        std::thread::sleep(LOOK);
    };
    let took = begun.elapsed();
    remove(&db)?;
    match status.success() {
        true => Ok((took, most)),
        false => Err("the import failed".into()),
    }
}
