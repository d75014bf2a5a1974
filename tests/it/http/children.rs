//! Child sessions over HTTP, with an executor that does what the test tells it.

use culm::{
    model::{NewSession, Role},
    storage::Storage,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Server,
    family::{Family, assignment, task},
};

#[tokio::test]
async fn a_child_is_created_with_its_task_and_runs_on_what_it_takes_over() {
    let family = Family::start().await;
    let created = family.child("child", true).await;
    assert_eq!(created.body["status"], "queued");
    assert_eq!(created.body["model"], "large");
    let run = family.begun().await;
    assert_eq!(created.body["run_id"], run.turn.run_id.as_str());
    assert_eq!(
        (run.turn.model.as_deref(), run.turn.workspace.as_deref()),
        (Some("large"), Some(std::path::Path::new("/work")))
    );
    let roles: Vec<Role> = run.turn.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User]);
    let task = assignment("Title", "Know", "explorer", "Look.\n\nThen tell.");
    assert_eq!(run.turn.messages[1].content, task);
    family.finish(run, "done").await;
    let shown = family.show("child").await;
    for (field, value) in [
        ("title", json!("Title")),
        ("message_count", json!(3)),
        ("is_running", json!(false)),
        ("last_run_status", json!("completed")),
        ("last_run_error", Value::Null),
        ("responsibility", json!("Know")),
        ("subagent_type", json!("explorer")),
        ("prompt", json!("Look.\n\nThen tell.")),
        ("latest_user_message", json!(task)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let session = family.server.get("/sessions/child").await.body["session"].clone();
    assert_eq!(session["parent_session_id"], "parent");
    assert_eq!(session["provider"], "here");
    assert_eq!(session["reasoning_effort"], "high");
    assert_eq!(session["task_list"], json!({ "items": ["one"] }));
    let budget = json!({ "max": 9, "compression_trigger_percent": 70, "compression_target_percent": 35 });
    assert_eq!(session["token_budget"], budget);
}

#[tokio::test]
async fn the_parent_hears_once_that_a_child_began_and_once_that_it_ended() {
    let family = Family::start().await;
    family.child("child", true).await;
    family.finish(family.begun().await, "done").await;
    let told = family.events("parent").await;
    assert_eq!(
        told.iter().filter(|event| event.starts_with("child.")).collect::<Vec<_>>(),
        ["child.started", "child.finished"]
    );
    assert_eq!(
        family.events("child").await,
        [
            "session.created",
            "message.appended",
            "message.appended",
            "session.updated",
            "run.started",
            "message.appended",
            "run.finished"
        ]
    );
}

#[tokio::test]
async fn a_child_that_waits_has_no_run_and_may_have_another_model() {
    let family = Family::start().await;
    let mut body = task("child");
    body["auto_run"] = json!(false);
    body["model"] = json!("small");
    let created = family.server.post("/sessions/parent/children", body.clone()).await;
    assert_eq!(created.body, json!({ "child_session_id": "child", "model": "small", "status": "pending" }));
    assert_eq!(family.server.post("/sessions/parent/children", body.clone()).await.body, created.body);
    assert_eq!(family.show("child").await["last_run_status"], "pending");
    body["prompt"] = json!("Another one.");
    let answer = family.server.post("/sessions/parent/children", body).await;
    assert_eq!(answer.code(), (409, "session_exists"));
}

#[tokio::test]
async fn a_task_that_is_not_whole_is_refused_by_the_name_of_what_is_missing() {
    let family = Family::start().await;
    for field in ["title", "responsibility", "prompt", "subagent_type"] {
        let mut body = task("child");
        body[field] = json!(" \t ");
        let answer = family.server.post("/sessions/parent/children", body).await;
        assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!(field)));
    }
    for (field, value, code) in [
        ("prompt", json!("a\0b"), (422, "invalid_content")),
        ("prompt", json!("x".repeat(5 << 20)), (413, "payload_too_large")),
        ("executor", json!("nobody"), (400, "invalid_request")),
        ("colour", json!("red"), (400, "invalid_request")),
    ] {
        let mut body = task("child");
        body[field] = value;
        assert_eq!(family.server.post("/sessions/parent/children", body).await.code(), code, "{field}");
    }
    let mut body = task("child");
    (body["executor"], body["auto_run"]) = (json!("scripted"), json!(false));
    assert_eq!(family.server.post("/sessions/parent/children", body).await.body["param"], "executor");
    assert_eq!(family.server.get("/sessions/child").await.status, 404);
}

#[tokio::test]
async fn without_an_executor_nothing_is_stored_unless_the_child_is_to_wait() {
    let server = Server::start().await;
    server.session("parent", &[]).await;
    let answer = server.post("/sessions/parent/children", task("child")).await;
    assert_eq!(answer.code(), (503, "executor_unavailable"));
    assert_eq!(server.get("/sessions/child").await.status, 404);
    let mut body = task("child");
    body["auto_run"] = json!(false);
    assert_eq!(server.post("/sessions/parent/children", body).await.status, 201);
    let child = "/sessions/parent/children/child";
    let message = json!({ "message": "more" });
    assert_eq!(server.post(&format!("{child}/messages"), message).await.code(), (503, "executor_unavailable"));
    assert_eq!(server.post(&format!("{child}/run"), json!({})).await.code(), (503, "executor_unavailable"));
    let message = json!({ "message": "more", "auto_run": false });
    assert_eq!(server.post(&format!("{child}/messages"), message).await.status, 202);
    assert_eq!(server.get(child).await.body["message_count"], 3);
    // What is not there is said first.
    for (session, code) in [("other", None), ("gone", Some((410, "session_deleted")))] {
        server.session(session, &[]).await;
        if code.is_some() {
            server.delete(&format!("/sessions/{session}")).await;
        }
    }
    for (parent, child, code) in [
        ("parent", "nobody", (404, "session_not_found")),
        ("nobody", "child", (404, "session_not_found")),
        ("parent", "gone", (410, "session_deleted")),
        ("gone", "child", (410, "session_deleted")),
        ("parent", "other", (409, "not_child_session")),
        ("other", "child", (409, "not_child_of_parent")),
    ] {
        let path = format!("/sessions/{parent}/children/{child}");
        assert_eq!(server.post(&format!("{path}/run"), json!({})).await.code(), code, "{path}");
        let message = json!({ "message": "more", "interrupt_running": true });
        assert_eq!(server.post(&format!("{path}/messages"), message).await.code(), code, "{path}");
    }
    for (parent, code) in [("nobody", (404, "session_not_found")), ("gone", (410, "session_deleted"))] {
        assert_eq!(server.post(&format!("/sessions/{parent}/children"), task("new")).await.code(), code);
    }
}

#[tokio::test]
async fn children_go_as_deep_as_is_configured() {
    for (depth, outcome) in [(1, 409), (2, 201)] {
        let family = Family::to_depth(depth).await;
        family.child("child", false).await;
        let mut body = task("grandchild");
        body["auto_run"] = json!(false);
        let answer = family.server.post("/sessions/child/children", body).await;
        assert_eq!(answer.status, outcome);
        if outcome == 409 {
            assert_eq!(answer.code(), (409, "not_root_session"));
        }
    }
}

#[tokio::test]
async fn only_a_child_of_this_parent_is_reached() {
    let family = Family::start().await;
    family.child("child", false).await;
    family.server.session("other", &[]).await;
    for (parent, child, code) in [
        ("other", "child", (409, "not_child_of_parent")),
        ("parent", "other", (409, "not_child_session")),
        ("parent", "nobody", (404, "session_not_found")),
        ("nobody", "child", (404, "session_not_found")),
    ] {
        let path = format!("/sessions/{parent}/children/{child}");
        assert_eq!(family.server.get(&path).await.code(), code);
        assert_eq!(family.server.patch(&path, json!({ "title": "x" })).await.code(), code);
        assert_eq!(family.server.post(&format!("{path}/run"), json!({})).await.code(), code);
        assert_eq!(family.server.post(&format!("{path}/messages"), json!({ "message": "x" })).await.code(), code);
        assert_eq!(family.server.post(&format!("{path}/cancel"), json!({})).await.code(), code);
        assert_eq!(family.server.delete(&path).await.code(), code);
    }
    let children = family.server.get("/sessions/nobody/children").await;
    assert_eq!(children.code(), (404, "session_not_found"));
    let answer = family.server.post("/sessions/nobody/children", task("orphan")).await;
    assert_eq!(answer.code(), (404, "session_not_found"));
    assert_eq!(family.server.delete("/sessions/other").await.status, 200);
    let answer = family.server.post("/sessions/other/children", task("orphan")).await;
    assert_eq!(answer.code(), (410, "session_deleted"));
}

#[tokio::test]
async fn children_are_listed_page_by_page_newest_first() {
    let family = Family::start().await;
    for id in ["a", "b", "c"] {
        family.child(id, false).await;
    }
    let first = family.server.get("/sessions/parent/children?limit=2").await.body;
    let ids = |page: &Value| {
        let children = page["children"].as_array().unwrap().iter();
        children.map(|child| child["child_session_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids(&first), &first["count"], &first["parent_session_id"]),
        (vec!["c".into(), "b".into()], &json!(2), &json!("parent"))
    );
    let entry = &first["children"][0];
    assert_eq!(
        (&entry["subagent_type"], &entry["last_run_status"], &entry["is_running"]),
        (&json!("explorer"), &json!("pending"), &json!(false))
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = family.server.get(&format!("/sessions/parent/children?limit=2&cursor={cursor}")).await.body;
    assert_eq!((ids(&second), &second["next_cursor"]), (vec!["a".into()], &Value::Null));
}

#[tokio::test]
async fn a_change_of_the_task_rewrites_the_assignment_and_cuts_what_came_after() {
    let family = Family::start().await;
    family.child("child", true).await;
    family.finish(family.begun().await, "done").await;
    let kept = family.patch("child", json!({ "title": "Renamed" })).await.body;
    assert_eq!((&kept["messages_removed"], &kept["last_run_status"]), (&json!(0), &json!("completed")));
    assert!(family.texts("child").await[1].contains("title: Title\n"), "a title alone leaves the assignment");
    let kept = family.patch("child", json!({ "subagent_type": "writer", "reset_after_update": false })).await.body;
    assert_eq!((&kept["messages_removed"], &kept["last_run_status"]), (&json!(0), &json!("pending")));
    let cut = family.patch("child", json!({ "prompt": " Look again. " })).await.body;
    assert_eq!(cut["messages_removed"], 1);
    let texts = family.texts("child").await;
    assert_eq!(texts[1..], [assignment("Renamed", "Know", "writer", "Look again.")]);
    let shown = family.show("child").await;
    assert_eq!((&shown["prompt"], &shown["subagent_type"]), (&json!("Look again."), &json!("writer")));
    let told = family.events("child").await;
    assert_eq!(told[told.len() - 3..], ["session.updated", "message.updated", "messages.truncated"]);
}

#[tokio::test]
async fn a_change_that_says_nothing_or_blanks_something_is_refused() {
    let family = Family::start().await;
    family.child("child", false).await;
    for body in [json!({}), json!({ "reset_after_update": true }), json!({ "title": null }), json!({ "prompt": " " })] {
        assert_eq!(family.patch("child", body).await.code(), (400, "invalid_request"));
    }
    // One that was never assigned anything needs all of it.
    let bare = NewSession {
        id: Some("bare".parse().unwrap()),
        parent: Some("parent".parse().unwrap()),
        ..NewSession::default()
    };
    family.server.repository.create_session(bare, None).await.unwrap();
    let answer = family.patch("bare", json!({ "prompt": "Look." })).await;
    assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!("responsibility")));
    let whole = json!({ "prompt": "Look.", "responsibility": "Know", "subagent_type": "explorer" });
    assert_eq!(family.patch("bare", whole).await.body["messages_removed"], 0);
    assert_eq!(family.texts("bare").await, [assignment("New Session", "Know", "explorer", "Look.")]);
}

#[tokio::test]
async fn a_child_runs_again_from_its_last_user_message() {
    let family = Family::start().await;
    family.child("child", true).await;
    family.finish(family.begun().await, "first").await;
    let again = family.post("child/run", json!({})).await;
    assert_eq!(
        (again.status, &again.body["status"], &again.body["messages_removed"]),
        (StatusCode::ACCEPTED, &json!("queued"), &json!(1))
    );
    let run = family.begun().await;
    assert_eq!(again.body["run_id"], run.turn.run_id.as_str());
    let twice = family.post("child/run", json!({})).await.body;
    assert_eq!((&twice["status"], &twice["run_id"]), (&json!("already_running"), &again.body["run_id"]));
    family.finish(run, "second").await;
    assert_eq!(family.texts("child").await[2..], ["second"]);
    let on = family.post("child/run", json!({ "reset_to_last_user": false })).await.body;
    assert_eq!(on["messages_removed"], 0);
    assert_eq!(family.begun().await.turn.messages.len(), 3);
}

#[tokio::test]
async fn a_child_without_a_user_message_has_nothing_to_run_again() {
    let family = Family::start().await;
    family.child("child", false).await;
    assert_eq!(family.server.post("/sessions/child/clear", json!({})).await.status, 200);
    let answer = family.post("child/run", json!({})).await;
    assert_eq!((answer.code(), &answer.body["param"]), ((400, "invalid_request"), &json!("reset_to_last_user")));
    let runs = family.server.get("/sessions/child/runs").await;
    assert_eq!(runs.body["runs"], json!([]));
}

#[tokio::test]
async fn a_running_child_takes_a_message_only_when_it_is_interrupted() {
    let family = Family::start().await;
    family.child("child", true).await;
    let first = family.begun().await;
    assert_eq!(family.patch("child", json!({ "prompt": "x" })).await.code(), (409, "session_busy"));
    let busy = family.post("child/messages", json!({ "message": "more" })).await;
    assert_eq!(busy.code(), (409, "session_busy"));
    for bad in [json!(" \n "), json!("a\0b")] {
        let body = json!({ "message": bad, "interrupt_running": true });
        assert_eq!(family.post("child/messages", body).await.code(), (400, "invalid_request"));
    }
    assert!(!first.answer.is_closed(), "what cannot be taken interrupts nothing");
    let sent = family.post("child/messages", json!({ "message": " more ", "interrupt_running": true })).await;
    assert_eq!((sent.status, &sent.body["status"]), (StatusCode::ACCEPTED, &json!("queued")));
    assert_eq!((&sent.body["message"], &sent.body["message_count"]), (&json!("more"), &json!(3)));
    let ended = family.server.get(&format!("/runs/{}", first.turn.run_id)).await;
    assert_eq!(ended.body["run"]["status"], "cancelled");
    let second = family.begun().await;
    assert_eq!(second.turn.messages.last().unwrap().content, "more");
    family.finish(second, "done").await;
}

#[tokio::test]
async fn a_message_can_be_left_for_later() {
    let family = Family::start().await;
    family.child("child", true).await;
    family.finish(family.begun().await, "done").await;
    let sent = family.post("child/messages", json!({ "message": "more", "auto_run": false })).await.body;
    assert_eq!((&sent["status"], &sent["auto_run"]), (&json!("pending"), &json!(false)));
    assert_eq!(family.show("child").await["last_run_status"], "pending");
    family.post("child/run", json!({})).await;
    assert_eq!(family.begun().await.turn.messages.last().unwrap().content, "more");
}

#[tokio::test]
async fn a_request_that_is_sent_twice_does_its_work_once() {
    let family = Family::start().await;
    let send = async |path: &str, body: Value| {
        let request = family.server.request(Method::POST, &format!("/sessions/parent/children{path}"));
        family.server.send(request.header("idempotency-key", "once").json(&body)).await
    };
    let mut body = task("child");
    body.as_object_mut().unwrap().remove("id");
    let (first, second) = (send("", body.clone()).await, send("", body.clone()).await);
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(family.server.get("/sessions/parent/children").await.body["count"], 1);
    let child = first.body["child_session_id"].as_str().unwrap();
    let path = format!("/{child}/messages");
    let body = json!({ "message": "more", "interrupt_running": true });
    let (first, second) = (send(&path, body.clone()).await, send(&path, body.clone()).await);
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(family.texts(child).await.len(), 3);
    assert_eq!(family.server.delete(&format!("/sessions/{child}")).await.status, 200);
    assert_eq!(send(&path, body).await.code(), (410, "session_deleted"));
}

#[tokio::test]
async fn cancelling_a_child_stops_its_run_and_it_can_run_again() {
    let family = Family::start().await;
    let created = family.child("child", true).await;
    let run = family.begun().await;
    let cancelled = family.post("child/cancel", json!({})).await;
    assert_eq!(cancelled.body, json!({ "cancelled_run_ids": [created.body["run_id"]] }));
    assert!(run.answer.is_closed());
    assert_eq!(family.show("child").await["last_run_status"], "cancelled");
    assert_eq!(family.post("child/cancel", json!({})).await.body, json!({ "cancelled_run_ids": [] }));
    assert_eq!(family.post("child/run", json!({})).await.body["status"], "queued");
    family.finish(family.begun().await, "done").await;
}

#[tokio::test]
async fn a_deleted_child_stops_and_never_comes_back() {
    let family = Family::start().await;
    family.child("child", true).await;
    let run = family.begun().await;
    let deleted = family.server.delete("/sessions/parent/children/child").await;
    let gone = json!({ "child_session_id": "child", "deleted": true, "cancelled_running_child": true });
    assert_eq!((deleted.status, deleted.body), (StatusCode::OK, gone));
    assert!(run.answer.is_closed());
    assert_eq!(family.server.delete("/sessions/parent/children/child").await.status, 404);
    assert_eq!(family.patch("child", json!({ "title": "x" })).await.code(), (410, "session_deleted"));
    assert_eq!(family.post("child/run", json!({})).await.code(), (410, "session_deleted"));
    let message = json!({ "message": "more", "interrupt_running": true });
    assert_eq!(family.post("child/messages", message).await.code(), (410, "session_deleted"));
    assert_eq!(family.server.post("/sessions/parent/children", task("child")).await.code(), (410, "session_deleted"));
    family.child("idle", false).await;
    let deleted = family.server.delete("/sessions/parent/children/idle").await;
    assert_eq!(deleted.body["cancelled_running_child"], false);
}

#[tokio::test]
async fn cancelling_or_deleting_a_parent_reaches_its_children() {
    let family = Family::start().await;
    family.child("a", true).await;
    let first = family.begun().await;
    family.child("b", true).await;
    let second = family.begun().await;
    let cancelled = family.server.post("/sessions/parent/cancel", json!({})).await.body;
    assert_eq!(cancelled["cancelled_run_ids"].as_array().unwrap().len(), 2);
    assert!(first.answer.is_closed() && second.answer.is_closed());
    family.post("a/run", json!({})).await;
    let third = family.begun().await;
    assert_eq!(family.server.delete("/sessions/parent").await.status, 200);
    assert!(third.answer.is_closed());
    for id in ["parent", "a", "b"] {
        assert_eq!(family.server.get(&format!("/sessions/{id}")).await.status, 404);
    }
}

#[tokio::test]
async fn a_child_that_runs_can_be_renamed_as_a_session() {
    let family = Family::start().await;
    family.child("child", true).await;
    let run = family.begun().await;
    let renamed = family.server.patch("/sessions/child", json!({ "title": "Renamed", "pinned": true })).await;
    assert_eq!(renamed.status, 200);
    family.finish(run, "done").await;
    let shown = family.show("child").await;
    assert_eq!((&shown["title"], &shown["pinned"]), (&json!("Renamed"), &json!(true)));
}

#[tokio::test]
async fn what_is_read_of_a_parent_and_a_child_is_never_the_past() {
    let family = Family::start().await;
    let session = async |id: &str| family.server.get(&format!("/sessions/{id}")).await.body["session"].clone();
    assert_eq!(session("parent").await["children_count"], 0);
    family.child("child", false).await;
    assert_eq!(session("parent").await["children_count"], 1);
    assert_eq!(session("child").await["subagent_type"], "explorer");
    family.patch("child", json!({ "subagent_type": "writer" })).await;
    assert_eq!(session("child").await["subagent_type"], "writer");
    family.post("child/messages", json!({ "message": "more", "auto_run": false })).await;
    assert_eq!(session("child").await["message_count"], 3);
    family.server.delete("/sessions/parent/children/child").await;
    assert_eq!(session("parent").await["children_count"], 0);
}
