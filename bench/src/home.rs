//! Homes as version 2026.11.1 of Bamboo writes them: a folder for each session, and an index.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use bench_protocol::Texts;
use serde_json::{Value, json};

use crate::Outcome;

/// The session that has as many messages as [`Home::long`] says.
pub(crate) const LONG: &str = "long";
/// The one time of everything.
const TIME: &str = "2026-11-21T08:05:59.902024243Z";

pub(crate) struct Home {
    pub(crate) sessions: usize,
    /// Messages of each.
    pub(crate) messages: usize,
    /// Messages of one more session.
    pub(crate) long: Option<usize>,
}

impl Home {
    pub(crate) fn messages(&self) -> usize {
        self.sessions * self.messages + self.long.unwrap_or(0)
    }

    pub(crate) fn write(&self, home: &Path, texts: &Texts) -> Outcome<()> {
        let _ = fs::remove_dir_all(home);
        fs::create_dir_all(home)?;
        let sessions = (0..self.sessions).map(|n| (format!("session-{n}"), self.messages));
        let sessions = sessions.chain(self.long.map(|messages| (LONG.to_owned(), messages)));
        let (mut index, mut number) = (serde_json::Map::new(), 0);
        for (id, messages) in sessions {
            write_session(home, &id, number..number + messages as u64, texts)?;
            number += messages as u64;
            let entry = entry(&id, messages);
            index.insert(id, entry);
        }
        let index = json!({ "version": 4, "updated_at": TIME, "sessions": index, "rebuild_in_progress": false });
        Ok(fs::write(home.join("sessions.json"), serde_json::to_vec_pretty(&index)?)?)
    }
}

fn entry(id: &str, messages: usize) -> Value {
    json!({
        "id": id, "kind": "root", "rel_path": format!("sessions/{id}"), "title": format!("About {id}"), "title_version": 0,
        "title_generated": false, "pinned": false, "parent_session_id": null, "root_session_id": id, "spawn_depth": 0,
        "model": "some-model", "created_at": TIME, "updated_at": TIME, "last_activity_at": TIME, "message_count": messages,
        "has_attachments": false, "has_pending_question": false, "bypass_permissions": false, "permission_mode": "default"
    })
}

fn write_session(home: &Path, id: &str, numbers: std::ops::Range<u64>, texts: &Texts) -> Outcome<()> {
    let folder = home.join("sessions").join(id);
    fs::create_dir_all(&folder)?;
    let messages = numbers.map(|number| {
        let role = if number % 2 == 0 { "user" } else { "assistant" };
        json!({ "id": format!("m-{number}"), "role": role, "content": texts.of_a_kib(number), "created_at": TIME })
    });
    let whole = session(id, messages.collect());
    // Its first field is apart, and says how many bytes it has.
    let authority = serde_json::to_string(&authority(id))?;
    let bytes = authority.len();
    let rest = serde_json::to_string_pretty(&whole)?;
    let mut file = BufWriter::new(File::create(folder.join("session.json"))?);
    write!(file, r#"{{"_bamboo_main_authority":{{"version":1,"payload_bytes":"{bytes:010}","payload":{authority}}},"#)?;
    file.write_all(&rest.as_bytes()[1..])?;
    file.flush()?;
    Ok(fs::write(folder.join("runtime.json"), serde_json::to_vec_pretty(&session(id, Vec::new()))?)?)
}

fn session(id: &str, messages: Vec<Value>) -> Value {
    json!({
        "id": id, "session_version": 2, "title": format!("About {id}"), "pinned": false, "title_version": 0,
        "title_generated": false, "metadata_version": 0, "kind": "root", "root_session_id": id, "spawn_depth": 0,
        "messages": messages, "created_at": TIME, "updated_at": TIME, "model": "some-model", "metadata": {}
    })
}

fn authority(id: &str) -> Value {
    json!({
        "id": id, "created_at": TIME, "kind": "root", "parent_session_id": null, "root_session_id": id, "spawn_depth": 0,
        "authority_identity": { "kind": "ordinary" }, "metadata_version": 0, "project_id": null,
        "root_orchestration_only": false, "root_tool_authority_revision": 0, "root_mode_transition_epoch": 0,
        "root_mode_operations": [], "supervisor_management": null, "title_label": format!("About {id}")
    })
}
