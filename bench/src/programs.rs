//! The programs that are measured: where they are, and how they are built.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Args, Outcome};

pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) culm: PathBuf,
    pub(crate) sqlite: PathBuf,
    pub(crate) fixed: PathBuf,
    pub(crate) bamboo: Option<PathBuf>,
}

impl Programs {
    /// Builds each with its own lock file. Culm's program and its peer share a target directory, and so what they have
    /// in common; the replaced store takes longer than all others.
    pub(crate) fn build(args: &Args) -> Outcome<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = args.target_dir.clone().unwrap_or_else(|| root.join("target"));
        let old = args.bamboo_target_dir.clone().unwrap_or_else(|| target.clone());
        let build = |package: &str, target: &Path, program: &str| -> Outcome<PathBuf> {
            if !args.no_build {
                build(&root.join(package), target)?;
            }
            Ok(target.join("release").join(program))
        };
        Ok(Self {
            server: build("", &target, "culm")?,
            culm: build("bench/peers/culm", &target, "peer-culm")?,
            sqlite: build("bench/peers/sqlite", &target, "peer-sqlite")?,
            fixed: build("bench/peers/static", &target, "peer-static")?,
            bamboo: match args.without("bamboo") {
                true => None,
                false => Some(build("bench/peers/bamboo", &old, "peer-bamboo")?),
            },
        })
    }
}

fn build(package: &Path, target: &Path) -> Outcome<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--manifest-path"]).arg(package.join("Cargo.toml"));
    match command.arg("--target-dir").arg(target).status()?.success() {
        true => Ok(()),
        false => Err(format!("{} was not built", package.display()).into()),
    }
}
