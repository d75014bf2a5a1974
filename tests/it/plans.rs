//! How every checked query is answered: none reads a table from end to end, or sorts what grows, unless `plans.txt`
//! says why that is bounded. What a plan cannot show (a search that passes over most of what it finds) is counted in
//! `src/storage/sqlite/tests.rs`.

use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use crate::{schema::queries, support::*};

/// What is bounded all the same: a step of a plan, a part of the query's text, and why.
fn bounded() -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/plans.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let parts: Vec<String> = line.split('|').map(|part| part.trim().to_owned()).collect();
            parts.try_into().unwrap_or_else(|_| panic!("not a step, a part of the query and a reason: {line}"))
        })
        .collect()
}

/// A query in one line, without its comments.
fn plain(query: &str) -> String {
    let lines = query.lines().map(|line| line.split("--").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The tables of the schema, apart from those of the search index, which has bounds of its own.
async fn tables(shell: &mut SqliteConnection) -> Vec<String> {
    let sql = "select name from sqlite_schema where type = 'table' and name not like '%\\_index%' escape '\\'";
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(shell).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The name that a step of a plan scans, when it is a table's, or stands for one in the query.
fn scans<'a>(query: &str, step: &'a str, tables: &[String]) -> Option<&'a str> {
    let name = step.strip_prefix("SCAN ")?.split_whitespace().next()?;
    let words: Vec<&str> =
        query.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect();
    let stands_for = |table: &String| {
        name == table
            || words.windows(2).any(|pair| pair == [table, name])
            || words.windows(3).any(|pair| pair == [table, "as", name])
    };
    tables.iter().any(stands_for).then_some(name)
}

#[tokio::test]
async fn no_query_walks_a_table_or_sorts_what_grows() {
    let database = sqlite().await;
    let mut shell = database.shell().await;
    let tables = tables(&mut shell).await;
    let bounded = bounded();
    let (mut found, mut used) = (Vec::new(), vec![false; bounded.len()]);
    for query in queries().iter().map(|query| plain(query)) {
        for statement in
            query.split(';').map(str::trim).filter(|part| !["", "begin immediate", "commit"].contains(part))
        {
            let explain = AssertSqlSafe(format!("explain query plan {statement}"));
            let plan =
                sqlx::query(explain).fetch_all(&mut shell).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            for step in plan.iter().map(|row| row.get::<String, _>(3)) {
                if scans(statement, &step, &tables).is_none() && !step.starts_with("USE TEMP B-TREE") {
                    continue;
                }
                let listed = bounded.iter().position(|[of, part, _]| step.starts_with(of) && query.contains(part));
                match listed {
                    Some(place) => used[place] = true,
                    None => found.push(format!("{step}\n    {statement}")),
                }
            }
        }
    }
    assert!(found.is_empty(), "{} steps may grow with the history:\n{}", found.len(), found.join("\n"));
    let unused: Vec<_> =
        bounded.iter().zip(used).filter(|(_, used)| !used).map(|(listed, _)| listed.join(" | ")).collect();
    assert!(unused.is_empty(), "listed and not found:\n{}", unused.join("\n"));
}
