//! What stands beside a database: its folder and its token.

use std::{
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use culm::storage::sqlite;

use super::Failure;

pub(crate) fn make_folder(db: &Path) -> Result<(), Failure> {
    let Some(folder) = db.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Failure::new(6, format!("cannot make the directory {}: {error}", folder.display())))
}

/// The token beside the database: 32 random bytes, made once, for its owner's eyes.
pub(crate) fn token(db: &Path) -> Result<String, Failure> {
    let path = sqlite::beside(db, ".token");
    let failed =
        |error: std::io::Error| Failure::new(6, format!("the token {} cannot be used: {error}", path.display()));
    make_folder(db)?;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| Failure::new(1, error))?;
            writeln!(file, "{}", URL_SAFE_NO_PAD.encode(bytes)).map_err(failed)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let token = std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned();
    match token.is_empty() {
        true => {
            Err(Failure::new(6, format!("the token {} is empty: remove it, and a new one is made", path.display())))
        }
        false => Ok(token),
    }
}
