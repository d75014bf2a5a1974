//! Homes that are not as they should be: what is mended, what is kept, and what is left out.

use super::*;

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
    assert_eq!((lost.kind, &json!(lost.extra)["parent_session_id"]), (Kind::Root, &json!("nobody")));
    assert_eq!(json!(lost.extra)["root_session_id"], "r");
    let (x, y) = (setup.load("x").await.session, setup.load("y").await.session);
    assert_eq!((x.kind, y.parent_session_id), (Kind::Root, "x".parse().ok()));
    assert_eq!(setup.load("legacy").await.session.kind, Kind::Root);
    assert_eq!(json!(setup.load("self").await.session.extra)["parent_session_id"], "self");
    let wrong = setup.load("wrong").await.session;
    assert_eq!((wrong.kind, &json!(wrong.extra)["kind"]), (Kind::Child, &json!("root")));
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
    assert_eq!(json!(whole.messages[3].extra)["id"], "a");
    let odd = &whole.messages[4];
    assert_eq!((odd.role, odd.content.as_str()), (Role::User, ""));
    let extra = json!({ "id": "a/b", "role": "oracle", "content": ["x"], "created_at": "soon", "novel": 1 });
    assert_eq!(json!(odd.extra), extra);
    assert_eq!(json!(whole.session.extra)["messages"], json!(["no object"]));
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
    assert_eq!(json!(setup.load("orphan").await.session.extra)["parent_session_id"], "bad");
}

#[tokio::test]
async fn nothing_foreign_is_lost() {
    let setup = Setup::new().await;
    setup.index(&["s"]);
    let mut message = user("a", "x\0y");
    message["content_parts"] = json!([{ "kind": "video", "url": "u" }]);
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
    assert_eq!(json!(session.extra)["title"], "t\0");
    assert_eq!(json!(session.extra)["novel"], json!({ "nul": "\0" }));
    assert_eq!(json!(session.extra)["reasoning_effort"], "extreme");
    assert_eq!(json!(session.extra)["metadata"], json!({ "number": 2 }));
    assert_eq!(json!(session.extra)["last_run_status"], "timeout");
    assert_eq!(session.last_run_status, Some(RunStatus::Error));
    assert_eq!((session.provider.as_deref(), session.workspace.as_deref()), (Some("p"), Some("/new")));
    assert_eq!(session.task_list, Some(json!({ "items": [] }).into()));
    assert_eq!(messages[0].content, "x\u{fffd}y");
    assert_eq!(json!(messages[0].extra)["content"], "x\0y");
    assert_eq!(messages[0].parts, None);
    assert_eq!(json!(messages[0].extra)["content_parts"], json!([{ "kind": "video", "url": "u" }]));
    assert_eq!(json!(messages[0].tool_calls)[0]["type"], "function");
    assert!(json!(messages[0].extra)["tool_calls"][0].get("type").is_none());
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
    assert_eq!(json!(setup.load(parent.as_str()).await.session.extra)["id"], "truncate");
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
    // Of few words, since words are what takes time.
    let text = format!("{} ", "bamboo".repeat(1000)).repeat(175);
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
