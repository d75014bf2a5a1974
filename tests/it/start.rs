//! The binary: what a start refuses, in which words, and what does not end a server.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sqlx::{Connection, sqlite::SqliteConnectOptions};

use crate::cli::{Serving, culm, logged, refusal, run, scratch, shell};

fn token_file(db: &Path) -> PathBuf {
    PathBuf::from(format!("{}.token", db.display()))
}

fn served(db: &Path) -> (i32, String) {
    refusal(&run(db, &["serve", "--listen", "127.0.0.1:0"]))
}

#[tokio::test]
async fn a_database_of_another_build_is_called_that_and_left_alone() {
    let other = [
        ("update _sqlx_migrations set checksum = x'00' where version = 5", "its migration 5 is not this build's"),
        (
            "insert into _sqlx_migrations select 9999, description, installed_on, success, checksum, execution_time
             from _sqlx_migrations where version = 5",
            "this build has no migration 9999",
        ),
    ];
    for (sql, words) in other {
        let (_folder, db) = scratch();
        Serving::on(&db).signal("TERM");
        shell(&db, sql);
        let before = std::fs::read(&db).unwrap();
        for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["check"], &["reindex"]] {
            let (code, said) = refusal(&run(&db, command));
            assert_eq!((code, said.contains("another build"), said.contains(words)), (3, true, true), "{said}");
            assert!(!said.contains("damaged"), "{said}");
        }
        assert_eq!(std::fs::read(&db).unwrap(), before, "{sql}");
    }
}

#[tokio::test]
async fn damage_that_shows_after_the_opening_is_refused_as_damage_is() {
    let (_folder, db) = scratch();
    Serving::on(&db).signal("TERM");
    // What settles the runs of a dead process reads it; nothing before that does.
    let page: usize =
        shell(&db, "select rootpage - 1 from sqlite_schema where name = 'runs_by_status'").parse().unwrap();
    let mut bytes = std::fs::read(&db).unwrap();
    bytes[page * 4096..][..4096].fill(0xff);
    std::fs::write(&db, bytes).unwrap();
    // By then the log has a line of its own for it.
    let output = run(&db, &["serve", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert_eq!((output.status.code(), last.contains("restore a backup")), (Some(5), true), "{said}");
}

#[tokio::test]
async fn a_token_that_others_could_know_is_refused_with_what_to_do() {
    let (folder, db) = scratch();
    Serving::on(&db).signal("TERM");
    let file = token_file(&db);
    let token = std::fs::read(&file).unwrap();
    let whole = || {
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, &token).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    };
    let elsewhere = folder.path().join("token");
    std::fs::copy(&file, &elsewhere).unwrap();
    let spoil: [(&str, &dyn Fn()); 6] = [
        ("chmod 600", &|| std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap()),
        ("chmod 600", &|| std::fs::set_permissions(&file, PermissionsExt::from_mode(0o602)).unwrap()),
        ("at least 32", &|| std::fs::write(&file, "short\n").unwrap()),
        ("at least 32", &|| std::fs::write(&file, "").unwrap()),
        ("hard links", &|| std::fs::hard_link(&file, folder.path().join("second")).unwrap()),
        ("symbolic link", &|| {
            std::fs::remove_file(&file).unwrap();
            symlink(&elsewhere, &file).unwrap();
        }),
    ];
    for (words, spoil) in spoil {
        whole();
        spoil();
        for (code, said) in [served(&db), refusal(&run(&db, &["token"]))] {
            assert_eq!((code, said.contains(words)), (6, true), "{words}: {said}");
        }
    }
    whole();
    Serving::on(&db).signal("TERM");
}

#[tokio::test]
async fn a_token_that_changes_under_a_server_is_warned_of_and_the_first_stays_valid() {
    let (_folder, db) = scratch();
    let mut serving = Serving::logging(&mut culm(&db, &[]), &db);
    std::fs::set_permissions(token_file(&db), PermissionsExt::from_mode(0o644)).unwrap();
    logged(&db, "chmod 600").await;
    std::fs::set_permissions(token_file(&db), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(token_file(&db), "another-token-of-more-than-32-characters").unwrap();
    logged(&db, "another token").await;
    assert_eq!(serving.get("/sessions").await.0, 200);
    serving.token = "another-token-of-more-than-32-characters".into();
    assert_eq!(serving.get("/sessions").await.0, 401);
}

#[test]
fn a_token_is_made_for_no_database_that_is_not_there() {
    let (folder, db) = scratch();
    let (code, said) = refusal(&run(&db, &["token"]));
    assert_eq!((code, said.contains("there is no database")), (1, true), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_terminal_that_closes_ends_no_server() {
    let (_folder, db) = scratch();
    let mut serving = Serving::on(&db);
    let hang_up = Command::new("kill").args(["-HUP", &serving.id().to_string()]).status();
    assert!(hang_up.unwrap().success());
    assert_eq!(serving.post("/sessions", json!({ "id": "s" })).await.0, 201);
    assert_eq!(serving.signal("TERM"), 0);
}

#[tokio::test]
async fn a_file_size_limit_is_an_error_of_a_write_and_no_death() {
    let (_folder, db) = scratch();
    Serving::on(&db).signal("TERM");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_culm"), "import", "bamboo"]);
    limited.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboo-home/2026.6.18")).arg("--db").arg(&db);
    let output = limited.env_clear().output().unwrap();
    assert!(output.status.code().is_some_and(|code| code != 0), "{output:?}");
}

#[tokio::test]
async fn below_a_file_size_limit_most_of_it_can_be_used() {
    let (_folder, db) = scratch();
    Serving::on(&db).signal("TERM");
    // Blocks of 512 bytes: 10 MiB.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 20480; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_culm")]);
    limited.args(["serve", "--db"]).arg(&db);
    let server = Serving::start(&mut limited, &db);
    assert_eq!(server.post("/sessions", json!({ "id": "s" })).await.0, 201);
    let text = "x".repeat(256 << 10);
    let mut taken = 0;
    while server.post("/sessions/s/messages", json!({ "messages": [{ "role": "user", "content": text }] })).await.0
        == 201
    {
        taken += 1;
    }
    assert!((16..40).contains(&taken), "{taken} of 40");
    assert_eq!(server.get("/sessions/s").await.1["session"]["message_count"], taken);
}

#[tokio::test]
async fn a_database_that_a_shell_is_writing_is_not_called_another_server_s() {
    let (_folder, db) = scratch();
    Serving::on(&db).signal("TERM");
    let mut writing = sqlx::SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&db)).await.unwrap();
    sqlx::raw_sql("begin immediate").execute(&mut writing).await.unwrap();
    let (code, said) = served(&db);
    assert_eq!((code, said.contains("another process, a shell perhaps")), (7, true), "{said}");
}
