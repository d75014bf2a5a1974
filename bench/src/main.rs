//! Measures Culm against bare SQLite, the store that it replaces, and a server that only answers. Peers run as programs
//! of their own, in turn, on copies of the same data; what is compared, is compared within a run.

mod bench;
mod budgets;
mod cores;
mod figures;
mod home;
mod http;
mod peer;
mod programs;
mod report;
mod server;
mod work;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

use crate::{bench::Bench, budgets::Budget, programs::Programs};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Measures Culm against bare SQLite, the store that it replaces, and a server that only answers.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Less of everything: under a minute
    #[arg(long)]
    quick: bool,
    /// Fail when a budget is missed
    #[arg(long)]
    check: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only this work; can be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(work::NAMES))]
    only: Vec<String>,
    /// Leave this peer out: the replaced store takes very long to build
    #[arg(long, value_name = "PEER", value_parser = ["bamboo"])]
    without: Vec<String>,
    /// Take the programs as they are
    #[arg(long)]
    no_build: bool,
    /// Where programs are built [default: target, in the repository]
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Where the replaced store is built [default: the same]
    #[arg(long, value_name = "DIR")]
    bamboo_target_dir: Option<PathBuf>,
    /// Where a folder for databases is made, on the disk that is to be measured; removed in the end [default: bench/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Args {
    fn without(&self, peer: &str) -> bool {
        self.without.iter().any(|name| name == peer)
    }

    fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == work)
    }

    /// Whether the run is to have this budget's figure.
    fn asks(&self, budget: &Budget) -> bool {
        let peer_is_there = budget.peer.as_ref().is_none_or(|peer| !self.without(peer));
        self.wants(budget.of_work()) && peer_is_there && !(self.quick && budget.whole)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it must be.
fn run(args: &Args) -> Outcome<bool> {
    let budgets = budgets::parse(include_str!("../budgets.toml"))?;
    let programs = Programs::build(args)?;
    let folder = args.data.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data"));
    let folder = folder.join("run");
    let mut bench = Bench::new(programs, args.quick, folder.clone())?;
    let measured = work::WORKS.iter().filter(|(name, _)| args.wants(name)).try_for_each(|(name, work)| {
        let begun = Instant::now();
        work(&mut bench).map_err(|error| format!("{name}: {error}"))?;
        eprintln!("{name}: {} s", begun.elapsed().as_secs());
        Ok(())
    });
    let figures = std::mem::take(&mut bench.figures);
    drop(bench);
    std::fs::remove_dir_all(&folder)?;
    measured.map_err(|error: Box<dyn std::error::Error>| error)?;
    let asked: Vec<&Budget> = budgets.iter().filter(|budget| args.asks(budget)).collect();
    print!("{}", report::table(&figures, &asked));
    if let Some(path) = &args.json {
        std::fs::write(path, report::json(&figures, &asked)?)?;
    }
    Ok(!args.check || report::all_met(&figures, &asked))
}
