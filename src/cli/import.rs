//! `culm import`: the sessions of another system.

use std::{path::Path, process::ExitCode};

use culm::{
    import::{self, ImportError},
    storage::{
        self, Storage,
        sqlite::{self, SqliteStorage},
    },
};

use super::{Failure, exit_after_failed_sync, place::make_folder};

pub(crate) async fn bamboo(home: &Path, db: &Path, dry_run: bool) -> Result<ExitCode, Failure> {
    import::bamboo::check(home).map_err(|error| Failure::new(1, error))?;
    // A dry run makes no database, not even an empty one.
    let storage = match dry_run && !db.exists() {
        true => None,
        false => {
            make_folder(db)?;
            let options = sqlite::Options { on_failed_sync: exit_after_failed_sync, ..sqlite::Options::new(db) };
            Some(SqliteStorage::open(&options).await?)
        }
    };
    if let Some(storage) = storage.as_ref().filter(|_| !dry_run) {
        storage.gather_index().await.map_err(|error| Failure::of_storage(db, error))?;
    }
    // Drawn only where standard error is a terminal.
    let bar = indicatif::ProgressBar::new(0);
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let borrowed = storage.as_ref().map(|storage| storage as &dyn Storage);
    let report = import::bamboo::import(home, borrowed, import::Options { dry_run }, &mut progress).await;
    bar.finish_and_clear();
    if let Some(storage) = &storage {
        if !dry_run && report.as_ref().is_ok_and(|report| report.messages.added > 0) {
            storage.merge_index().await.map_err(|error| Failure::of_storage(db, error))?;
        }
        storage.close().await;
    }
    let report = report.map_err(|error| match error {
        ImportError::Storage { error: error @ storage::Error::Damaged(_), .. } => Failure::of_storage(db, error),
        error => Failure::new(1, error),
    })?;
    print!("{report}");
    Ok(ExitCode::SUCCESS)
}
