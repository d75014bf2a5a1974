//! Files of a home: read without following links, and JSON repaired where only characters are broken.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::UNIX_EPOCH,
};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::{
    import::{FindingKind, Report},
    model::Timestamp,
};

/// The largest file that is read. Nothing real comes near it; a file is held in memory as a whole.
const LARGEST: u64 = 1 << 30;

/// A file's bytes and the time of its last change.
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
    pub(super) modified: Timestamp,
}

/// A file of the home, by its path from there on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) home: &'a Path,
    pub(super) path: &'a Path,
}

impl Place<'_> {
    pub(super) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The bytes; none, and perhaps a finding, when there are none to have. A file that is not there is no finding.
    pub(super) fn read(&self, report: &mut Report) -> Option<Contents> {
        match self.open() {
            Ok(file) => self.contents(file, report),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                report.add(FindingKind::SymbolicLink, self.shown(), "was not followed");
                None
            }
            Err(error) => self.unreadable(&error, report),
        }
    }

    /// Does not follow a link, and does not wait at a pipe for somebody to write there.
    fn open(&self) -> std::io::Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        OpenOptions::new().read(true).custom_flags(flags).open(self.home.join(self.path))
    }

    fn contents(&self, mut file: File, report: &mut Report) -> Option<Contents> {
        let about = match file.metadata() {
            Ok(about) => about,
            Err(error) => return self.unreadable(&error, report),
        };
        if !about.is_file() {
            report.add(FindingKind::UnknownFile, self.shown(), "is not a regular file and was passed over");
            return None;
        }
        if about.len() > LARGEST {
            report.add(FindingKind::TooLarge, self.shown(), format!("{} bytes; it was not imported", about.len()));
            return None;
        }
        let mut bytes = Vec::new();
        if let Err(error) = file.by_ref().take(LARGEST).read_to_end(&mut bytes) {
            return self.unreadable(&error, report);
        }
        let modified = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let micros = modified.and_then(|age| i64::try_from(age.as_micros()).ok()).unwrap_or(1);
        Some(Contents { bytes, modified: Timestamp(micros.max(1)) })
    }

    fn unreadable<T>(&self, error: &std::io::Error, report: &mut Report) -> Option<T> {
        report.add(FindingKind::Unreadable, self.shown(), format!("cannot be read: {error}"));
        None
    }

    /// The JSON in a file's bytes, repaired if need be; none and a finding when that does not help.
    pub(super) fn json<T: DeserializeOwned>(&self, bytes: &[u8], report: &mut Report) -> Option<T> {
        let error = match serde_json::from_slice(bytes) {
            Ok(json) => return Some(json),
            Err(error) => error,
        };
        match serde_json::from_str(&repaired(bytes)) {
            Ok(json) => {
                let text = format!("characters that are no text were replaced by U+FFFD ({error})");
                report.add(FindingKind::Repaired, self.shown(), text);
                Some(json)
            }
            Err(_) => {
                report.add(FindingKind::InvalidJson, self.shown(), format!("cannot be read as JSON: {error}"));
                None
            }
        }
    }
}

/// The text with U+FFFD for bytes that are no UTF-8 and for halves of surrogate pairs, without a byte order mark.
fn repaired(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut out = String::with_capacity(rest.len());
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (surrogate(rest), surrogate(rest.get(6..).unwrap_or_default())) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(_), _) => {
                out.push('\u{fffd}');
                rest = &rest[6..];
                continue;
            }
            // An escape: the character after the backslash belongs to it, also when it is another backslash.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out + rest
}

/// The surrogate whose escape the text begins with.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_surrogate_pairs_are_replaced_and_whole_ones_stay() {
        let cases = [
            (r#""a\ud800b""#, "a\u{fffd}b"),
            (r#""\udc00\ud83c\udf8b\ud83c""#, "\u{fffd}🎋\u{fffd}"),
            (r#""\\ud800\n""#, "\\ud800\n"),
            (r#""\ud800\ud83c\udf8b""#, "\u{fffd}🎋"),
        ];
        for (json, text) in cases {
            let read = serde_json::from_str::<String>(&repaired(json.as_bytes())).ok();
            assert_eq!(read.as_deref(), Some(text), "{json}");
        }
        assert_eq!(repaired(b"\xef\xbb\xbf\"\xff\""), "\"\u{fffd}\"");
        assert_eq!(repaired(br"\"), r"\");
    }
}
