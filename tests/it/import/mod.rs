//! Imports: real homes, damaged homes, and what a second import does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damaged;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use culm::{
    import::{Count, FindingKind, ImportError, Options as ImportOptions, Report, bamboo},
    model::{DeleteOptions, Kind, ReasoningEffort, Role, RunStatus, SessionUpdate, WholeSession},
    storage::{
        Storage,
        sqlite::{Options, SqliteStorage},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

const VERSIONS: [&str; 3] = ["2026.5.4", "2026.6.18", "2026.11.1"];

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bamboo-home").join(version)
}

/// A home to be damaged, and a database beside it.
struct Setup {
    dir: TempDir,
    storage: SqliteStorage,
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqliteStorage::open(&Options::new(dir.path().join("culm.db"))).await.unwrap();
        fs::create_dir_all(dir.path().join("home/sessions")).unwrap();
        Self { dir, storage }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.home().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn session(&self, directory: &str, session: &Value) {
        self.write(&format!("sessions/{directory}/session.json"), session.to_string());
    }

    /// An index of what is on disk, so that it gives no findings.
    fn index(&self, ids: &[&str]) {
        let sessions: BTreeMap<_, _> = ids.iter().map(|id| (id, json!({ "id": id }))).collect();
        self.write("sessions.json", json!({ "version": 2, "sessions": sessions }).to_string());
    }

    async fn import(&self) -> Report {
        import(&self.home(), &self.storage, false).await
    }

    async fn load(&self, id: &str) -> WholeSession {
        self.storage.load_session(&id.parse().unwrap()).await.unwrap().unwrap_or_else(|| panic!("no session {id}"))
    }
}

/// Imports, and holds every import to what is true of all: the dry run before it says the same, the source stays.
async fn import(home: &Path, storage: &SqliteStorage, dry_run: bool) -> Report {
    let before = contents(home);
    let options = ImportOptions { dry_run: true };
    let foretold = bamboo::import(home, Some(storage), options, &mut |_, _| {}).await.unwrap();
    if dry_run {
        return foretold;
    }
    let report = bamboo::import(home, Some(storage), ImportOptions::default(), &mut |_, _| {}).await.unwrap();
    assert_eq!(Report { dry_run: false, ..foretold }, report);
    assert_eq!(contents(home), before, "the source was changed");
    report
}

/// Every file's bytes.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => files.extend(contents(&path)),
            false => drop(files.insert(path.clone(), fs::read(&path).unwrap_or_default())),
        }
    }
    files
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

fn added(added: u64) -> Count {
    Count { added, present: 0, skipped: 0 }
}

fn present(present: u64) -> Count {
    Count { added: 0, present, skipped: 0 }
}

const TIME: &str = "2026-01-02T03:04:05.000001Z";

fn root(id: &str, messages: Value) -> Value {
    json!({
        "id": id, "title": id, "kind": "root", "root_session_id": id, "spawn_depth": 0,
        "messages": messages, "created_at": TIME, "updated_at": TIME,
    })
}

fn child(id: &str, parent: &str, root_id: &str) -> Value {
    let mut child = root(id, json!([]));
    child["kind"] = "child".into();
    child["parent_session_id"] = parent.into();
    child["root_session_id"] = root_id.into();
    child
}

fn user(id: &str, content: &str) -> Value {
    json!({ "id": id, "role": "user", "content": content, "created_at": TIME })
}

#[tokio::test]
async fn every_layout_is_imported_whole() {
    for version in VERSIONS {
        let setup = Setup::new().await;
        let report = import(&fixture(version), &setup.storage, false).await;
        assert_eq!(
            (report.sessions, report.messages, report.attachments, report.usage_records),
            (added(3), added(13), added(1), Count::default()),
            "{version}"
        );
        assert_eq!(report.findings, [], "{version}");

        let WholeSession { session, messages, .. } = setup.load("root-7f3a").await;
        assert_eq!((session.title.as_str(), session.pinned), ("Fix flaky login test", true));
        assert_eq!(
            (session.model.as_deref(), session.provider.as_deref()),
            (Some("claude-sonnet-4-6"), Some("anthropic"))
        );
        assert_eq!(session.model_ref.as_ref().unwrap().provider, "anthropic");
        assert_eq!(session.reasoning_effort, Some(ReasoningEffort::High));
        assert_eq!(session.workspace.as_deref(), Some("/home/repo"));
        assert_eq!(session.last_run_status, Some(RunStatus::Completed));
        assert_eq!(session.metadata.len(), 4);
        assert_eq!(session.children_count, 2);
        assert!(session.has_attachments && session.has_pending_question);
        assert_eq!(json!(session.task_list)["items"].as_array().unwrap().len(), 2);
        assert_eq!(json!(session.token_usage)["total_tokens"], 2952);
        assert_eq!(json!(session.conversation_summary)["token_count"], 210);
        assert_eq!(json!(session.token_budget)["max_output_tokens"], 16384);
        assert_eq!(json!(session.extra)["compression_instructions"], "Keep file paths");
        assert_eq!(json!(session.extra)["agent_runtime_state"]["run_id"], "run-001");
        assert_eq!(json!(session.extra)["compression_events"][0]["latency_ms"], 850);
        assert!(!session.extra.fields().contains_key("_bamboo_main_authority"));
        assert!(session.updated_at.to_string().starts_with("2026-11-21T08:05:59"));
        assert_eq!(session.last_activity_at, session.updated_at);

        let ids: Vec<_> = messages.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(ids, ["m-sys", "m-user-1", "m-asst-1", "m-tool-1", "m-tool-2", "m-asst-2", "m-tool-3", "m-asst-3"]);
        assert_eq!(messages[0].role, Role::System);
        assert_eq!(json!(messages[1].parts)[1]["image_url"]["detail"], "auto");
        assert_eq!(json!(messages[1].extra)["image_ocr"][0]["lines"][0]["text"], "AssertionError");
        assert_eq!(json!(messages[2].tool_calls)[1]["function"]["name"], "Bash");
        assert_eq!((messages[2].compressed, &json!(messages[2].extra)["compression_level"]), (true, &json!(1)));
        assert_eq!(json!(messages[3].metadata)["elapsed_ms"], 12);
        assert_eq!((messages[4].tool_success, messages[4].tool_call_id.as_deref()), (Some(false), Some("call_bash")));
        assert_eq!(json!(messages[7].extra)["never_compress"], true);
        check_child_and_attachment(&setup, version, &json!(messages[1].parts)).await;
    }
}

async fn check_child_and_attachment(setup: &Setup, version: &str, parts: &Value) {
    let verify = setup.load("child-verify").await.session;
    assert_eq!((verify.kind, verify.spawn_depth), (Kind::Child, 1));
    assert_eq!(verify.parent_session_id, "root-7f3a".parse().ok());
    assert_eq!(verify.last_run_status, Some(RunStatus::Error));
    assert_eq!(verify.last_run_error.as_deref(), Some("provider 529 overloaded"));
    assert_eq!((verify.prompt.as_deref(), verify.responsibility.as_deref()), (Some("cargo test"), Some("Run tests")));
    assert_eq!(verify.subagent_type.as_deref(), Some("general-purpose"));

    let url = parts[1]["image_url"]["url"].as_str().unwrap();
    let id = url.rsplit('/').next().unwrap();
    let (attachment, bytes) = crate::support::download(&setup.storage, "root-7f3a", id, 0).await.unwrap();
    let file = fixture(version).join(format!("sessions/root-7f3a/attachments/{id}.png"));
    assert_eq!((attachment.mime_type.as_str(), bytes), ("image/png", fs::read(file).unwrap()));
}

#[tokio::test]
async fn a_second_import_adds_nothing() {
    for version in VERSIONS {
        let setup = Setup::new().await;
        import(&fixture(version), &setup.storage, false).await;
        let before = setup.load("root-7f3a").await;
        let report = import(&fixture(version), &setup.storage, false).await;
        assert_eq!((report.sessions, report.messages, report.attachments), (present(3), present(13), present(1)));
        let after = setup.load("root-7f3a").await;
        assert_eq!((before.session, before.messages), (after.session, after.messages));
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_needs_no_database() {
    let setup = Setup::new().await;
    let home = fixture("2026.6.18");
    let dry = import(&home, &setup.storage, true).await;
    assert!(setup.storage.session(&"root-7f3a".parse().unwrap()).await.unwrap().is_none());
    let mut heard = Vec::new();
    let options = ImportOptions { dry_run: true };
    let without = bamboo::import(&home, None, options, &mut |done, total| heard.push((done, total))).await.unwrap();
    assert_eq!(dry, without);
    assert_eq!(heard, [(0, 3), (1, 3), (2, 3)]);
    assert!(dry.to_string().contains("3 added"), "{dry}");
    let none = bamboo::import(&home, None, ImportOptions::default(), &mut |_, _| {}).await;
    assert!(matches!(none, Err(ImportError::NoStorage)));
    let other = bamboo::import(setup.dir.path(), None, options, &mut |_, _| {}).await;
    assert!(matches!(other, Err(ImportError::NotAHome(_))));
}

#[tokio::test]
async fn a_later_import_adds_what_is_new_and_keeps_what_people_did() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    setup.session("s", &root("s", json!([user("a", "1"), user("b", "2"), user("c", "3")])));
    setup.import().await;
    let id = "s".parse().unwrap();
    setup.storage.delete_message(&id, &"b".parse().unwrap(), None).await.unwrap();
    setup.storage.delete_message(&id, &"c".parse().unwrap(), None).await.unwrap();
    let rename = SessionUpdate { title: Some("Mine".into()), ..SessionUpdate::default() };
    setup.storage.update_session(&id, rename, None).await.unwrap();

    setup.session("s", &root("s", json!([user("a", "1"), user("b", "2"), user("c", "3"), user("d", "4")])));
    setup.write("sessions/s/token-usage.jsonl", "{\"n\":1}\n{\"n\":1}\n\n{broken\n");
    setup.write("sessions/s/attachments/new.bin", b"\x89PNG\r\n\x1a\n");
    let report = setup.import().await;
    assert_eq!(report.messages, Count { added: 1, present: 3, skipped: 0 });
    assert_eq!(report.usage_records, Count { added: 2, present: 0, skipped: 1 });
    assert_eq!(report.attachments, added(1));
    assert_eq!(kinds(&report), [FindingKind::InvalidJson]);
    let whole = setup.load("s").await;
    assert_eq!(whole.messages.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    assert_eq!(whole.session.title, "Mine");
    let attachment = setup.storage.attachment(&id, &"new".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(attachment.mime_type, "image/png");

    let again = setup.import().await;
    assert_eq!((again.messages, again.attachments), (present(4), present(1)));
    assert_eq!(again.usage_records, Count { added: 0, present: 2, skipped: 1 });
}

#[tokio::test]
async fn what_was_deleted_never_comes_back() {
    let setup = Setup::new().await;
    import(&fixture("2026.5.4"), &setup.storage, false).await;
    let id = "root-7f3a".parse().unwrap();
    setup.storage.delete_session(&id, DeleteOptions::default()).await.unwrap();
    let report = import(&fixture("2026.5.4"), &setup.storage, false).await;
    assert_eq!(report.sessions, Count { added: 0, present: 0, skipped: 3 });
    assert_eq!(kinds(&report), [FindingKind::Deleted; 3]);
    assert!(setup.storage.session(&id).await.unwrap().is_none());
}

/// Sessions are saved together, and each of these is met among the others.
#[tokio::test]
async fn among_many_sessions_each_is_what_it_is_alone() {
    let setup = Setup::new().await;
    let ids: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
    setup.index(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for id in ids.iter().step_by(2) {
        setup.session(id, &root(id, json!([user("a", "1")])));
    }
    assert_eq!(setup.import().await.sessions, added(30));
    setup.storage.delete_session(&"s10".parse().unwrap(), DeleteOptions::default()).await.unwrap();
    for id in &ids {
        setup.session(id, &root(id, json!([user("a", "1"), user("b", "2")])));
    }
    setup.session("s10/children/below", &child("below", "s10", "s10"));
    setup.session("s11/children/c", &child("c", "s11", "s11"));
    setup.write("sessions/s12/session.json", "{");
    setup.write("sessions/s13/attachments/a.bin", "1");

    let report = setup.import().await;
    // s10 with what is below it was deleted, and s12 cannot be read.
    assert_eq!(report.sessions, Count { added: 31, present: 28, skipped: 3 }, "{report}");
    assert_eq!(report.messages, Count { added: 30 * 2 + 28, present: 28, skipped: 0 }, "{report}");
    assert_eq!(report.attachments, added(1));
    let place = |finding: &culm::import::Finding| finding.path.clone();
    let deleted = report.findings.iter().filter(|finding| finding.kind == FindingKind::Deleted).map(place);
    assert_eq!(deleted.collect::<Vec<_>>(), ["sessions/s10", "sessions/s10/children/below"]);
    for (id, messages) in [("s9", 2), ("s11", 2), ("s12", 1), ("c", 0)] {
        assert_eq!(setup.load(id).await.session.message_count, messages, "{id}");
    }
    assert_eq!(setup.load("c").await.session.parent_session_id, "s11".parse().ok());
}

/// What goes to the index in small pieces is merged again and again: most of an import's time, when it was so.
#[tokio::test]
async fn sessions_that_are_imported_together_are_one_piece_of_the_index() {
    let setup = Setup::new().await;
    let ids: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
    for id in &ids {
        setup.session(id, &root(id, json!([user("a", "bamboo and reed")])));
    }
    assert_eq!(setup.import().await.messages, added(100));
    let mut shell = crate::support::shell(&setup.dir.path().join("culm.db")).await;
    let pieces = crate::support::number(&mut shell, "select count(distinct segid) from message_index_idx").await;
    assert_eq!(pieces, 1);
    crate::support::assert_sound(&mut shell).await;
}

#[tokio::test]
async fn the_index_is_compared_and_never_believed() {
    let setup = Setup::new().await;
    setup.session("a", &root("a", json!([])));
    setup.session("b", &root("b", json!([])));
    assert_eq!(kinds(&setup.import().await), [FindingKind::NoIndex]);
    setup.write("sessions.json", "{\"version\":2,\"sess");
    assert_eq!(kinds(&setup.import().await), [FindingKind::InvalidJson, FindingKind::NoIndex]);
    let entries = json!({ "a": { "rel_path": "sessions/x" }, "gone": {} });
    setup.write("sessions.json", json!({ "sessions": entries }).to_string());
    let report = setup.import().await;
    let expected = [FindingKind::OtherPlaceInIndex, FindingKind::NotInIndex, FindingKind::OnlyInIndex];
    assert_eq!(kinds(&report), expected);
    assert_eq!(report.sessions, present(2));
    assert!(report.to_string().contains("only in the index: sessions.json: 'gone' is in the index"), "{report}");
}
