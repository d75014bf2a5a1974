//! What stands beside a database: its folder and its token.
//!
//! **The token is the only key to everything.** It is read once, at start: a file that others can read, that is too
//! short to be guessed at, or that is a link to somewhere else is refused, and one that changes under a running server
//! is warned of, while the token that the server started with stays the valid one.

use std::{
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use culm::{
    storage::sqlite::{self, OpenError},
    tasks::{self, Tasks},
};
use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::Failure;

/// Characters that a token has at least. One that is made here has 43.
const SHORTEST: usize = 32;
/// Bytes of a token's file that are read.
const LONGEST: u64 = 4096;
/// How often a running server looks at its token's file.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) fn make_folder(db: &Path) -> Result<(), Failure> {
    let Some(folder) = db.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Failure::new(6, format!("cannot make the directory {}: {error}", folder.display())))
}

/// The token of a database that is there.
pub(crate) fn token_of(db: &Path) -> Result<String, Failure> {
    match db.is_file() {
        true => token(db),
        false => Err(OpenError::Missing(db.into()).into()),
    }
}

/// The token beside the database: 32 random bytes, made once, for its owner's eyes.
pub(crate) fn token(db: &Path) -> Result<String, Failure> {
    let path = sqlite::beside(db, ".token");
    if let Err(error) = std::fs::symlink_metadata(&path)
        && error.kind() == std::io::ErrorKind::NotFound
    {
        make_token(&path).map_err(|error| unusable(&path, &error))?;
    }
    read_token(&path).map_err(|error| unusable(&path, &error))
}

fn unusable(path: &Path, reason: &std::io::Error) -> Failure {
    Failure::new(6, format!("the token {} cannot be used: {reason}", path.display()))
}

/// Written whole before it has its name, so that a full disk leaves none that is empty.
fn make_token(path: &Path) -> std::io::Result<()> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".culm-token-").tempfile_in(folder)?;
    writeln!(file, "{}", URL_SAFE_NO_PAD.encode(bytes))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        // Another process made it meanwhile.
        Err(refused) if refused.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map(drop).map_err(|refused| refused.error),
    }
}

/// The token, or why its file is not fit to hold one, with what to do about it.
fn read_token(path: &Path) -> std::io::Result<String> {
    let refused = |why: String| Err(std::io::Error::other(why));
    let shown = path.display();
    if std::fs::symlink_metadata(path)?.is_symlink() {
        return refused("it is a symbolic link; replace it with the file itself".into());
    }
    // Of a pipe or a device neither the opening nor the reading might end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return refused("it is not a file; remove it, and a new one is made".into());
    }
    if about.nlink() > 1 {
        return refused(format!("the file has {} names (hard links); remove it, and a new one is made", about.nlink()));
    }
    if about.mode() & 0o077 != 0 {
        let mode = about.mode() & 0o777;
        return refused(format!("others than its owner can use it (mode {mode:o}); run chmod 600 {shown}"));
    }
    let mut token = String::new();
    file.take(LONGEST).read_to_string(&mut token)?;
    let token = token.trim();
    if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refused(format!(
            "it is not a line of at least {SHORTEST} letters and digits; remove it, and a new one is made"
        ));
    }
    Ok(token.to_owned())
}

/// Warns, once for each change, when the token's file is no longer what this server has read.
pub(crate) fn watch_token(tasks: &Tasks, db: &Path, token: String, stop: CancellationToken) {
    let path = sqlite::beside(db, ".token");
    tasks.spawn(async move {
        let (mut look, mut warned) = (tokio::time::interval(LOOK), None);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            let looked = path.clone();
            let changed = match tasks::blocking(move || read_token(&looked)).await {
                Ok(found) => (found != token).then(|| "it holds another token".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if changed == warned {
                continue;
            }
            if let Some(reason) = &changed {
                let path = path.display();
                tracing::warn!(%path, reason, "the token file changed; the server still asks for the token it started with");
            }
            warned = changed;
        }
    });
}
