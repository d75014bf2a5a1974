//! The size of the server's program, without its symbols.

use std::process::Command;

use crate::{Outcome, bench::Bench, figures::Unit};

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    let stripped = bench.place("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&bench.programs.server).status()?;
    if !strip.success() {
        return Err("strip failed".into());
    }
    let bytes = std::fs::metadata(stripped)?.len();
    bench.add_values("binary.size", Unit::Mebibytes, &[bytes as f64 / f64::from(1 << 20)]);
    Ok(())
}
