//! Imports: real homes, damaged homes, and what a second import does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

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
        assert_eq!(session.task_list.as_ref().unwrap()["items"].as_array().unwrap().len(), 2);
        assert_eq!(session.token_usage.as_ref().unwrap()["total_tokens"], 2952);
        assert_eq!(session.conversation_summary.as_ref().unwrap()["token_count"], 210);
        assert_eq!(session.token_budget.as_ref().unwrap()["max_output_tokens"], 16384);
        assert_eq!(session.extra["compression_instructions"], "Keep file paths");
        assert_eq!(session.extra["agent_runtime_state"]["run_id"], "run-001");
        assert_eq!(session.extra["compression_events"][0]["latency_ms"], 850);
        assert!(!session.extra.contains_key("_bamboo_main_authority"));
        assert!(session.updated_at.to_string().starts_with("2026-11-21T08:05:59"));
        assert_eq!(session.last_activity_at, session.updated_at);

        let ids: Vec<_> = messages.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(ids, ["m-sys", "m-user-1", "m-asst-1", "m-tool-1", "m-tool-2", "m-asst-2", "m-tool-3", "m-asst-3"]);
        assert_eq!(messages[0].role, Role::System);
        assert_eq!(messages[1].parts.as_ref().unwrap()[1]["image_url"]["detail"], "auto");
        assert_eq!(messages[1].extra["image_ocr"][0]["lines"][0]["text"], "AssertionError");
        assert_eq!(messages[2].tool_calls.as_ref().unwrap()[1]["function"]["name"], "Bash");
        assert_eq!((messages[2].compressed, &messages[2].extra["compression_level"]), (true, &json!(1)));
        assert_eq!(messages[3].metadata.as_ref().unwrap()["elapsed_ms"], 12);
        assert_eq!((messages[4].tool_success, messages[4].tool_call_id.as_deref()), (Some(false), Some("call_bash")));
        assert_eq!(messages[7].extra["never_compress"], true);
        check_child_and_attachment(&setup, version, &messages[1].parts).await;
    }
}

async fn check_child_and_attachment(setup: &Setup, version: &str, parts: &Option<Value>) {
    let verify = setup.load("child-verify").await.session;
    assert_eq!((verify.kind, verify.spawn_depth), (Kind::Child, 1));
    assert_eq!(verify.parent_session_id, "root-7f3a".parse().ok());
    assert_eq!(verify.last_run_status, Some(RunStatus::Error));
    assert_eq!(verify.last_run_error.as_deref(), Some("provider 529 overloaded"));
    assert_eq!((verify.prompt.as_deref(), verify.responsibility.as_deref()), (Some("cargo test"), Some("Run tests")));
    assert_eq!(verify.subagent_type.as_deref(), Some("general-purpose"));

    let url = parts.as_ref().unwrap()[1]["image_url"]["url"].as_str().unwrap();
    let id = url.rsplit('/').next().unwrap();
    let (attachment, bytes) =
        setup.storage.attachment(&"root-7f3a".parse().unwrap(), &id.parse().unwrap()).await.unwrap().unwrap();
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
    let (attachment, _) = setup.storage.attachment(&id, &"new".parse().unwrap()).await.unwrap().unwrap();
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

#[tokio::test]
async fn trees_are_mended() {
    let setup = Setup::new().await;
    setup.index(&["r", "legacy", "deep", "mid", "lost", "x", "y", "self"]);
    setup.session("r", &root("r", json!([])));
    let mut legacy = root("legacy", json!([]));
    legacy["root_session_id"] = "".into();
    setup.session("legacy", &legacy);
    setup.session("r/children/deep", &child("deep", "mid", "r"));
    setup.session("r/children/mid", &child("mid", "r", "r"));
    setup.session("r/children/lost", &child("lost", "nobody", "r"));
    setup.session("r/children/x", &child("x", "y", "r"));
    setup.session("r/children/y", &child("y", "x", "r"));
    setup.session("r/children/self", &child("self", "self", "r"));
    // A child under the id of another root.
    setup.session("r/children/legacy", &child("legacy", "r", "r"));
    let mut wrong = child("wrong", "r", "r");
    wrong["kind"] = "root".into();
    setup.session("r/children/wrong", &wrong);
    let report = setup.import().await;
    assert_eq!(report.sessions, added(10), "{report}");
    let found = |kind| report.found.get(&kind).copied().unwrap_or_default();
    assert_eq!(found(FindingKind::ParentCycle), 2, "{report}");
    assert_eq!(found(FindingKind::DanglingParent), 1, "{report}");
    assert_eq!(found(FindingKind::DuplicateId), 1, "{report}");
    assert_eq!(found(FindingKind::WrongKind), 1, "{report}");
    // The legacy root, and those that became roots with what is below them.
    assert_eq!(found(FindingKind::WrongRoot), 5, "{report}");
    assert_eq!(found(FindingKind::NotInIndex), 1, "{report}");

    let deep = setup.load("deep").await.session;
    assert_eq!((deep.spawn_depth, deep.parent_session_id), (2, "mid".parse().ok()));
    assert_eq!(deep.root_session_id, "r".parse().unwrap());
    let lost = setup.load("lost").await.session;
    assert_eq!((lost.kind, &lost.extra["parent_session_id"]), (Kind::Root, &json!("nobody")));
    assert_eq!(lost.extra["root_session_id"], "r");
    let (x, y) = (setup.load("x").await.session, setup.load("y").await.session);
    assert_eq!((x.kind, y.parent_session_id), (Kind::Root, "x".parse().ok()));
    assert_eq!(setup.load("legacy").await.session.kind, Kind::Root);
    assert_eq!(setup.load("self").await.session.extra["parent_session_id"], "self");
    let wrong = setup.load("wrong").await.session;
    assert_eq!((wrong.kind, &wrong.extra["kind"]), (Kind::Child, &json!("root")));
    assert_eq!(setup.load("r").await.session.children_count, 3);
    assert_eq!(setup.import().await.sessions, present(10));
}

#[tokio::test]
async fn messages_are_given_ids_and_times_once() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    let bare = json!({ "role": "user", "content": "bare" });
    let odd = json!({ "id": "a/b", "role": "oracle", "content": ["x"], "created_at": "soon", "novel": 1 });
    let messages = json!([bare, bare, user("a", "1"), user("a", "1"), user("a", "other"), odd, "no object"]);
    setup.session("s", &root("s", messages));
    let report = setup.import().await;
    assert_eq!(report.messages, Count { added: 5, present: 0, skipped: 2 }, "{report}");
    for kind in [
        FindingKind::IncompleteMessage,
        FindingKind::DuplicateMessage,
        FindingKind::DuplicateId,
        FindingKind::InvalidId,
        FindingKind::InvalidTime,
        FindingKind::UnexpectedValue,
        FindingKind::UnknownKey,
    ] {
        assert!(report.found.contains_key(&kind), "{kind}: {report}");
    }
    let whole = setup.load("s").await;
    assert_eq!(whole.messages[0].created_at, whole.session.created_at);
    assert_ne!(whole.messages[0].id, whole.messages[1].id);
    assert_eq!(whole.messages[3].extra["id"], "a");
    let odd = &whole.messages[4];
    assert_eq!((odd.role, odd.content.as_str()), (Role::User, ""));
    let extra = json!({ "id": "a/b", "role": "oracle", "content": ["x"], "created_at": "soon", "novel": 1 });
    assert_eq!(Value::Object(odd.extra.clone()), extra);
    assert_eq!(whole.session.extra["messages"], json!(["no object"]));
    let again = setup.import().await;
    assert_eq!(again.messages, Count { added: 0, present: 5, skipped: 2 });
}

#[tokio::test]
async fn damaged_files_cost_only_themselves() {
    let setup = Setup::new().await;
    setup.index(&["bad", "good", "half", "bytes", "orphan"]);
    setup.write("sessions/bad/session.json", "{\"id\":\"bad\",\"messages\":[{\"id\":");
    setup.session("bad/children/orphan", &child("orphan", "bad", "bad"));
    setup.session("good", &root("good", json!([user("a", "1")])));
    setup.write("sessions/good/runtime.json", "{\"id\":\"good\",\"title\"");
    setup.write("sessions/good/session.json.tmp.1234", "{");
    setup.write("sessions/good/attachments/a.png.tmp.1234", "x");
    setup.write("sessions.json.tmp.1", "{");
    setup.write("sessions/good/notes.txt", "mine");
    let half =
        root("half", json!([user("a", "HALF")])).to_string().replace("HALF", "a\\ud800b \\\\ud800 \\ud83c\\udf8b");
    setup.write("sessions/half/session.json", half);
    let mut bytes = root("bytes", json!([user("a", "X")])).to_string().into_bytes();
    let at = bytes.iter().position(|byte| *byte == b'X').unwrap();
    bytes[at] = 0xff;
    setup.write("sessions/bytes/session.json", bytes);
    let report = setup.import().await;
    assert_eq!(report.sessions, Count { added: 4, present: 0, skipped: 1 }, "{report}");
    let counts: Vec<_> = report.found.iter().map(|(kind, count)| (*kind, *count)).collect();
    let expected = [
        (FindingKind::InvalidJson, 2),
        (FindingKind::Repaired, 2),
        (FindingKind::TemporaryFile, 3),
        (FindingKind::UnknownFile, 1),
        (FindingKind::DanglingParent, 1),
    ];
    assert_eq!(counts, expected, "{report}");
    assert_eq!(setup.load("half").await.messages[0].content, "a\u{fffd}b \\ud800 🎋");
    assert_eq!(setup.load("bytes").await.messages[0].content, "\u{fffd}");
    assert_eq!(setup.load("orphan").await.session.extra["parent_session_id"], "bad");
}

#[tokio::test]
async fn nothing_foreign_is_lost() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    let mut message = user("a", "x\0y");
    message["content_parts"] = json!([{ "type": "video", "url": "u" }]);
    message["tool_calls"] = json!([{ "id": "c", "function": { "name": "f", "arguments": "{}" } }]);
    let mut session = root("s", json!([message]));
    session["title"] = "in session.json".into();
    session["novel"] = json!({ "nul": "\0" });
    session["reasoning_effort"] = "extreme".into();
    session["model"] = "unknown".into();
    setup.session("s", &session);
    let sidecar = json!({
        "id": "s", "title": "t\0", "kind": "root", "root_session_id": "s", "created_at": TIME, "updated_at": TIME,
        "messages": [], "model": "", "reasoning_effort": "extreme", "todo_list": { "items": [] },
        "metadata": { "text": "1", "number": 2, "last_run_status": "completed", "workspace_path": "/old" },
        "runtime_metadata": { "last_run_status": "timeout", "provider_name": "p", "workspace_path": "/new" },
    });
    setup.write("sessions/s/runtime.json", sidecar.to_string());
    let report = setup.import().await;
    let expected = [
        FindingKind::UnknownKey,
        FindingKind::UnexpectedValue,
        FindingKind::NulCharacter,
        FindingKind::UnexpectedValue,
        FindingKind::NulCharacter,
    ];
    assert_eq!(kinds(&report), expected, "{report}");
    let WholeSession { session, messages, .. } = setup.load("s").await;
    assert_eq!((session.title.as_str(), session.model.as_deref()), ("t\u{fffd}", None));
    assert_eq!(session.extra["title"], "t\0");
    assert_eq!(session.extra["novel"], json!({ "nul": "\0" }));
    assert_eq!(session.extra["reasoning_effort"], "extreme");
    assert_eq!(session.extra["metadata"], json!({ "number": 2 }));
    assert_eq!(session.extra["last_run_status"], "timeout");
    assert_eq!(session.last_run_status, Some(RunStatus::Error));
    assert_eq!((session.provider.as_deref(), session.workspace.as_deref()), (Some("p"), Some("/new")));
    assert_eq!(session.task_list, Some(json!({ "items": [] })));
    assert_eq!(messages[0].content, "x\u{fffd}y");
    assert_eq!(messages[0].extra["content"], "x\0y");
    assert_eq!(messages[0].parts, None);
    assert_eq!(messages[0].extra["content_parts"], json!([{ "type": "video", "url": "u" }]));
    assert_eq!(messages[0].tool_calls.as_ref().unwrap()[0]["type"], "function");
    assert!(messages[0].extra["tool_calls"][0].get("type").is_none());
}

#[tokio::test]
async fn ids_that_are_none_here_are_replaced() {
    let setup = Setup::new().await;
    let long = "x".repeat(200);
    setup.index(&[&long, "truncate", "c"]);
    setup.session(&long, &root(&long, json!([user("a", "1")])));
    setup.session("truncate", &root("truncate", json!([])));
    setup.session("truncate/children/c", &child("c", "truncate", "truncate"));
    setup.write("sessions/truncate/attachments/one.png", "1");
    setup.write("sessions/truncate/attachments/one.jpg", "2");
    let report = setup.import().await;
    assert_eq!((report.sessions, report.attachments), (added(3), added(2)), "{report}");
    assert_eq!(kinds(&report), [FindingKind::InvalidId, FindingKind::InvalidId, FindingKind::DuplicateId]);
    let parent = setup.load("c").await.session.parent_session_id.unwrap();
    assert_eq!(setup.load(parent.as_str()).await.session.extra["id"], "truncate");
    assert_eq!(setup.import().await.sessions, present(3));
}

#[tokio::test]
async fn another_session_under_the_same_id_is_not_mixed_in() {
    let setup = Setup::new().await;
    import(&fixture("2026.5.4"), &setup.storage, false).await;
    let report = import(&fixture("2026.6.18"), &setup.storage, false).await;
    assert_eq!((report.sessions, report.messages), (added(3), added(13)));
    assert_eq!(report.found.get(&FindingKind::DuplicateId), Some(&3));
    let again = import(&fixture("2026.6.18"), &setup.storage, false).await;
    assert_eq!((again.sessions, again.messages), (present(3), present(13)));
}

#[tokio::test]
async fn links_are_not_followed() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    setup.session("s", &root("s", json!([])));
    let elsewhere = setup.dir.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("attachments")).unwrap();
    fs::write(elsewhere.join("session.json"), root("evil", json!([])).to_string()).unwrap();
    fs::write(elsewhere.join("attachments/secret.png"), "x").unwrap();
    let sessions = setup.home().join("sessions");
    std::os::unix::fs::symlink(&elsewhere, sessions.join("evil")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("attachments"), sessions.join("s/attachments")).unwrap();
    let report = setup.import().await;
    assert_eq!((report.sessions, report.attachments), (added(1), added(0)));
    assert!(kinds(&report).iter().all(|kind| *kind == FindingKind::SymbolicLink), "{report}");
}

#[tokio::test]
async fn a_large_session_is_saved_in_slices() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    let text = "bamboo ".repeat(150_000);
    let messages: Vec<_> = (0..9).map(|n| user(&format!("m{n}"), &text)).collect();
    setup.session("s", &root("s", messages.into()));
    // Without the dry runs, which only cost time here.
    let options = ImportOptions::default();
    let report = bamboo::import(&setup.home(), Some(&setup.storage), options, &mut |_, _| {}).await.unwrap();
    assert_eq!(report.messages, added(9));
    let whole = setup.load("s").await;
    assert_eq!(whole.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(whole.session.updated_at.to_string(), TIME);
    let report = bamboo::import(&setup.home(), Some(&setup.storage), options, &mut |_, _| {}).await.unwrap();
    assert_eq!(report.messages, present(9));
}
