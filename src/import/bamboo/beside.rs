//! What lies beside a session's file: its attachments and its log of token usage.

use std::{collections::HashSet, path::Path};

use super::{
    file::{Contents, Place},
    store::Target,
    tree::derived,
    walk,
};
use crate::{
    import::{FindingKind, Report},
    model::{AttachmentId, NewAttachment, RawJson, RawObject, SessionId},
    storage,
};

/// Brings the attachments, one at a time.
pub(super) async fn attachments(
    place: Place<'_>,
    session: &SessionId,
    target: Target<'_>,
    report: &mut Report,
) -> storage::Result<()> {
    let mut taken = HashSet::new();
    for (path, kind) in walk::entries(place.home, &place.path.join("attachments"), report) {
        let name = path.file_name().unwrap_or_default();
        if walk::is_temporary(name) {
            walk::temporary(&path, report);
            continue;
        }
        let file = Place { path: &path, ..place };
        if kind.is_dir() {
            report.add(FindingKind::UnknownFile, file.shown(), "is a directory among attachments; it was ignored");
            continue;
        }
        let Some(contents) = file.read(report) else {
            report.attachments.skipped += 1;
            continue;
        };
        let new = attachment(&path, &contents, &mut taken, report);
        match target.attach(session, new, contents.bytes).await? {
            true => report.attachments.added += 1,
            false => report.attachments.present += 1,
        }
    }
    Ok(())
}

/// The id is the file's name up to the last dot, the type is what its ending says, or else its first bytes.
fn attachment(
    path: &Path,
    contents: &Contents,
    taken: &mut HashSet<AttachmentId>,
    report: &mut Report,
) -> NewAttachment {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let created_at = contents.modified;
    let mime_type = mime(path).map(Into::into);
    let problem = match stem.parse::<AttachmentId>() {
        Ok(id) if taken.insert(id.clone()) => return NewAttachment { id, mime_type, filename: None, created_at },
        Ok(_) => (FindingKind::DuplicateId, "is another attachment's id".to_owned()),
        Err(error) => (FindingKind::InvalidId, format!("is no id here: {error}")),
    };
    let id = AttachmentId::stored(derived(&["attachment", &name]));
    report.add(problem.0, path.display().to_string(), format!("'{stem}' {}; it becomes '{id}'", problem.1));
    taken.insert(id.clone());
    let filename = Some(name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect());
    NewAttachment { id, mime_type, filename, created_at }
}

/// None is for the storage to tell by the bytes.
fn mime(path: &Path) -> Option<&'static str> {
    match path.extension().unwrap_or_default().to_string_lossy().to_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "webp" => Some("image/webp"),
        "gif" => Some("image/gif"),
        "bmp" => Some("image/bmp"),
        _ => None,
    }
}

/// Brings the records of token usage: a JSON object a line.
pub(super) async fn usage(
    place: Place<'_>,
    session: &SessionId,
    target: Target<'_>,
    report: &mut Report,
) -> storage::Result<()> {
    let path = place.path.join("token-usage.jsonl");
    let file = Place { path: &path, ..place };
    let Some(contents) = file.read(report) else { return Ok(()) };
    let records = records(file, &contents.bytes, report);
    let count = records.len() as u64;
    let added = target.add_usage(session, records).await?;
    report.usage_records.added += added;
    report.usage_records.present += count - added;
    Ok(())
}

fn records(file: Place<'_>, bytes: &[u8], report: &mut Report) -> Vec<RawObject> {
    let mut records = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        match file.json::<RawJson>(line, report).map(RawObject::try_from) {
            Some(Ok(record)) => {
                records.push(record);
                continue;
            }
            Some(Err(_)) => report.add(FindingKind::UnexpectedValue, file.shown(), "a line is no JSON object"),
            None => {}
        }
        report.usage_records.skipped += 1;
    }
    records
}
