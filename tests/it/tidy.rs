//! The project's own rules, kept by reading its files. `DESIGN` says which; each message says what to do.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this ending, and their text; paths are relative to the package.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {folder} ends with {ending}");
    found.sort();
    found
}

/// A source file without its tests and its comments.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Asserts that no source file but the allowed ones holds one of the words. Tests that have a file of their own may.
fn only_in(allowed: &[&str], words: &[&str]) {
    for (name, text) in files("src", "rs").into_iter().filter(|(name, _)| !name.ends_with("/tests.rs")) {
        let found = code(&text).lines().find(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned);
        if let Some(line) = found {
            assert!(allowed.iter().any(|prefix| name.starts_with(prefix)), "{name} is not the place for: {line}");
        }
    }
}

#[test]
fn the_database_is_known_to_storage_only() {
    only_in(&["src/storage/"], &["sqlx", "libsqlite3"]);
}

#[test]
fn sql_is_written_in_storage_only() {
    only_in(&["src/storage/"], &["select ", "insert into ", "delete from ", " set version", "pragma "]);
}

#[test]
fn the_wire_is_known_to_http_only() {
    // The demo model and the demo server are other servers: they speak other wires, and know nothing of Culm's.
    only_in(&["src/http/", "src/main.rs", "src/demo_model.rs", "src/demo_opencode/"], &["axum"]);
}

#[test]
fn tasks_are_spawned_in_one_place_only() {
    only_in(&["src/tasks.rs"], &["tokio::spawn", "task::spawn", "thread::spawn", "JoinSet"]);
}

#[test]
fn the_model_knows_nothing_of_ours() {
    for (name, text) in files("src/model", "rs") {
        let text = code(&text);
        let foreign = text.lines().find(|line| line.contains("crate::") && !line.contains("crate::model"));
        assert_eq!(foreign, None, "{name}");
    }
}

#[test]
fn nothing_is_left_undone_and_nothing_panics_by_surprise() {
    only_in(&[], &["todo!", "unimplemented!", "dbg!", ".unwrap()", ".expect("]);
}

#[test]
fn statements_name_their_columns_and_replace_nothing() {
    for (name, text) in files("src", "rs").into_iter().chain(files("migrations", "sql")) {
        let text = text.to_lowercase();
        for words in ["select *", "insert or replace", "replace into", "on conflict do update"] {
            assert!(!text.contains(words), "{name}: {words}");
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for_and_is_short() {
    for (name, text) in files("src", "rs").into_iter().chain(files("tests/it", "rs")) {
        assert!(text.starts_with("//!"), "{name} opens with //!: what it is for, what it does not know");
        let lines = text.lines().count();
        assert!(lines <= 500, "{name} has {lines} lines: a second decision has moved in");
    }
}

#[test]
fn tests_wait_for_conditions_and_never_for_time() {
    let word = ["sle", "ep("].concat();
    for (name, text) in files("tests", "rs") {
        assert!(!text.contains(&word), "{name}");
    }
}

#[test]
fn migrations_run_in_a_shell_of_version_3_40() {
    let newer =
        ["octet_length", "jsonb", "unistr", "string_agg", "concat(", "concat_ws", "contentless_delete", "timediff"];
    for (name, text) in files("migrations", "sql") {
        let statements: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap()).collect();
        let statements = statements.join("\n").to_lowercase().replace("group_concat(", "");
        for word in newer {
            assert!(!statements.contains(word), "{name}: {word}");
        }
        assert!(text.starts_with("--"), "{name} opens with what it is for");
        assert!(!text.contains('\r'), "{name}: a migration's bytes are its identity");
    }
}

/// What waits for a disk, or reads all of something, in the thread that calls it.
const BLOCKS: [&str; 8] = [
    "fs::read",
    "fs::write",
    "fs::copy",
    "remove_dir_all",
    "create_dir_all",
    "File::open",
    "thread::sleep",
    "found::marked(",
];

/// Async functions of commands that do nothing else beside, and of the start, before anything is served.
const MAY_BLOCK: [&str; 4] = ["src/cli/", "src/main.rs", "src/import/", "src/demo_"];

/// The bodies of a file's async functions and blocks, without what they hand over to the threads that may block.
fn async_code(text: &str) -> String {
    let text = code(text);
    let mut found = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("async ") {
        rest = &rest[at + 6..];
        let is_code = rest.starts_with("fn ") || rest.starts_with("move {") || rest.starts_with('{');
        let Some(open) = rest.find('{').filter(|_| is_code) else { continue };
        found.push_str(&rest[..open + closed(&rest[open..], '{', '}')]);
        found.push('\n');
    }
    for handed_over in ["blocking(", "on_bytes("] {
        while let Some(at) = found.find(handed_over) {
            let open = at + handed_over.len() - 1;
            found.replace_range(at..open + closed(&found[open..], '(', ')'), "");
        }
    }
    found
}

/// Where the first bracket of a text is closed: in code that compiles, strings but rarely hold one alone.
fn closed(text: &str, open: char, close: char) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

#[test]
fn no_worker_of_the_runtime_is_blocked() {
    only_in(&[], &["block_in_place"]);
    let mut wrong = Vec::new();
    for (name, text) in files("src", "rs") {
        if !MAY_BLOCK.iter().any(|prefix| name.starts_with(prefix)) {
            let code = async_code(&text);
            let lines = code.lines().filter(|line| BLOCKS.iter().any(|word| line.contains(word)));
            wrong.extend(
                lines.filter(|line| !line.contains("tokio::fs")).map(|line| format!("{name}: {}", line.trim())),
            );
        }
    }
    assert!(wrong.is_empty(), "goes to tasks::blocking, or tasks::on_bytes:\n{}", wrong.join("\n"));
}
