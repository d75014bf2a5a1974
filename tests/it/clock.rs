//! The server under a system clock that is wrong: a small library in front of it shows another time.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::cli::{Serving, culm, scratch};

/// `clock_gettime` with what a file says added to the real time, in seconds.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
  real = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("CLOCK_OFFSET");
  int file = path ? open(path, O_RDONLY) : -1;
  void *map = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (map != MAP_FAILED) offset = map;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int outcome = real(clock, time);
  if (!outcome && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *offset;
  return outcome;
}
"#;

const YEAR: i64 = 365 * 24 * 3600;

struct WrongClock {
    shim: PathBuf,
    offset: PathBuf,
}

impl WrongClock {
    fn new(folder: &Path) -> Self {
        let (source, shim, offset) = (folder.join("clock.c"), folder.join("clock.so"), folder.join("offset"));
        std::fs::write(&source, SHIM).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        std::fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();
        Self { shim, offset }
    }

    /// What the clock shows from now on: so many seconds more than is true.
    fn is_ahead_by(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&self.offset).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn culm(&self, db: &Path, arguments: &[&str]) -> Command {
        let mut command = culm(db, arguments);
        command.env("LD_PRELOAD", &self.shim).env("CLOCK_OFFSET", &self.offset);
        command
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_moment_leads_no_list() {
    let (folder, db) = scratch();
    let clock = WrongClock::new(folder.path());
    let server = Serving::start(&mut clock.culm(&db, &[]), &db);
    let say = async |session: &str, text: &str| {
        let message = json!({ "messages": [{ "role": "user", "content": text }] });
        assert_eq!(server.post(&format!("/sessions/{session}/messages"), message).await.0, 201);
    };
    for session in ["x", "y"] {
        assert_eq!(server.post("/sessions", json!({ "id": session })).await.0, 201);
    }
    let right = server.get("/sessions/y").await.1["session"]["last_activity_at"].as_str().unwrap()[..4].to_owned();
    clock.is_ahead_by(YEAR);
    say("y", "in a year").await;
    clock.is_ahead_by(0);
    say("x", "the clock is right again").await;
    let first = server.get("/sessions?limit=1").await.1;
    assert_eq!(first["sessions"][0]["id"], "x");
    say("y", "used again").await;
    let again = server.get("/sessions/y").await.1["session"]["last_activity_at"].as_str().unwrap()[..4].to_owned();
    assert_eq!(again, right);
    // A clock that is behind moves nothing: what was in use before it fell is not old.
    let before = server.get("/sessions/x").await.1;
    clock.is_ahead_by(-YEAR);
    say("y", "a year ago").await;
    assert_eq!(server.get("/sessions/x").await.1, before);
}

#[tokio::test]
async fn a_clock_before_1970_or_after_9999_is_refused() {
    let (folder, db) = scratch();
    let clock = WrongClock::new(folder.path());
    let mut server = Serving::start(&mut clock.culm(&db, &[]), &db);
    assert_eq!(server.post("/sessions", json!({ "id": "x" })).await.0, 201);
    for ahead in [-100 * YEAR, 9000 * YEAR] {
        clock.is_ahead_by(ahead);
        let refused = server.post("/sessions", json!({ "id": "y" })).await;
        assert_eq!((refused.0, &refused.1["code"]), (503, &json!("clock_out_of_range")), "{refused:?}");
        assert!(refused.1["detail"].as_str().unwrap().contains("system clock"), "{refused:?}");
        let started = clock.culm(&db, &["serve"]).output().unwrap();
        let said = String::from_utf8(started.stderr).unwrap();
        assert_eq!((started.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains("system clock"), "{said}");
        clock.is_ahead_by(0);
        assert_eq!(server.get("/sessions/y").await.0, 404);
        assert_eq!(server.get("/sessions/x").await.0, 200);
    }
    assert_eq!(server.signal("TERM"), 0);
}
