//! `culm cleanup`, with no server and beside one.

use std::process::Output;

use serde_json::json;

use crate::cli::{Serving, culm, scratch};

fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8(output.stdout.clone()).unwrap())
}

#[tokio::test]
async fn a_cleanup_runs_by_itself_and_by_a_running_server() {
    let (_folder, db) = scratch();
    let mut server = Serving::start(&mut culm(&db, &[]), &db);
    for (id, title) in [("a", "Nightly one"), ("b", "Nightly two"), ("c", "Design"), ("d", "Draft")] {
        assert_eq!(server.post("/sessions", json!({ "id": id, "title": title })).await.0, 201);
    }
    let run = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["cleanup", "--mode", "all"].iter().chain(arguments).copied().collect();
        culm(&db, &arguments).output().unwrap()
    };
    let url = server.url.clone();
    let dry = run(&["--q", "nightly", "--dry-run", "--url", &url]);
    assert_eq!(told(&dry), (0, "a\nb\n".into()), "{dry:?}");
    let done = run(&["--q", "nightly", "--url", &url]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(told(&done).1.starts_with("2 sessions were deleted"), "{done:?}");
    assert_eq!(server.get("/sessions/a").await.0, 404);
    assert_eq!(server.signal("TERM"), 0);
    // The same with nobody there.
    assert_eq!(told(&run(&["--ids", "d", "--dry-run"])), (0, "d\n".into()));
    assert!(told(&run(&["--ids", "d"])).1.starts_with("1 sessions were deleted"));
    let wrong = run(&["--inactive-before", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let server = Serving::start(&mut culm(&db, &[]), &db);
    let left = server.get("/sessions").await.1;
    assert_eq!((left["sessions"].as_array().unwrap().len(), &left["sessions"][0]["id"]), (1, &json!("c")));
}
